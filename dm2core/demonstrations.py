"""A demonstration set on disk and in memory: one file of plain arrays, checked against its card."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dm2core.config import CellConfig
from dm2core.errors import NO_NPZ, DataError
from dm2core.pairs import Episodes
from dm2core.records.manifest import hash_file
from dm2core.rollout import Rollout
from dm2core.types import EnvSpec


@dataclass(frozen=True)
class AgentDemos:
    """One agent's K episodes, rows end to end; an episode of T steps has T+1 rows, the last its final observation."""

    obs: NDArray[np.float32]  # [R, O]
    actions: NDArray[np.int64]  # [R]; the last of an episode was never executed
    lengths: NDArray[np.int64]  # [K] steps T
    won: NDArray[np.bool_] | None  # [K]; None if the set does not say
    episode_return: NDArray[np.float32] | None  # [K]; None if the set does not say
    battle: NDArray[np.int64]  # [K] number of the battle it comes from

    @property
    def start(self) -> NDArray[np.int64]:
        """[K] first row of each episode."""
        return np.cumsum(self.lengths + 1) - (self.lengths + 1)


@dataclass(frozen=True)
class Demonstrations:
    """A demonstration set as read back."""

    map_name: str
    demos_id: str
    sha256: str
    agents: tuple[AgentDemos, ...]

    def episodes(self, dtype: torch.dtype, *, terminal_row: bool, actions: bool = False) -> Episodes:
        """The set as discriminators read it; without the terminal row (D30) each episode's last row is left out.

        With `actions` the action's number is one more column (gail_learner.py line 150).
        """
        rows = [a.obs for a in self.agents]
        if actions:
            rows = [np.column_stack([a.obs, a.actions.astype(np.float32)]) for a in self.agents]
        obs = torch.from_numpy(np.concatenate(rows)).to(dtype)
        first = np.cumsum([0] + [len(a.obs) for a in self.agents])
        start = np.stack([first[i] + a.start for i, a in enumerate(self.agents)])
        length = np.stack([a.lengths + int(terminal_row) for a in self.agents])
        return Episodes(torch.cat([obs, obs.new_zeros(1, obs.shape[1])]), start, length)


BOMB_BYTES, BOMB_RATIO = 2**25, 200  # observations shrink to a sixth, on 3m
OPTIONAL = ("won", "episode_return")
FIELDS = {
    "obs": "float32",
    "actions": "int64",
    "lengths": "int64",
    "won": "bool",
    "episode_return": "float32",
    "battle": "int64",
}


def load_demos(path: Path, cell: CellConfig | None = None, spec: EnvSpec | None = None) -> Demonstrations:
    """Read a set (its folder or demos.npz), checked against its card and, if given, against the cell's map."""
    folder = path.parent if path.suffix == ".npz" else path
    card = read_card(folder)
    file = folder / "demos.npz"
    if hash_file(file) != card["sha256"]:
        raise DataError(
            f"{file}: its SHA-256 is not the card's, so it is damaged or changed; sample it again"
        )
    arrays = read_arrays(file)
    count = sum(name.endswith("/obs") for name in arrays)
    try:
        agents = tuple(
            AgentDemos(
                *(
                    arrays.get(f"agent{i}/{name}") if name in OPTIONAL else arrays[f"agent{i}/{name}"]
                    for name in FIELDS
                )  # type: ignore[arg-type]
            )
            for i in range(count)
        )
    except KeyError as error:
        raise DataError(f"{file}: not a demonstration file (no {error.args[0]})") from None
    _check_arrays(file, agents)
    if spec is not None:
        wanted = (spec.map_name, spec.n_agents, spec.obs_size)
        found = (card["map"], len(agents), agents[0].obs.shape[1])
        if wanted != found:
            raise DataError(f"{file}: (map, agents, obs size) is {found}, the cell needs {wanted}")
        longest = max(int(agent.lengths.max()) for agent in agents)
        if longest > spec.episode_limit:
            raise DataError(
                f"{file}: an episode of {longest} steps, {spec.map_name} ends at {spec.episode_limit}; sample it again"
            )
    if cell is not None and card.get("map_sha256", cell.map_sha256) != cell.map_sha256:
        raise DataError(f"{file}: sampled on another version of {cell.map_name}; sample it again")
    have = min(len(agent.lengths) for agent in agents)
    need = cell.discriminator.episodes_per_step if cell is not None and cell.discriminator is not None else 0
    if have < need:
        raise DataError(f"{file}: {have} episodes per agent, but discriminator.episodes_per_step is {need}")
    return Demonstrations(card["map"], card["demos_id"], card["sha256"], agents)


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file; nothing is unpickled, and what is read is as large as it says and not suspiciously so.

    A few hundred kilobytes can unpack to gigabytes: a file whose size its packed bytes do not warrant is refused before
    anything is unpacked.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            packed, whole = sum(m.compress_size for m in members), sum(m.file_size for m in members)
            if whole > BOMB_BYTES and whole > BOMB_RATIO * packed:
                raise DataError(f"{file}: refused, it unpacks from {packed} to {whole} bytes")
            for member in members:
                with archive.open(member) as stream:
                    _check_header(stream, member.file_size)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except NO_NPZ as error:
        raise DataError(f"{file}: not a demonstration file ({' '.join(str(error).split())})") from None


def _check_header(stream: Any, size: int) -> None:
    """ValueError unless the header's shape and type make up exactly the member's `size` bytes."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != size - stream.tell():
        raise ValueError(f"an array {dtype} {shape} in {size} bytes")


def pack_arrays(agents: Sequence[AgentDemos]) -> bytes:
    """The bytes of demos.npz."""
    arrays = {f"agent{i}/{name}": getattr(a, name) for i, a in enumerate(agents) for name in FIELDS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: array for name, array in arrays.items() if array is not None})
    return buffer.getvalue()


def _check_arrays(file: Path, agents: Sequence[AgentDemos]) -> None:
    """Refuse a file whose arrays do not fit each other: its hash may be right and its maker wrong."""
    if not agents:
        raise DataError(f"{file}: holds no agent")
    for i, a in enumerate(agents):
        held = {name: getattr(a, name) for name in FIELDS if getattr(a, name) is not None}
        if any(array.dtype != FIELDS[name] for name, array in held.items()):
            raise DataError(f"{file}: agent {i} has arrays of a wrong type; they must be {FIELDS}")
        episodes, rows = a.lengths.shape, int((a.lengths + 1).sum())
        same = all(array.shape == episodes for name, array in held.items() if name not in ("obs", "actions"))
        if a.obs.ndim != 2 or len(episodes) != 1 or not same or a.lengths.min(initial=1) < 1:
            raise DataError(f"{file}: agent {i} has arrays of a wrong shape")
        if len(a.obs) != rows or a.actions.shape != (rows,) or a.obs.shape[1] != agents[0].obs.shape[1]:
            raise DataError(f"{file}: agent {i} has {len(a.obs)} observations, its lengths ask for {rows}")
        if not (np.isfinite(a.obs).all() and len(a.lengths) == len(agents[0].lengths)):
            raise DataError(f"{file}: agent {i} has observations that are not finite, or too few episodes")


def read_card(folder: Path) -> dict[str, Any]:
    """card.json of a demonstration set; DataError if it is missing or incomplete."""
    path = folder / "card.json"
    try:
        card = json.loads(path.read_text())
        _ = card["map"], card["demos_id"], card["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a demonstration card ({error})") from None
    return dict(card)


def of_rollout(rollout: Rollout, map_name: str) -> Demonstrations:
    """Every episode of a rollout, the same for every agent, as a set without a file."""
    lengths = rollout.lengths.numpy()
    agents = []
    for i in range(rollout.obs.shape[2]):
        obs = [rollout.obs[: t + 1, b, i].numpy() for b, t in enumerate(lengths)]
        actions = [rollout.actions[: t + 1, b, i].numpy() for b, t in enumerate(lengths)]
        agents.append(
            AgentDemos(
                obs=np.concatenate(obs),
                actions=np.concatenate(actions),
                lengths=lengths,
                won=rollout.won.numpy(),
                episode_return=rollout.episode_return.numpy(),
                battle=np.arange(len(lengths)),
            )
        )
    return Demonstrations(map_name, "rollout", "", tuple(agents))
