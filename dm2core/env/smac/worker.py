"""The process around one game: `python -m dm2core.env.smac.worker`, started by pool.py.

SMAC's class is used as it is, but three of its habits would falsify results (oxwhirl/smac, starcraft2.py, d6aab33f):

- when the game is lost it starts another one and reports the battle as finished, without a word that it was not.
  Here the loss ends this process, and the pool drops the battle;
- while its first battle has not ended, a reset starts a second game and forgets the first;
- units that appear late at the first reset are counted twice in `max_reward`, which scales every later reward.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import numpy as np

from dm2core.env.smac.link import Block, Sizes, die_with_parent


class GameLost(Exception):
    """The game is gone or answers nonsense."""


def _game_class(log: int) -> Any:
    """SMAC's class, whose game dies with this process, writes to `log`, and is never replaced in secret."""
    from pysc2.lib import sc_process
    from smac.env import StarCraft2Env

    # pysc2 has no other door to how it starts the game.
    popen = functools.partial(
        subprocess.Popen,
        preexec_fn=functools.partial(die_with_parent, os.getpid()),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    sc_process.subprocess = SimpleNamespace(Popen=popen)

    class Game(StarCraft2Env):  # type: ignore[misc]
        def full_restart(self) -> None:
            raise GameLost("the connection to the game failed")

    return Game


class Player:
    """One game and its arrays."""

    def __init__(self, args: argparse.Namespace, sizes: Sizes, block: Block) -> None:
        self.block, self.sizes = block, sizes
        version = None if args.version == "latest" else args.version
        self.env = _game_class(args.log)(map_name=args.map, seed=args.seed, game_version=version)
        found = self.env.get_env_info()
        mine = (found["n_agents"], found["n_actions"], found["obs_shape"], found["state_shape"])
        wanted = (sizes.n_agents, sizes.n_actions, sizes.obs_size, sizes.state_size)
        if mine != wanted:
            raise GameLost(
                f"SMAC's (agents, actions, obs size, state size) on {args.map} are {mine}, not {wanted}"
            )

    def reset(self) -> None:
        env, first = self.env, self.env._episode_count == 0
        env.reset()
        if first:
            bodies = sum(unit.health_max + unit.shield_max for unit in env.enemies.values())
            env.max_reward = env.n_enemies * env.reward_death_value + env.reward_win + bodies
            env._episode_count = 1  # from now on a reset kills the units, whether or not the battle has ended
        self.block.flags[:] = 0
        self._show()

    def step(self) -> None:
        env, block, n = self.env, self.block, self.sizes.n_agents
        reward, terminated, info = env.step(block.actions.tolist())
        dead_allies, dead_enemies = int(info["dead_allies"]), int(info["dead_enemies"])
        decided = dead_allies == n or dead_enemies == env.n_enemies
        block.reward[0] = reward
        block.flags[:] = (
            terminated and decided,
            terminated and not decided,
            info["battle_won"],
            dead_allies,
            dead_enemies,
        )
        self._show()

    def _show(self) -> None:
        env, block = self.env, self.block
        block.obs[:] = env.get_obs()
        block.state[:] = env.get_state()
        block.avail_actions[:] = env.get_avail_actions()
        units = [*env.agents.values(), *env.enemies.values()]
        block.raw[:] = [(u.pos.x, u.pos.y, u.health, u.shield, u.weapon_cooldown) for u in units]
        block.alive[:] = [env.agents[i].health > 0 for i in range(self.sizes.n_agents)]
        block.loop[0] = env._obs.observation.game_loop
        if not (np.isfinite(block.obs).all() and np.isfinite(block.state).all()):
            raise GameLost("the game reported numbers that are not finite")

    def about(self) -> dict[str, Any]:
        """What the game says about itself and its map (`Encoding.ground` from the map's size on), once it was reset."""
        env, pong = self.env, self.env._controller.ping()
        ground = [env.map_x, env.map_y, env.max_distance_x, env.max_distance_y, env.episode_limit]
        return {"game_version": pong.game_version, "data_version": pong.data_version, "ground": ground}


def _serve(connection: Connection, args: argparse.Namespace, sizes: Sizes) -> None:
    try:
        player = Player(args, sizes, Block(args.memory, sizes))
        player.reset()  # starts the game and its first battle, which is there when it is wanted
        connection.send_bytes(b"ready " + json.dumps(player.about()).encode())
        fresh = True
        while True:
            order = connection.recv_bytes()
            if order == b"quit":
                player.env.close()
                return
            if order == b"step":
                player.step()
            elif not fresh:
                player.reset()
            fresh = False
            connection.send_bytes(b"done")
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the pool is gone
    except Exception as error:  # whatever smac, pysc2 and protobuf raise over a broken game
        print(f"worker: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        connection.send_bytes(b"failed " + text.encode()[:500])


def main(argv: list[str] | None = None) -> None:
    """Serve one game until told to quit, or until either end is lost."""
    parser = argparse.ArgumentParser()
    for name in (
        "connection",
        "memory",
        "log",
        "parent",
        "seed",
        "agents",
        "enemies",
        "actions",
        "obs",
        "state",
    ):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--map", required=True)
    parser.add_argument("--version", required=True)
    args = parser.parse_args(argv)
    die_with_parent(args.parent)
    os.set_inheritable(args.connection, False)
    os.set_inheritable(args.memory, False)
    with Connection(args.connection) as connection:
        _serve(connection, args, Sizes(args.agents, args.enemies, args.actions, args.obs, args.state))
    os._exit(0)  # what smac registers for the end of a process would talk to a game that is gone


if __name__ == "__main__":
    main()
