"""Demonstrations: whose, from which checkpoint, from which battles; one file of plain arrays and a card.

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
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from dm2core.checkpoint import load_tensors, sha256_file, write_atomic
from dm2core.config import CellConfig, Config, DemoSet, parse_demos_id
from dm2core.discriminator import Episodes
from dm2core.env.vector import make_env
from dm2core.errors import DataError
from dm2core.evaluate import evaluate
from dm2core.nets import load_actor, mix_agents
from dm2core.rng import battle_keys
from dm2core.rollout import collect
from dm2core.types import EnvSpec

BATTLES = 250  # played side by side
MAX_ROWS = 10**8  # rows of one agent a file may claim to hold


@dataclass(frozen=True)
class AgentDemos:
    """One agent's K episodes, rows end to end; an episode of T steps has T+1 rows, the last its final observation."""

    obs: NDArray[np.float32]  # [R, O]
    actions: NDArray[np.int64]  # [R]; the last of an episode was never executed
    lengths: NDArray[np.int64]  # [K] steps T
    won: NDArray[np.bool_]  # [K]
    episode_return: NDArray[np.float32]  # [K]
    battle: NDArray[np.int64]  # [K] number of the battle it comes from


@dataclass(frozen=True)
class Demos:
    """A demonstration set as read back."""

    map_name: str
    demos_id: str
    sha256: str
    agents: tuple[AgentDemos, ...]


@dataclass(frozen=True)
class Expert:
    """One expert run's chosen checkpoint."""

    folder: Path
    seed: int
    env_steps: int
    tensors: dict[str, Tensor]
    digest: str
    sha256: str  # of its checkpoints file


FIELDS = ("obs", "actions", "lengths", "won", "episode_return", "battle")


def choose_checkpoint(win_rates: Sequence[tuple[int, float]], demos: DemoSet) -> int:
    """Env steps of the chosen checkpoint among (env_steps, sampled win rate); ties go to the later one."""
    steps = demos.target_env_steps
    if steps is not None:
        return min(win_rates, key=lambda row: (abs(row[0] - steps), -row[0]))[0]
    target = demos.target_win_rate
    assert target is not None
    return min(win_rates, key=lambda row: (abs(row[1] - target), -row[0]))[0]


def load_expert(folder: Path, map_name: str, demos: DemoSet) -> Expert:
    """Choose and read one expert's checkpoint; DataError if the run is not what the set asks for."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        sha256, config = manifest["outputs"]["checkpoints.safetensors"], manifest["config"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: not a finished expert run ({error}); train it with --expert") from None
    if (config["map_name"], config["method"]) != (map_name, demos.expert):
        found = f"{config['method']} on {config['map_name']}"
        raise DataError(f"{folder}: holds {found}, but {demos.expert} on {map_name} is needed")
    table = pq.read_table(folder / "metrics.parquet").to_pylist()
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
    episodes, seed = config.demos.episodes, config.eval_seed
    strangers = None if demos.joint else mix_agents([team.tensors for team in teams])
    if demos.joint:
        pool = _play(
            teams[0].tensors,
            map_name,
            seed,
            f"demos/team{teams[0].seed}",
            0,
            _pool(demos, episodes, n_agents),
        )
        agents = [_agent(pool, i, 0 if demos.concurrent else i * episodes, episodes) for i in range(n_agents)]
    elif demos.concurrent:
        assert strangers is not None
        role = "demos/strangers" + "-".join(str(team.seed) for team in teams)
        pool = _play(strangers, map_name, seed, role, 0, episodes)
        agents = [_agent(pool, i, 0, episodes) for i in range(n_agents)]
    else:
        agents = []
        for i, team in enumerate(teams):
            own = _play(team.tensors, map_name, seed, f"demos/team{team.seed}", i * episodes, episodes)
            agents.append(_agent(own, i, 0, episodes, first=i * episodes))
    data = _pack(agents)
    card: dict[str, Any] = {
        "map": map_name,
        "demos_id": demos_id,
        "episodes_per_agent": episodes,
        "teams": [_team_card(team, map_name, config) for team in teams],
        "strangers": _rates(strangers, map_name, config)
        if strangers is not None and demos.concurrent
        else None,
        "win_rate": None,  # of whoever played the demonstrations, as they played; filled in below
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
    played_by = [card["strangers"]] if card["strangers"] is not None else card["teams"]
    rates = [team["win_rate_sampled"] for team in played_by]
    card["win_rate"] = rates if len(rates) > 1 else rates[0]
    write_atomic(out / "demos.npz", data)
    write_atomic(out / "card.md", _card_text(card).encode())
    write_atomic(out / "card.json", (json.dumps(card, indent=2) + "\n").encode())


def load_demos(path: Path, cell: CellConfig | None = None, spec: EnvSpec | None = None) -> Demos:
    """Read a set (its folder or demos.npz), checked against its card and, if given, against the cell's map."""
    folder = path.parent if path.suffix == ".npz" else path
    card = read_card(folder)
    file = folder / "demos.npz"
    if sha256_file(file) != card["sha256"]:
        raise DataError(
            f"{file}: its SHA-256 is not the card's, so it is damaged or changed; sample it again"
        )
    try:
        with np.load(file, allow_pickle=False) as arrays:
            count = sum(name.endswith("/obs") for name in arrays.files)
            agents = tuple(AgentDemos(*(arrays[f"agent{i}/{name}"] for name in FIELDS)) for i in range(count))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: not a demonstration file ({str(error).splitlines()[0]})") from None
    if spec is not None:
        wanted = (spec.map_name, spec.n_agents, spec.obs_size)
        found = (card["map"], len(agents), agents[0].obs.shape[1] if agents else 0)
        if wanted != found:
            raise DataError(f"{file}: (map, agents, obs size) is {found}, the cell needs {wanted}")
    if cell is not None and len(agents[0].lengths) < cell.discriminator.episodes_per_step:
        have, need = len(agents[0].lengths), cell.discriminator.episodes_per_step
        raise DataError(f"{file}: {have} episodes per agent, but discriminator.episodes_per_step is {need}")
    return Demos(card["map"], card["demos_id"], card["sha256"], agents)


def read_card(folder: Path) -> dict[str, Any]:
    """card.json of a demonstration set; DataError if it is missing or incomplete."""
    path = folder / "card.json"
    try:
        card = json.loads(path.read_text())
        _ = card["map"], card["demos_id"], card["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a demonstration card ({error})") from None
    return dict(card)


def expert_episodes(demos: Demos, dtype: torch.dtype, *, terminal_row: bool) -> Episodes:
    """The set as discriminators read it; without the terminal row (D30) each episode's last row is left out."""
    obs = torch.from_numpy(np.concatenate([a.obs for a in demos.agents])).to(dtype)
    first = np.cumsum([0] + [len(a.obs) for a in demos.agents])
    start = np.stack(
        [first[i] + np.cumsum(a.lengths + 1) - (a.lengths + 1) for i, a in enumerate(demos.agents)]
    )
    length = np.stack([a.lengths + int(terminal_row) for a in demos.agents])
    return Episodes(torch.cat([obs, obs.new_zeros(1, obs.shape[1])]), start, length)


def _pool(demos: DemoSet, episodes: int, n_agents: int) -> int:
    return episodes if demos.concurrent else episodes * n_agents


@dataclass(frozen=True)
class _Played:
    """Episodes of a whole team: per agent ragged rows."""

    obs: list[NDArray[np.float32]]  # per episode [T+1, N, O]
    actions: list[NDArray[np.int64]]  # per episode [T+1, N]
    won: NDArray[np.bool_]
    episode_return: NDArray[np.float32]


def _play(tensors: dict[str, Tensor], map_name: str, seed: int, role: str, first: int, count: int) -> _Played:
    """Battles first..first+count-1 of one stream, actions sampled."""
    actor = load_actor(tensors)
    obs, actions, won, returns = [], [], [], []
    for at in range(first, first + count, BATTLES):
        size = min(BATTLES, first + count - at)
        rollout = collect(make_env(map_name, size), actor, None, battle_keys(seed, role, at, size))
        for b, steps in enumerate(rollout.lengths.tolist()):
            obs.append(rollout.obs[: steps + 1, b].numpy().copy())
            actions.append(rollout.actions[: steps + 1, b].numpy().copy())
        won.append(rollout.won.numpy())
        returns.append(rollout.episode_return.numpy())
    return _Played(obs, actions, np.concatenate(won), np.concatenate(returns))


def _agent(played: _Played, agent: int, start: int, count: int, first: int = 0) -> AgentDemos:
    part = slice(start, start + count)
    return AgentDemos(
        obs=np.concatenate([o[:, agent] for o in played.obs[part]]),
        actions=np.concatenate([a[:, agent] for a in played.actions[part]]),
        lengths=np.array([len(o) - 1 for o in played.obs[part]], dtype=np.int64),
        won=played.won[part],
        episode_return=played.episode_return[part],
        battle=np.arange(first + start, first + start + count),
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
            actor, map_name, config.demos.card_episodes, config.eval_seed, greedy=greedy, role="card"
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
