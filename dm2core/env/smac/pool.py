"""Games in their processes: started one after the other, watched, and replaced when they die or hang.

A worker is a new Python (never a fork of this process), and dies with this one; its game dies with the worker. What
dead processes leave behind lies in one folder per pool, which goes with the pool, or with the user's next one. A game
that is old is replaced between two battles: it would end in the middle of one (`LAST_LOOP`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from socket import socketpair
from typing import Any

from dm2core.env.smac.link import Block, Sizes, open_block
from dm2core.env.smac.preflight import BUILD, VERSION, game_folder
from dm2core.env.smac.settings import Smac
from dm2core.errors import ServiceError
from dm2core.rng import entropy

LAST_LOOP = 524_000  # the game ends by itself at 2^19 loops; pysc2 stops here (sc2_env.py, MAX_STEP_COUNT)
SEED_BITS = 0x7FFFFFFF  # of the game's random_seed
WINDOW = 100  # episodes in which restarts are counted
LOOK_S = 0.5  # at most so long between two looks at what else there is to do
LOG_LINES = 5
_LOCAL = "127.0.0.1"  # where pysc2 reaches its game
_ROOT = Path(__file__).resolve().parents[3]


class Game:
    """A worker and its game."""

    def __init__(self, map_name: str, sizes: Sizes, seed: int, folder: Path) -> None:
        """Start them; `answer` tells when they are there."""
        self.seed, self.folder = seed, folder
        folder.mkdir()
        memory = open_block(sizes)
        ours, theirs = socketpair()
        try:
            with open(folder / "log", "wb") as log:
                handles = (theirs.fileno(), memory, log.fileno())
                named = dict(zip(("connection", "memory", "log"), handles, strict=True)) | {
                    "parent": os.getpid(),
                    "seed": seed,
                    "agents": sizes.n_agents,
                    "enemies": sizes.n_enemies,
                    "actions": sizes.n_actions,
                    "obs": sizes.obs_size,
                    "state": sizes.state_size,
                    "map": map_name,
                    "version": _version(),
                }
                options = [f"--{name}={value}" for name, value in named.items()]
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "dm2core.env.smac.worker", *options],
                    pass_fds=handles,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=_environment(folder),
                    process_group=0,  # Ctrl-C in a terminal is for this process, which then ends the games
                )
            self.block = Block(memory, sizes)
        finally:
            theirs.close()  # or its end would never be seen
            os.close(memory)
        self.connection = Connection(ours.detach())
        self.about: dict[str, Any] | None = None  # None until it has started
        self.ground: list[float] = []  # its map, as worker.py says it

    def send(self, order: bytes) -> None:
        """A worker that is gone is noticed when its answer is read."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(order)

    def answer(self) -> str | None:
        """Read an answer that is there; why the game has failed, or None."""
        try:
            text = self.connection.recv_bytes()
        except (EOFError, OSError):
            return "its process died"
        if text.startswith(b"ready "):
            self.about = json.loads(text[6:])
            self.ground = self.about.pop("ground")
        return text[7:].decode() if text.startswith(b"failed ") else None

    def stop(self) -> str:
        """Kill both; the last lines of their log."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        lines = (self.folder / "log").read_bytes().decode(errors="replace").splitlines()
        shutil.rmtree(self.folder, ignore_errors=True)
        return " | ".join([line.strip() for line in lines if line.strip()][-LOG_LINES:])


def _version() -> str:
    """None of SMAC's published runs names a version: it takes the latest there is, which must be ours."""
    found = [
        int(m[1])
        for p in (game_folder() / "Versions").glob("Base*")
        if (m := re.match(r"Base(\d+)$", p.name))
    ]
    return "latest" if max(found, default=0) == BUILD else VERSION


def _environment(folder: Path) -> dict[str, str]:
    """Of a worker: this package's sources, one thread, no proxy to its game, temporary files where they go in time."""
    given, path = os.environ, os.environ.get("PYTHONPATH")
    # An installed package lies among others; first in the path there, pysc2's enum34 would stand in for Python's enum.
    if (_ROOT / "pyproject.toml").is_file():
        path = os.pathsep.join(filter(None, [str(_ROOT), path]))
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
    direct = {name: ",".join(filter(None, [given.get(name), _LOCAL])) for name in ("no_proxy", "NO_PROXY")}
    there = {"SC2PATH": str(game_folder()), "TMPDIR": str(folder)}
    return {**given, **quiet, **direct, **there, **({"PYTHONPATH": path} if path else {})}


class Pool:
    """The games of one map in this process. Counters go up only: `restarts`, `episodes` started, `discarded`."""

    def __init__(self, map_name: str, sizes: Sizes, settings: Smac) -> None:
        self.map_name, self.sizes, self.settings = map_name, sizes, settings
        self.games: list[Game | None] = [None] * settings.games
        self.restarts = self.episodes = self.discarded = 0
        self.poll: Callable[[], None] = lambda: None  # called while waiting; may raise
        self.about: dict[str, Any] = {}  # what the last game that started said about itself
        self.ground: list[float] = []  # and about its map
        self.ground_said = False  # whether a difference was told
        self._recent: deque[int] = deque()  # `episodes` at each restart
        self._deadline: dict[int, float] = {}  # of each game that owes an answer
        self._begun = 0
        self._taken = (0, 0)
        _sweep()
        self._folder, self._lock = _own_folder()

    def start(self, numbers: Iterable[int], seeds: Iterable[int]) -> None:
        """Start those of the games that are not there, `start_gap_s` apart; `gather` waits for them."""
        pause = False
        for number, seed in zip(numbers, seeds, strict=True):
            if self.games[number] is not None:
                continue
            if pause:
                self._pause(self.settings.start_gap_s)
            pause = True
            self._begun += 1
            folder = self._folder / str(self._begun)
            self.games[number] = Game(self.map_name, self.sizes, seed, folder)
            self._owes(number, self.settings.start_limit_s)

    def retire(self, numbers: Iterable[int], loops: int) -> None:
        """Stop those of the games that end by themselves within `loops` more; that is no failure."""
        for number in numbers:
            game = self.games[number]
            if game is not None and game.block.loop[0] + loops > LAST_LOOP:
                game.stop()
                self.games[number] = None
                self._deadline.pop(number, None)

    def tell(self, number: int, order: bytes) -> None:
        """Send an order; `gather` waits for its answer."""
        self.game(number).send(order)
        self._owes(number, self.settings.hang_limit_s)

    def game(self, number: int) -> Game:
        game = self.games[number]
        assert game is not None, "start it first"
        return game

    def gather(self, numbers: Iterable[int]) -> dict[int, str]:
        """Wait until each of the games has answered or failed; the failed ones, already replaced, and why."""
        waiting = {number for number in numbers if number in self._deadline}
        failed: dict[int, str] = {}
        while waiting:
            self.poll()
            by_handle = {self.game(n).connection: n for n in waiting}
            next_look = min(LOOK_S, max(0.0, min(self._deadline[n] for n in waiting) - time.monotonic()))
            for connection in wait(list(by_handle), next_look):
                number = by_handle[connection]  # type: ignore[index]
                waiting.discard(number)
                del self._deadline[number]
                why = self.game(number).answer()
                if why is not None:
                    failed[number] = why
                    self._failed(number, why)
            for number in [n for n in waiting if time.monotonic() > self._deadline[n]]:
                waiting.discard(number)
                del self._deadline[number]
                failed[number] = "it did not answer in time"
                self._failed(number, failed[number])
        for game in self.games:
            if game is not None and game.about is not None:
                self.about, self.ground = game.about, game.ground
        return failed

    def take_counts(self) -> dict[str, float]:
        """Restarts and dropped episodes since the last call."""
        before, self._taken = self._taken, (self.restarts, self.discarded)
        restarts, discarded = (now - then for now, then in zip(self._taken, before, strict=True))
        return {"env_restarts": float(restarts), "episodes_discarded": float(discarded)}

    def close(self) -> None:
        """Stop everything."""
        for game in self.games:
            if game is not None:
                game.stop()
        self.games = [None] * len(self.games)
        self._deadline.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)

    def _owes(self, number: int, limit: float) -> None:
        self._deadline[number] = time.monotonic() + limit

    def _failed(self, number: int, why: str) -> None:
        """Count a failed game and start another in its place; ServiceError if there were too many."""
        self.poll()  # a signal to all processes of a job ends the games first: then it is no failure
        seed, log = self.game(number).seed, self.game(number).stop()
        self.games[number] = None
        self.restarts += 1
        self._recent.append(self.episodes)
        while self._recent[0] <= self.episodes - WINDOW:
            self._recent.popleft()
        print(
            f"dm2: StarCraft II on {self.map_name}: {why}; starting another game", file=sys.stderr, flush=True
        )
        if len(self._recent) > self.settings.max_restarts:
            raise ServiceError(
                f"StarCraft II on {self.map_name} failed {len(self._recent)} times within {WINDOW} episodes, at last "
                f"because {why}; its last log lines: {log or 'none'}"
            )
        fresh = int.from_bytes(entropy(seed, "game", self._begun)[:4], "little") & SEED_BITS
        self.start([number], [fresh])

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.poll()
            time.sleep(min(LOOK_S, left))


def _own_folder() -> tuple[Path, int]:
    """A new folder, and the handle of the lock in it that its pool holds while it lives."""
    folder = Path(tempfile.mkdtemp(prefix="dm2-games-"))
    handle = os.open(folder / "lock.new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # of a file system without locks nothing is swept
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.rename(folder / "lock.new", folder / "lock")
    return folder, handle


def _sweep() -> None:
    """Remove the user's folders of pools whose process was killed, on whatever machine that was."""
    for folder in Path(tempfile.gettempdir()).glob("dm2-games-*"):
        try:
            handle = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # another user's, or one that is just being made
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
