"""`dm2 import-demos`: the released code's demonstration files, one per agent, as a demonstration set of ours.

What is missing in them stays missing: who won and what was earned is not recorded. An episode's length is not recorded
either; its rows are padded with zeros to the map's limit, so it ends with the last row in which any agent of the team
saw or did something. The observation after a team's last death is all zeros and counts as padding.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dm2core.demonstrations import AgentDemos, pack_arrays
from dm2core.env.scenario import user_map_sha256
from dm2core.env.vector import make_env
from dm2core.errors import DataError
from dm2core.published import child
from dm2core.records.files import write_atomic
from dm2core.records.manifest import Job

SECONDS = 1800  # processor time for one file
MAX_HEAD = 20_000_000  # bytes of the child's first line


@dataclass(frozen=True)
class Published:
    """One agent's file: rows of all episodes end to end, padding included."""

    obs: NDArray[np.float32]  # [R, O]
    actions: NDArray[np.int64]  # [R]
    rows: NDArray[np.int64]  # [K] rows of each episode

    def episode(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """obs [L+1, O] and actions [L+1] of one episode."""
        end = int(self.rows[: number + 1].sum())
        start = end - int(self.rows[number])
        return self.obs[start:end], self.actions[start:end]


def import_demos(
    files: Sequence[Path],
    to: Path,
    map_name: str,
    *,
    demos_id: str = "imported",
    episodes: int | None = None,
    nonconcurrent: bool = False,
    memory: int = 8 * 2**30,
) -> dict[str, Any]:
    """Files of agents 0, 1, ... into `to`; the card. DataError names the file and what is wrong with it.

    `episodes`: the first so many of each file (default: as many as all have); with `nonconcurrent` agent i gets the
    i-th so many instead, as the released code does for demonstrations that were not recorded together.
    """
    spec = make_env(map_name, 1).spec
    if len(files) != spec.n_agents:
        raise DataError(
            f"{map_name} has {spec.n_agents} agents, got {len(files)} files; give one per agent, in order"
        )
    for file in files:
        _open_regular(file).close()  # before anything reads them: a pipe or a device has no end
    job = Job("demonstrations", hashlib.sha256(b"").hexdigest(), files)
    agents = [read_published(file, memory) for file in files]
    for file, agent in zip(files, agents, strict=True):
        if agent.obs.shape[1] != spec.obs_size:
            raise DataError(
                f"{file}: observations of {agent.obs.shape[1]} numbers, {map_name} has {spec.obs_size}"
            )
        if agent.actions.min() < 0 or agent.actions.max() >= spec.n_actions:
            raise DataError(
                f"{file}: an action is outside 0..{spec.n_actions - 1}, the actions of {map_name}"
            )
    have = min(len(agent.rows) for agent in agents)
    blocks = len(agents) if nonconcurrent else 1
    count = episodes if episodes is not None else have // blocks
    if not 0 < count * blocks <= have:
        raise DataError(f"{files[0].parent}: {have} episodes in each file, {count * blocks} are asked for")
    lengths = _lengths(agents, have)
    if lengths.max(initial=0) > spec.episode_limit:
        raise DataError(
            f"{files[0].parent}: an episode of {lengths.max()} steps, {map_name} ends at {spec.episode_limit}"
        )
    chosen = [
        _agent(agent, lengths, np.arange(count) + (i * count if nonconcurrent else 0))
        for i, agent in enumerate(agents)
    ]
    data = pack_arrays(chosen)
    own_map = user_map_sha256(map_name)
    card = {
        "map": map_name,
        **({"map_sha256": own_map} if own_map else {}),
        "demos_id": demos_id,
        "episodes_per_agent": count,
        "win_rate": None,
        "teams": [],
        "strangers": None,
        "imported": [
            {"file": file.name, "sha256": sha256}
            for file, sha256 in zip(files, job.inputs.values(), strict=True)
        ],
        "agents": [
            {
                "episode_length": float(a.lengths.mean()),
                "rows": len(a.obs),
                "battles": [int(a.battle[0]), int(a.battle[-1])],
            }
            for a in chosen
        ],
        "obs_size": spec.obs_size,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_atomic(to / "demos.npz", data)
    write_atomic(to / "card.md", _card_text(card).encode())
    write_atomic(to / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    job.finish(to / "manifest.json", [to / name for name in ("demos.npz", "card.json", "card.md")])
    return card


def read_published(file: Path, memory: int) -> Published:
    """One file, decoded by a child process that can do nothing else; DataError if it refuses."""
    with _open_regular(file) as source:
        command = [sys.executable, "-I", str(Path(child.__file__).resolve()), str(memory), str(SECONDS)]
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"OPENBLAS_NUM_THREADS": "1"},
            cwd="/",
        )
    try:
        assert process.stdout is not None and process.stderr is not None
        found = _receive(process.stdout, memory)
        if found is None:
            process.kill()  # it may wait for its output to be read; one that has refused has said why and is gone
        said = process.stderr.read(1000).decode(errors="replace").strip()
        code = process.wait()
    finally:
        process.kill()
        process.communicate()
    if code == 0 and found is not None:
        return found
    if code == -signal.SIGXCPU or code == -signal.SIGKILL:
        said = f"its decoder was killed, after {SECONDS} s of processor time or for want of memory"
    raise DataError(
        f"{file}: refused: {said.splitlines()[-1] if said else f'its decoder died with status {code}'}"
    )


def _open_regular(file: Path) -> IO[bytes]:
    """A regular file; links are followed, since download caches are made of them, devices and pipes refused."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DataError(f"{file}: refused: not a regular file")
    return os.fdopen(handle, "rb")


def _receive(stream: IO[bytes], memory: int) -> Published | None:
    """What the child sends; None if it sends anything else than it should, or too much."""
    try:
        head = json.loads(stream.readline(MAX_HEAD))
        rows, obs_size = np.array(head["rows"], dtype=np.int64), int(head["obs_size"])
    except (ValueError, KeyError, TypeError):
        return None
    total = int(rows.sum())
    if rows.ndim != 1 or rows.min(initial=1) < 1 or obs_size < 1 or total * (4 * obs_size + 8) > memory:
        return None
    obs, actions, at = np.empty((total, obs_size), "<f4"), np.empty(total, "<i8"), 0
    for count in rows.tolist():
        for part in (obs[at : at + count], actions[at : at + count]):
            if stream.readinto(part.view(np.uint8)) != part.nbytes:  # type: ignore[attr-defined]
                return None
        at += count
    return None if stream.read(1) else Published(obs, actions, rows)


def _lengths(agents: Sequence[Published], count: int) -> NDArray[np.int64]:
    """[K] steps T of each battle: row T is the last that is not zero for everyone."""
    lengths = np.ones(count, dtype=np.int64)
    for agent in agents:
        for number in range(count):
            obs, actions = agent.episode(number)
            used = np.flatnonzero(obs.any(axis=1) | (actions != 0))
            lengths[number] = max(lengths[number], used[-1] if used.size else 0)
    return lengths


def _agent(agent: Published, lengths: NDArray[np.int64], battles: NDArray[np.int64]) -> AgentDemos:
    parts = [agent.episode(int(b)) for b in battles]
    ends = [min(int(lengths[b]) + 1, len(obs)) for b, (obs, _) in zip(battles, parts, strict=True)]
    return AgentDemos(
        obs=np.concatenate([obs[:end] for (obs, _), end in zip(parts, ends, strict=True)]),
        actions=np.concatenate([actions[:end] for (_, actions), end in zip(parts, ends, strict=True)]),
        lengths=np.array(ends, dtype=np.int64) - 1,
        won=None,
        episode_return=None,
        battle=battles.astype(np.int64),
    )


def _card_text(card: dict[str, Any]) -> str:
    lines = [
        f"# {card['demos_id']} on {card['map']}",
        "",
        f"{card['episodes_per_agent']} episodes per agent, {card['obs_size']} numbers an observation; imported. The",
        "files do not say who won.",
        "",
        "| agent | file | SHA-256 of it | battles | length |",
        "|---|---|---|---|---|",
    ]
    for i, (source, a) in enumerate(zip(card["imported"], card["agents"], strict=True)):
        span = f"{a['battles'][0]}-{a['battles'][1]}"
        lines.append(f"| {i} | {source['file']} | {source['sha256']} | {span} | {a['episode_length']:.1f} |")
    return "\n".join([*lines, "", f"SHA-256 {card['sha256']}", ""])
