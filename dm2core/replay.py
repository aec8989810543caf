"""One battle, recorded step by step and drawn: `dm2 replay`.

A recording holds what the game would report plus whom each unit fires at, so a picture can be drawn again without
the policy. Battles are the evaluation's: battle `index` of (`seed`, "evaluation").
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dm2core.config import ConfigError
from dm2core.env import battle, scripted
from dm2core.env.draw import Painter, Scene
from dm2core.env.observe import GAME_LOOPS
from dm2core.env.scenario import Scenario, load_scenario
from dm2core.env.vector import BattleSim
from dm2core.errors import NO_NPZ, DataError
from dm2core.nets import Policy
from dm2core.players import SCRIPTS, policy_file
from dm2core.policies import load_policy
from dm2core.records.checkpoint import load_metadata, load_tensors, sha256_in_manifest
from dm2core.records.files import write_atomic
from dm2core.rng import battle_keys
from dm2core.rollout import compute_for, players_for
from dm2core.types import EnvSpec, Grids

SUBFRAMES, LONG = 3, 60  # pictures per env step; two in battles longer than this
FRAME_MS, LAST_MS = 110, 1800
STRIP = 6  # moments on the strip
EDGE = 1.0  # cells shown beyond the arena, so that who stands at its border is whole
OUTCOMES = ("won", "lost", "drawn", "time out")
Play = Callable[[int], NDArray[np.int64]]


@dataclass(frozen=True)
class Recording:
    """One battle of T env steps and U units."""

    map_name: str
    who: str
    raw: NDArray[np.float32]  # [T+1, U, 5] x, y, health, shield, cooldown
    targets: NDArray[np.int32]  # [T, U] whom each unit was set on at the end of the step, or -1
    rewards: NDArray[np.float64]  # [T]
    outcome: str  # one of OUTCOMES

    def save(self, path: Path) -> None:
        """Write as npz."""
        about = json.dumps({"map_name": self.map_name, "who": self.who, "outcome": self.outcome})
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, raw=self.raw, targets=self.targets, rewards=self.rewards, about=np.array(about)
        )
        write_atomic(path, buffer.getvalue())

    @staticmethod
    def load(path: Path) -> Recording:
        """Read `save`'s file; DataError if it is none."""
        try:
            with np.load(path, allow_pickle=False) as data:
                about = json.loads(str(data["about"]))
                found = Recording(raw=data["raw"], targets=data["targets"], rewards=data["rewards"], **about)
        except NO_NPZ:
            found = None
        if found is None or not found.whole():
            raise DataError(f"{path}: is not a recorded battle; make one with dm2 replay --out X.npz")
        return found

    def whole(self) -> bool:
        """Whether the arrays are of one battle."""
        steps, units = self.targets.shape if self.targets.ndim == 2 else (0, 0)
        shapes = (self.raw.shape, self.rewards.shape) == ((steps + 1, units, 5), (steps,))
        kinds = "".join(array.dtype.kind for array in (self.raw, self.targets, self.rewards)) == "fif"
        return (
            shapes and kinds and steps > 0 and bool(np.isfinite(self.raw).all()) and self.outcome in OUTCOMES
        )


def record(map_name: str, who: str, seed: int, index: int, *, greedy: bool = True) -> Recording:
    """Play battle `index` of (`seed`, "evaluation") with a script's name, or the policy of a file or cell folder."""
    env = BattleSim(map_name, 1)
    keys = battle_keys(seed, "evaluation", index, 1)
    env.reset(keys)
    play, name = _player(who, env, keys, seed=seed, greedy=greedy)
    raw = [env.raw[0].copy()]
    targets: list[NDArray[np.int32]] = []
    rewards: list[float] = []
    only = np.zeros(1, dtype=np.int64)
    while True:
        step = env.step(play(len(rewards)), only)
        raw.append(env.raw[0].copy())
        targets.append(env.save()["_ints"][0, battle.TARGET].astype(np.int32))
        rewards.append(float(step.reward[0]))
        if step.terminated[0] or step.truncated[0]:
            break
    outcome = "won" if step.won[0] else "time out" if step.truncated[0] else "lost"
    if not step.won[0] and step.dead_enemies[0] == env.spec.n_enemies:
        outcome = "drawn"
    return Recording(map_name, name, np.array(raw), np.array(targets), np.array(rewards), outcome)


def _player(
    who: str, env: BattleSim, keys: NDArray[np.uint64], *, seed: int, greedy: bool
) -> tuple[Play, str]:
    """A function from the step's number to actions [1, N], and a name for the title."""
    if who in SCRIPTS or who == "random":
        policy = SCRIPTS[who] if who in SCRIPTS else scripted.random_legal(seed)
        return lambda _: policy(env, np.zeros(1, dtype=np.int64)), who.replace("_", " ")
    path = policy_file(who)
    return _trained(read_policy(path, env.spec), env, keys, greedy=greedy), _title(path)


def read_policy(path: Path, spec: EnvSpec) -> Policy:
    """The policy in a file, checked against a map; DataError if it does not fit."""
    tensors = load_tensors(path, sha256_in_manifest(path))
    try:
        policy = load_policy(tensors)
    except (KeyError, ValueError, RuntimeError):
        raise DataError(f"{path}: does not hold one policy; give a cell's policy.safetensors") from None
    found = (policy.n_agents, policy.size_in, policy.n_actions)
    wanted = (spec.n_agents, spec.obs_size + spec.n_actions + spec.n_agents, spec.n_actions)
    if found != wanted:
        raise DataError(f"{path}: (agents, inputs, actions) is {found}, {spec.map_name} needs {wanted}")
    return policy


def battle_of(map_name: str, who: str, seed: int, index: int, *, greedy: bool = True) -> Recording:
    """The battle in a file of `Recording.save` as it is; else who plays it, see `record`. ConfigError: another map."""
    if Path(who).suffix != ".npz":
        return record(map_name, who, seed, index, greedy=greedy)
    recording = Recording.load(Path(who))
    if recording.map_name != map_name:
        raise ConfigError(f"--who {who}: was recorded on {recording.map_name}, not on {map_name}")
    scenario = load_scenario(map_name)
    there, held = scenario.n_agents + scenario.n_enemies, recording.raw.shape[1]
    if held != there or not ((recording.targets >= -1) & (recording.targets < there)).all():
        raise DataError(f"{who}: of {held} units, {map_name} has {there}: another version of it, or damaged")
    return recording


def map_of(who: str) -> str | None:
    """The map a policy file or cell folder was trained on, or a battle recorded on, if it says so."""
    if Path(who).suffix == ".npz":
        return Recording.load(Path(who)).map_name
    path = policy_file(who)
    return load_metadata(path).get("map") if path.exists() else None


def _title(path: Path) -> str:
    """method demos seed of a cell, else the file's name."""
    try:
        cell = json.loads((path.parent / "manifest.json").read_text())["config"]
        demos = "" if cell["demos"] == "none" else f" {cell['demos']}"
        return f"{cell['method']}{demos} seed {cell['seed']}"
    except (OSError, ValueError, KeyError):
        return path.name


def _trained(policy: Policy, env: BattleSim, keys: NDArray[np.uint64], *, greedy: bool) -> Play:
    spec, hidden = env.spec, policy.hidden_size
    shape, real = (spec.episode_limit + 1, 1, spec.n_agents), np.float32
    if policy.head.weight.dtype.itemsize == 8:
        real = np.float64  # type: ignore[assignment]
    grids = Grids(
        np.zeros(shape, np.int64), np.zeros(shape, real), np.zeros(shape, real), np.zeros((*shape, hidden), real),
        np.zeros((*shape, 0), real),
    )  # fmt: skip
    players = players_for(policy, None, env, compute_for(policy))

    def play(t: int) -> NDArray[np.int64]:
        players.act(t, env, np.zeros(1, dtype=np.int64), keys, grids, greedy=greedy)
        return grids.actions[t]

    return play


def scenes(recording: Recording, subframes: int) -> list[Scene]:
    """`subframes` pictures per env step, positions in between interpolated, and the end."""
    scenario = load_scenario(recording.map_name)
    raw = recording.raw.astype(np.float64)
    fired = _fired(recording, scenario)
    died: dict[int, int] = {}
    out = []
    for t in range(len(raw) - 1):
        for k in range(subframes):
            way = k / subframes
            xy = raw[t, :, :2] + way * (raw[t + 1, :, :2] - raw[t, :, :2])
            # A shot is shown for half a step from the moment it left.
            shots = tuple((u, v, min(2 * (way - at), 1.0)) for u, v, at in fired[t] if at <= way <= at + 0.67)
            ages = {u: min((t + way - s) / 6, 1.0) for u, s in died.items()}
            clock = f"{(t + way) * GAME_LOOPS / 16:4.1f} s, step {t}"
            title = f"{recording.map_name}: {recording.who}"
            out.append(Scene(xy, raw[t, :, 2], raw[t, :, 3], shots, title, clock, died=ages))
        for u in np.flatnonzero((raw[t, :, 2] > 0) & (raw[t + 1, :, 2] <= 0)):
            died[int(u)] = t + 1
    last = raw[-1]
    banner = {"won": "agents win", "lost": "enemies win", "drawn": "nobody is left", "time out": "time out"}
    ages = {u: min((len(raw) - 1 - s) / 6, 1.0) for u, s in died.items()}
    clock = f"{(len(raw) - 1) * GAME_LOOPS / 16:4.1f} s, step {len(raw) - 1}"
    out.append(
        Scene(last[:, :2], last[:, 2], last[:, 3], (), title, clock, banner[recording.outcome], died=ages)
    )
    return out


def _fired(recording: Recording, scenario: Scenario) -> list[list[tuple[int, int, float]]]:
    """Shots of every step: (unit, target, when within the step, 0..1). A weapon that fired is reloading again."""
    units = scenario.allies + scenario.enemies
    cooldown, out = recording.raw[:, :, 4].astype(np.float64), []
    for t, targets in enumerate(recording.targets):
        shots = []
        for u, unit in enumerate(units):
            rose = cooldown[t + 1, u] > max(cooldown[t, u] - GAME_LOOPS, 0) + 1e-3
            if rose and recording.raw[t + 1, u, 2] > 0 and targets[u] >= 0:
                since = np.clip((unit.period - cooldown[t + 1, u]) / GAME_LOOPS, 0, 1)
                shots.append((u, int(targets[u]), float(1 - since)))
        out.append(shots)
    return out


def view(recordings: Sequence[Recording]) -> tuple[float, float, float, float]:
    """The part of the map where something happens, (x, y, width, height) in cells, the same for all recordings."""
    scenario = load_scenario(recordings[0].map_name)
    places = np.concatenate([r.raw[:, :, :2][r.raw[:, :, 2] > 0] for r in recordings])
    low = np.maximum(places.min(0) - 2, (-EDGE, scenario.rows[0] - EDGE))
    high = np.minimum(places.max(0) + 2, (scenario.size[0] + EDGE, scenario.rows[1] + EDGE))
    width, height = high - low
    if height > width:  # never taller than wide
        low[0] = np.clip(low[0] - (height - width) / 2, 0, max(scenario.size[0] - height, 0))
        width = min(height, scenario.size[0])
    return float(low[0]), float(low[1]), float(width), float(height)


def draw(recordings: Sequence[Recording], gif: Path, about: str = "") -> None:
    """One or more battles side by side as an animated GIF, and a strip of moments as a PNG; both say `about`."""
    map_name = recordings[0].map_name
    width = 460 if len(recordings) == 1 else 380
    painter = Painter(load_scenario(map_name), view(recordings), width)
    longest = max(len(recording.rewards) for recording in recordings)
    reels = [scenes(recording, SUBFRAMES if longest <= LONG else 2) for recording in recordings]
    length = max(map(len, reels))

    def picture(n: int) -> Image.Image:
        frames = [painter.frame(reel[min(n, len(reel) - 1)]) for reel in reels]
        return Image.fromarray(np.concatenate(frames, axis=1))

    pictures = [picture(n) for n in range(length)]
    some = np.concatenate([np.asarray(pictures[n]) for n in (0, length // 2, length - 1)])
    # The octree keeps colours of few pixels, such as the bars of life; a median cut gives them to the background.
    palette = Image.fromarray(some).quantize(256, Image.Quantize.FASTOCTREE)
    flat = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    buffer = io.BytesIO()
    durations = [FRAME_MS] * (length - 1) + [LAST_MS]
    flat[0].save(
        buffer, "GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=False,
        comment=about.encode(),
    )  # fmt: skip
    write_atomic(gif, buffer.getvalue())
    moments = [pictures[round(i * (length - 1) / (STRIP - 1))] for i in range(STRIP)]
    columns = 3 if len(recordings) == 1 else 2
    w, h = moments[0].size
    sheet = Image.new("RGB", (w * columns, h * -(-STRIP // columns)), "white")
    for i, moment in enumerate(moments):
        sheet.paste(moment, (i % columns * w, i // columns * h))
    buffer = io.BytesIO()
    said = PngInfo()
    said.add_text("Source", about)
    sheet.save(buffer, "PNG", pnginfo=said)
    write_atomic(gif.with_suffix(".png"), buffer.getvalue())
