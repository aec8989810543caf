"""Making demonstrations: whose, from which checkpoint, from which battles; and the card that says so.

The four sets of the paper's Fig. 3 in data terms (its appendix B and the released data paths), K episodes per agent:

    joint-concurrent     the same K battles of one co-trained team for every agent
    joint-nonconcurrent  agent i gets battles iK..iK+K-1 of that team
    indep-concurrent     agent i of team i: strangers play together, the same K battles for every agent
    indep-nonconcurrent  agent i gets battles iK..iK+K-1 of team i, played with its own team-mates

Battles are played afresh from a checkpoint, actions sampled (D13: the released ones are the tail of training); QMIX
teams play greedily, with a share of random actions if the set asks for it.

Two controls: `random_...` is played by nobody's team, uniformly over the available actions; `...-shuffled` is the
joint-concurrent set with every number of an observation drawn from another row, so that each keeps its values and
nothing of how they go together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch import Tensor

from dm2core.config import Config, DemoSet, dump_config, parse_demos_id
from dm2core.demonstrations import AgentDemos, pack_arrays, read_card
from dm2core.env.scenario import known_maps, user_map_sha256
from dm2core.env.vector import make_env, map_spec
from dm2core.errors import DataError
from dm2core.evaluate import evaluate
from dm2core.methods import METHODS
from dm2core.nets import Actor, Policy, mix_agents
from dm2core.played import BATTLES, Played, episode_returns, fight_again, pack_battles, views
from dm2core.policies import load_policy
from dm2core.records.checkpoint import load_tensors, read_file
from dm2core.records.files import write_atomic
from dm2core.records.manifest import Job, Manifest, hash_file, read_manifest
from dm2core.records.numerics import numerics_key
from dm2core.rng import battle_keys, stream
from dm2core.rollout import collect, compute_for
from dm2core.strict import unknown


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
    """Env steps of the chosen checkpoint among (env_steps, win rate as demonstrations are played); ties: the later."""
    if demos.select.startswith("e"):
        return max(win_rates)[0]
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
    if config.get("map_sha256", "") != user_map_sha256(map_name):
        raise DataError(f"{folder}: trained on another version of {map_name}; train it again")
    metrics = read_file(folder / "metrics.parquet", metrics_sha256)
    table = pq.ParquetFile(pa.BufferReader(metrics)).read().to_pylist()  # read_table would import pandas
    kept = "eval/win_rate" if demos.select.startswith("e") else "eval_sampled/win_rate"
    rates = [(row["env_steps"], row["value"]) for row in table if row["key"] == kept]
    env_steps = choose_checkpoint(rates, demos)
    prefix = f"{env_steps:010d}/"
    every = load_tensors(folder / "checkpoints.safetensors", sha256)
    tensors = {key[len(prefix) :]: value for key, value in every.items() if key.startswith(prefix)}
    return Expert(folder, config["seed"], env_steps, tensors, manifest["digest"], sha256)


def make_demos(config: Config, map_name: str, demos_id: str, folders: Sequence[Path], out: Path) -> None:
    """Sample one demonstration set into `out`: demos.npz, card.md, card.json and their manifest, which is last."""
    sampling = Sampling(config, map_name, parse_demos_id(demos_id))
    text = dump_config(config).encode()
    names = ("checkpoints.safetensors", "metrics.parquet", "manifest.json")
    job = Job(
        "demonstrations",
        hashlib.sha256(text).hexdigest(),
        [folder / name for folder in folders for name in names],
        seeds=[config.eval_seed],
        numerics=numerics_key(),
    )
    teams = _teams(sampling, demos_id, folders)
    strangers = None
    if not sampling.demos.joint and sampling.demos.concurrent:
        strangers = mix_agents([team.tensors for team in teams])
    plays = _sample(sampling, teams, strangers)
    agents = _agents(sampling.demos, plays, config.eval_seed)
    data = pack_arrays(agents)
    card = _card(demos_id, sampling, _who_played(sampling, teams, strangers), agents, data)
    made = ["demos.npz", "card.json", "card.md"]
    if config.games is None:  # the real game's battles cannot be fought again
        made.append("battles.npz")
        write_atomic(out / "battles.npz", pack_battles(plays))
    write_atomic(out / "demos.npz", data)
    write_atomic(out / "card.md", _card_text(card).encode())
    write_atomic(out / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    job.finish(out / "manifest.json", [out / name for name in made])


def recall_demos(folder: Path) -> bool:
    """demos.npz of a set from its battles.npz, the same bytes as its card says; False if it was there.

    DataError if the set keeps no battles, or they are damaged or another simulator's; nothing is written then.
    """
    card, file = read_card(folder), folder / "demos.npz"
    if file.exists() and hash_file(file) == card["sha256"]:
        _as_old_as_its_card(folder)
        return False
    if card["map"] not in known_maps():
        raise DataError(
            f"{folder}: {unknown('map', card['map'], known_maps())}; one of your own comes with --maps-file"
        )
    manifest = read_manifest(folder / "manifest.json")
    if "battles.npz" not in manifest.outputs:
        raise DataError(f"{folder}: keeps no battles to fight again; sample the set from its experts")
    battles = folder / "battles.npz"
    read_file(battles, manifest.outputs["battles.npz"])
    assert isinstance(manifest, Manifest)
    plays = fight_again(battles, card["map"])
    data = pack_arrays(_agents(parse_demos_id(card["demos_id"]), plays, manifest.seeds[0]))
    if hashlib.sha256(data).hexdigest() != card["sha256"]:
        raise DataError(
            f"{battles}: fought again, the battles are not the card's: another version of the simulator, or of zlib; "
            "sample the set from its experts"
        )
    write_atomic(file, data)
    _as_old_as_its_card(folder)
    return True


def _as_old_as_its_card(folder: Path) -> None:
    """Of recalled demonstrations: nothing that was made from them before is outdated."""
    made = (folder / "card.json").stat()
    os.utime(folder / "demos.npz", ns=(made.st_atime_ns, made.st_mtime_ns))


@dataclass(frozen=True)
class Sampling:
    """What decides how teams play."""

    config: Config
    map_name: str
    demos: DemoSet

    @property
    def greedy(self) -> bool:
        """QMIX has values, no probabilities to draw from."""
        return METHODS[self.demos.expert].family == "qmix" if self.demos.expert in METHODS else False

    def compute(self, policy: Policy) -> str:
        return compute_for(policy) if self.config.resolved_compute() == "fused" else "torch"


def _teams(sampling: Sampling, demos_id: str, folders: Sequence[Path]) -> list[Expert]:
    """The expert teams of a set, checked; for random play one whose actions are all equally likely."""
    map_name, demos = sampling.map_name, sampling.demos
    spec = map_spec(map_name)
    if demos.expert == "random":
        size = sampling.config.ppo.hidden_size
        actor = Actor(spec.n_agents, spec.obs_size + spec.n_actions + spec.n_agents, spec.n_actions, size)
        return [Expert(Path(), 0, 0, dict(actor.state_dict()), "random", "")]
    needed = 1 if demos.joint else spec.n_agents
    if len(folders) < needed:
        raise DataError(f"{demos_id} on {map_name} needs {needed} expert runs, got {len(folders)}")
    teams = [load_expert(folder, map_name, demos) for folder in folders[:needed]]
    if len({team.digest for team in teams}) < len(teams):
        seeds = [team.seed for team in teams]
        raise DataError(f"{demos_id} needs a different team for every agent, got the runs of seeds {seeds}")
    return teams


def _sample(sampling: Sampling, teams: Sequence[Expert], strangers: dict[str, Tensor] | None) -> list[Played]:
    """The battles of a set, as the table above says."""
    count, demos = sampling.config.demos.episodes, sampling.demos
    n_agents = map_spec(sampling.map_name).n_agents
    if demos.concurrent:
        tensors, role = teams[0].tensors, f"demos/team{teams[0].seed}"
        if strangers is not None:
            tensors, role = strangers, "demos/strangers" + "-".join(str(team.seed) for team in teams)
        return [_play(sampling, tensors, role, tuple(range(n_agents)), 0, count)]
    return [
        _play(sampling, team.tensors, f"demos/team{team.seed}", (i,), i * count, count)
        for i, team in enumerate([teams[0]] * n_agents if demos.joint else teams)
    ]


def _agents(demos: DemoSet, plays: Sequence[Played], seed: int) -> list[AgentDemos]:
    """Each agent's episodes."""
    agents = views(plays)
    return [_shuffled(agent, i, seed) for i, agent in enumerate(agents)] if demos.shuffled else agents


def _shuffled(agent: AgentDemos, number: int, seed: int) -> AgentDemos:
    """Every number of the observations drawn from another row, without replacement."""
    obs = agent.obs.copy()
    for column in range(obs.shape[1]):
        stream(seed, f"demos/shuffle{number}", column).shuffle(obs[:, column])
    return dataclasses.replace(agent, obs=obs)


def _play(
    sampling: Sampling, tensors: dict[str, Tensor], role: str, agents: tuple[int, ...], first: int, count: int
) -> Played:
    """Battles first..first+count-1 of one stream, actions drawn as the set asks for; a block at a time."""
    policy, keys = load_policy(tensors), battle_keys(sampling.config.eval_seed, role, first, count)
    obs, actions, won, returns = [], [], [], []
    for at in range(0, count, BATTLES):
        block = keys[at : at + BATTLES]
        rollout = collect(
            make_env(sampling.map_name, len(block), sampling.config.games),
            policy,
            None,
            block,
            greedy=sampling.greedy,
            epsilon=sampling.demos.epsilon,
            compute=sampling.compute(policy),
        )
        for b, steps in enumerate(rollout.lengths.tolist()):
            obs.append(rollout.obs[: steps + 1, b][:, list(agents)].numpy())
            actions.append(rollout.actions[: steps + 1, b].numpy().copy())
        won.append(rollout.won.numpy())
        returns.append(episode_returns(rollout.rewards.numpy()))
    return Played(agents, first, keys, obs, actions, np.concatenate(won), np.concatenate(returns))


def _rates(sampling: Sampling, tensors: dict[str, Tensor]) -> dict[str, float]:
    """Win rates on battles of their own: not those that chose the checkpoint, not the demonstrations'."""
    policy, config = load_policy(tensors), sampling.config

    def rate(*, greedy: bool, epsilon: float) -> dict[str, float]:
        return evaluate(
            policy,
            sampling.map_name,
            config.demos.card_episodes,
            config.eval_seed,
            greedy=greedy,
            epsilon=epsilon,
            role="card",
            compute=sampling.compute(policy),
            smac=config.games,
        )

    played = rate(greedy=sampling.greedy, epsilon=sampling.demos.epsilon)
    return {
        "win_rate_sampled": played["win_rate"],
        "win_rate_greedy": rate(greedy=True, epsilon=0.0)["win_rate"],
        "timeout_rate_sampled": played["timeout_rate"],
        "battles": config.demos.card_episodes,
    }


def _team_card(sampling: Sampling, team: Expert) -> dict[str, Any]:
    source = {"seed": team.seed, "env_steps": team.env_steps, "digest": team.digest, "sha256": team.sha256}
    return source | _rates(sampling, team.tensors)


def _who_played(
    sampling: Sampling, teams: Sequence[Expert], strangers: dict[str, Tensor] | None
) -> dict[str, Any]:
    cards = [_team_card(sampling, team) for team in teams]
    mixed = None if strangers is None else _rates(sampling, strangers)
    rates = [card["win_rate_sampled"] for card in (cards if mixed is None else [mixed])]
    # win_rate: of whoever played the demonstrations, as they played; one number, or one per team
    return {"teams": cards, "strangers": mixed, "win_rate": rates if len(rates) > 1 else rates[0]}


def _card(
    demos_id: str, sampling: Sampling, played: dict[str, Any], agents: Sequence[AgentDemos], data: bytes
) -> dict[str, Any]:
    results = [(_known(a.won), _known(a.episode_return)) for a in agents]
    own_map = user_map_sha256(sampling.map_name)
    return {
        "map": sampling.map_name,
        **({"map_sha256": own_map} if own_map else {}),
        "demos_id": demos_id,
        "episodes_per_agent": sampling.config.demos.episodes,
        **played,
        "agents": [
            {
                "win_rate": float(np.mean(won)),
                "episode_return": float(np.mean(earned)),
                "episode_length": float(a.lengths.mean()),
                "rows": len(a.obs),
                "battles": [int(a.battle[0]), int(a.battle[-1])],
            }
            for a, (won, earned) in zip(agents, results, strict=True)
        ],
        "obs_size": int(agents[0].obs.shape[1]),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _known(array: NDArray[Any] | None) -> NDArray[Any]:
    assert array is not None  # whoever samples knows who won
    return array


def _card_text(card: dict[str, Any]) -> str:
    lines = [
        f"# {card['demos_id']} on {card['map']}",
        "",
        f"{card['episodes_per_agent']} episodes per agent, {card['obs_size']} numbers an observation.",
        "",
        "| who plays | checkpoint (env steps) | win rate, as demonstrated | win rate, greedy | battles |",
        "|---|---|---|---|---|",
    ]
    rows = [
        ("random play" if t["digest"] == "random" else f"team of seed {t['seed']}", f"{t['env_steps']:,}", t)
        for t in card["teams"]
    ]
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
