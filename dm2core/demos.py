"""Making demonstrations: whose, from which checkpoint, from which battles; and the card that says so.

The four sets of the paper's Fig. 3 in data terms (its appendix B and the released data paths), K episodes per agent:

    joint-concurrent     the same K battles of one co-trained team for every agent
    joint-nonconcurrent  agent i gets battles iK..iK+K-1 of that team
    indep-concurrent     agent i of team i: strangers play together, the same K battles for every agent
    indep-nonconcurrent  agent i gets battles iK..iK+K-1 of team i, played with its own team-mates

Battles are played afresh from a checkpoint, actions sampled (D13: the released ones are the tail of training).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch import Tensor

from dm2core.checkpoint import load_tensors, read_file, write_atomic
from dm2core.config import Config, DemoSet, parse_demos_id
from dm2core.demonstrations import FIELDS, AgentDemos
from dm2core.env.vector import make_env
from dm2core.errors import DataError
from dm2core.evaluate import evaluate
from dm2core.nets import load_actor, mix_agents
from dm2core.rng import battle_keys
from dm2core.rollout import collect

BATTLES = 250  # played side by side


@dataclass(frozen=True)
class Expert:
    """One expert run's chosen checkpoint."""

    folder: Path
    seed: int
    env_steps: int
    tensors: dict[str, Tensor]
    digest: str
    sha256: str  # of its checkpoints file


def choose_checkpoint(win_rates: Sequence[tuple[int, float]], demos: DemoSet) -> int:
    """Env steps of the chosen checkpoint among (env_steps, sampled win rate); ties go to the later one."""
    steps = demos.target_env_steps
    if steps is not None:
        return min(win_rates, key=lambda row: (abs(row[0] - steps), -row[0]))[0]
    target = demos.target_win_rate
    assert target is not None
    return min(win_rates, key=lambda row: (round(abs(row[1] - target), 9), -row[0]))[0]  # 0.45 and 0.55 tie


def load_expert(folder: Path, map_name: str, demos: DemoSet) -> Expert:
    """Choose and read one expert's checkpoint; DataError if the run is not what the set asks for."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        hashes, config = manifest["outputs"], manifest["config"]
        sha256, metrics_sha256 = hashes["checkpoints.safetensors"], hashes["metrics.parquet"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: not a finished expert run ({error}); train it with --expert") from None
    if (config["map_name"], config["method"]) != (map_name, demos.expert):
        found = f"{config['method']} on {config['map_name']}"
        raise DataError(f"{folder}: holds {found}, but {demos.expert} on {map_name} is needed")
    metrics = read_file(folder / "metrics.parquet", metrics_sha256)
    table = pq.read_table(pa.BufferReader(metrics)).to_pylist()
    rates = [(row["env_steps"], row["value"]) for row in table if row["key"] == "eval_sampled/win_rate"]
    env_steps = choose_checkpoint(rates, demos)
    prefix = f"{env_steps:010d}/"
    every = load_tensors(folder / "checkpoints.safetensors", sha256)
    tensors = {key[len(prefix) :]: value for key, value in every.items() if key.startswith(prefix)}
    return Expert(folder, config["seed"], env_steps, tensors, manifest["digest"], sha256)


def make_demos(config: Config, map_name: str, demos_id: str, folders: Sequence[Path], out: Path) -> None:
    """Sample one demonstration set into `out`: demos.npz, card.json, card.md (the card last)."""
    demos = parse_demos_id(demos_id)
    n_agents = make_env(map_name, 1).spec.n_agents
    needed = 1 if demos.joint else n_agents
    if len(folders) < needed:
        raise DataError(f"{demos_id} on {map_name} needs {needed} expert runs, got {len(folders)}")
    teams = [load_expert(folder, map_name, demos) for folder in folders[:needed]]
    if len({team.digest for team in teams}) < len(teams):
        seeds = [team.seed for team in teams]
        raise DataError(f"{demos_id} needs a different team for every agent, got the runs of seeds {seeds}")
    strangers = None
    if not demos.joint and demos.concurrent:
        strangers = mix_agents([team.tensors for team in teams])
    agents = _sample(demos, teams, strangers, map_name, config, n_agents)
    data = _pack(agents)
    played = _who_played(teams, strangers, map_name, config)
    card = _card(map_name, demos_id, config, played, agents, data)
    write_atomic(out / "demos.npz", data)
    write_atomic(out / "card.md", _card_text(card).encode())
    write_atomic(out / "card.json", (json.dumps(card, indent=2) + "\n").encode())


def _sample(
    demos: DemoSet,
    teams: Sequence[Expert],
    strangers: dict[str, Tensor] | None,
    map_name: str,
    config: Config,
    n_agents: int,
) -> list[AgentDemos]:
    """Each agent's episodes, as the table above says; one block of battles is in memory at a time."""
    count, seed, compute = config.demos.episodes, config.eval_seed, config.resolved_compute()
    if demos.concurrent:
        tensors, role = teams[0].tensors, f"demos/team{teams[0].seed}"
        if strangers is not None:
            tensors, role = strangers, "demos/strangers" + "-".join(str(team.seed) for team in teams)
        played = _play(tensors, map_name, seed, role, 0, count, compute)
        return [_agent(played, i, 0) for i in range(n_agents)]
    agents = []
    for i in range(n_agents):
        team = teams[0] if demos.joint else teams[i]
        own = _play(team.tensors, map_name, seed, f"demos/team{team.seed}", i * count, count, compute)
        agents.append(_agent(own, i, i * count))
    return agents


@dataclass(frozen=True)
class _Played:
    """Episodes of a whole team: per agent ragged rows."""

    obs: list[NDArray[np.float32]]  # per episode [T+1, N, O]
    actions: list[NDArray[np.int64]]  # per episode [T+1, N]
    won: NDArray[np.bool_]
    episode_return: NDArray[np.float32]


def _play(
    tensors: dict[str, Tensor], map_name: str, seed: int, role: str, first: int, count: int, compute: str
) -> _Played:
    """Battles first..first+count-1 of one stream, actions sampled."""
    actor = load_actor(tensors)
    obs, actions, won, returns = [], [], [], []
    for at in range(first, first + count, BATTLES):
        size = min(BATTLES, first + count - at)
        keys = battle_keys(seed, role, at, size)
        rollout = collect(make_env(map_name, size), actor, None, keys, compute=compute)
        for b, steps in enumerate(rollout.lengths.tolist()):
            obs.append(rollout.obs[: steps + 1, b].numpy().copy())
            actions.append(rollout.actions[: steps + 1, b].numpy().copy())
        won.append(rollout.won.numpy())
        returns.append(rollout.episode_return.numpy())
    return _Played(obs, actions, np.concatenate(won), np.concatenate(returns))


def _agent(played: _Played, agent: int, first: int) -> AgentDemos:
    """One agent's view of battles first, first + 1, ..."""
    return AgentDemos(
        obs=np.concatenate([o[:, agent] for o in played.obs]),
        actions=np.concatenate([a[:, agent] for a in played.actions]),
        lengths=np.array([len(o) - 1 for o in played.obs], dtype=np.int64),
        won=played.won,
        episode_return=played.episode_return,
        battle=np.arange(first, first + len(played.obs)),
    )


def _pack(agents: Sequence[AgentDemos]) -> bytes:
    arrays = {f"agent{i}/{name}": getattr(a, name) for i, a in enumerate(agents) for name in FIELDS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _rates(tensors: dict[str, Tensor], map_name: str, config: Config) -> dict[str, float]:
    """Win rates on battles of their own: not those that chose the checkpoint, not the demonstrations'."""
    actor = load_actor(tensors)

    def rate(*, greedy: bool) -> dict[str, float]:
        return evaluate(
            actor,
            map_name,
            config.demos.card_episodes,
            config.eval_seed,
            greedy=greedy,
            role="card",
            compute=config.resolved_compute(),
        )

    sampled = rate(greedy=False)
    return {
        "win_rate_sampled": sampled["win_rate"],
        "win_rate_greedy": rate(greedy=True)["win_rate"],
        "timeout_rate_sampled": sampled["timeout_rate"],
        "battles": config.demos.card_episodes,
    }


def _team_card(team: Expert, map_name: str, config: Config) -> dict[str, Any]:
    source = {"seed": team.seed, "env_steps": team.env_steps, "digest": team.digest, "sha256": team.sha256}
    return source | _rates(team.tensors, map_name, config)


def _who_played(
    teams: Sequence[Expert], strangers: dict[str, Tensor] | None, map_name: str, config: Config
) -> dict[str, Any]:
    cards = [_team_card(team, map_name, config) for team in teams]
    mixed = None if strangers is None else _rates(strangers, map_name, config)
    rates = [card["win_rate_sampled"] for card in (cards if mixed is None else [mixed])]
    # win_rate: of whoever played the demonstrations, as they played; one number, or one per team
    return {"teams": cards, "strangers": mixed, "win_rate": rates if len(rates) > 1 else rates[0]}


def _card(
    map_name: str,
    demos_id: str,
    config: Config,
    played: dict[str, Any],
    agents: Sequence[AgentDemos],
    data: bytes,
) -> dict[str, Any]:
    return {
        "map": map_name,
        "demos_id": demos_id,
        "episodes_per_agent": config.demos.episodes,
        **played,
        "agents": [
            {
                "win_rate": float(a.won.mean()),
                "episode_return": float(a.episode_return.mean()),
                "episode_length": float(a.lengths.mean()),
                "rows": len(a.obs),
                "battles": [int(a.battle[0]), int(a.battle[-1])],
            }
            for a in agents
        ],
        "obs_size": int(agents[0].obs.shape[1]),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _card_text(card: dict[str, Any]) -> str:
    lines = [
        f"# {card['demos_id']} on {card['map']}",
        "",
        f"{card['episodes_per_agent']} episodes per agent, {card['obs_size']} numbers an observation, actions sampled.",
        "",
        "| who plays | checkpoint (env steps) | win rate, sampled | win rate, greedy | battles |",
        "|---|---|---|---|---|",
    ]
    rows = [(f"team of seed {t['seed']}", f"{t['env_steps']:,}", t) for t in card["teams"]]
    if card["strangers"] is not None:
        rows.append(("strangers: agent i of team i", "", card["strangers"]))
    for who, steps, t in rows:
        lines.append(
            f"| {who} | {steps} | {t['win_rate_sampled']:.3f} | {t['win_rate_greedy']:.3f} | {t['battles']} |"
        )
    lines += ["", "| agent | battles | won | return | length |", "|---|---|---|---|---|"]
    for i, a in enumerate(card["agents"]):
        span = f"{a['battles'][0]}-{a['battles'][1]}"
        lines.append(
            f"| {i} | {span} | {a['win_rate']:.3f} | {a['episode_return']:.2f} | {a['episode_length']:.1f} |"
        )
    return "\n".join([*lines, "", f"SHA-256 {card['sha256']}", ""])
