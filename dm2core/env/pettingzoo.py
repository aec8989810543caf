"""The battle simulator as a PettingZoo `ParallelEnv`, one battle at a time. docs/env.md shows it in use.

Needs `pip install 'dm2[pettingzoo]'`; no torch. Many battles at once are what `BattleSim` is for.
"""

from __future__ import annotations

import dataclasses
import operator
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from dm2core.env.observe import Options
from dm2core.env.scenario import Scenario, load_scenario
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys

NO_OP, STOP = 0, 1
_ONLY = np.zeros(1, dtype=np.int64)  # the number of the one battle


def parallel_env(
    map_name: str | Scenario = "3m",
    *,
    maps_file: str | Path | None = None,
    action_mask: str = "info",
    dead_agents: str = "leave",
    illegal_actions: str = "stop",
    render_mode: str | None = None,
    **options: Any,
) -> SmacParallelEnv:
    """A battle on `map_name` (of `maps_file`, if given) under SMAC's `options` (the fields of `observe.Options`).

    action_mask: "info" puts the legal actions into `infos[agent]["action_mask"]` alone; "observation" also makes
      every observation {"observation": ..., "action_mask": ...}.
    dead_agents: "leave" terminates an agent when it dies, as PettingZoo has it; it misses what the team is paid
      later. "stay" keeps it to the end of the battle with no-op as its one action, as SMAC does.
    illegal_actions: "stop" carries out stop instead (no-op for the dead) and says so in
      `infos[agent]["illegal_action"]`; "raise" is a ValueError, and the battle stays as it was.
    render_mode: None or "rgb_array".
    """
    _one_of("action_mask", action_mask, ("info", "observation"))
    _one_of("dead_agents", dead_agents, ("leave", "stay"))
    _one_of("illegal_actions", illegal_actions, ("stop", "raise"))
    _one_of("render_mode", render_mode, (None, "rgb_array"))
    for name in options:
        _one_of("option", name, tuple(field.name for field in dataclasses.fields(Options)))
    if maps_file is not None and not isinstance(map_name, str):
        raise ValueError("maps_file: a scenario is given, which needs none")
    scenario = load_scenario(map_name, maps_file) if isinstance(map_name, str) else map_name
    return SmacParallelEnv(
        BattleSim(scenario, 1, Options(**options)),
        scenario,
        masked_obs=action_mask == "observation",
        leave=dead_agents == "leave",
        strict=illegal_actions == "raise",
        render_mode=render_mode,
    )


def _one_of(what: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} {value!r} is unknown; known: {', '.join(map(str, allowed))}")


def _whole(what: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{what} {value!r} is no integer") from None


class SmacParallelEnv(ParallelEnv):  # type: ignore[type-arg]
    """One battle; made by `parallel_env`. Agents are "agent_0" ..., in SMAC's order."""

    def __init__(
        self,
        sim: BattleSim,
        scenario: Scenario,
        *,
        masked_obs: bool,
        leave: bool,
        strict: bool,
        render_mode: str | None,
    ) -> None:
        self.sim, self.scenario, self.render_mode = sim, scenario, render_mode
        self.metadata = {
            "name": f"dm2_{scenario.name}_v0", "render_modes": ["rgb_array"], "render_fps": 2,
            "is_parallelizable": True,
        }  # fmt: skip
        self._masked_obs, self._leave, self._strict = masked_obs, leave, strict
        spec = sim.spec
        self.possible_agents = [f"agent_{i}" for i in range(spec.n_agents)]
        self.agents: list[str] = []
        self.observation_spaces = {agent: self._observation_space() for agent in self.possible_agents}
        self.action_spaces = {agent: Discrete(spec.n_actions) for agent in self.possible_agents}
        self.state_space = Box(-np.inf, np.inf, (spec.state_size,), np.float32)
        self._seed: int | None = None
        self._battle, self._steps = 0, 0
        self._painter: Any = None

    def _observation_space(self) -> Box | Dict:
        seen = Box(-1.0, 1.0, (self.sim.spec.obs_size,), np.float32)
        if not self._masked_obs:
            return seen
        return Dict({"observation": seen, "action_mask": Box(0, 1, (self.sim.spec.n_actions,), np.int8)})

    def observation_space(self, agent: str) -> Any:
        """The agent's space, the same object every time."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        """Discrete(6 + enemies): 0 no-op, 1 stop, 2 north, 3 south, 4 east, 5 west, 6 + j attack enemy j."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Start a battle. A seed starts its sequence of battles anew; without one the next of the sequence begins.

        ValueError if the seed is negative, or no integer.
        """
        if seed is not None:
            number = _whole("seed:", seed)
            if number < 0:
                raise ValueError(f"seed: {seed} is negative")
            self._seed, self._battle = number, 0
        elif self._seed is None:
            self._seed = secrets.randbits(62)
        self.sim.reset(battle_keys(self._seed, "pettingzoo", self._battle, 1))
        self._battle += 1
        self._steps = 0
        self.agents = self.possible_agents[:]
        infos = self._infos(self.agents, {"battle_won": False, "dead_allies": 0, "dead_enemies": 0}, set())
        return self._observations(self.agents), infos

    def step(
        self, actions: dict[str, int]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """One env step of all agents; the team's reward goes to each of them.

        Nothing where nobody is left and nobody acts. ValueError if actions are not the agents', or no integers.
        """
        agents = self.agents
        if not agents and not actions:
            return {}, {}, {}, {}, {}
        joint, illegal = self._joint(actions)
        step = self.sim.step(joint[None], _ONLY)
        self._steps += 1
        over, cut = bool(step.terminated[0]), bool(step.truncated[0])
        team = {
            "battle_won": bool(step.won[0]),
            "dead_allies": int(step.dead_allies[0]),
            "dead_enemies": int(step.dead_enemies[0]),
        }
        gone = {agent: self._leave and not self.sim.alive[0, self._id(agent)] for agent in agents}
        terminations = {agent: over or gone[agent] for agent in agents}
        truncations = {agent: cut and not terminations[agent] for agent in agents}
        infos = self._infos(agents, team, illegal)
        self.agents = [agent for agent in agents if not (terminations[agent] or truncations[agent])]
        rewards = dict.fromkeys(agents, float(step.reward[0]))
        return self._observations(agents), rewards, terminations, truncations, infos

    def _joint(self, actions: dict[str, int]) -> tuple[NDArray[np.int64], set[str]]:
        """Actions [A] of the whole team, and who asked for an illegal one."""
        if set(actions) != set(self.agents):
            raise ValueError(
                f"actions must be given for {', '.join(self.agents) or 'nobody: no battle is under way, call reset'}; "
                f"got {', '.join(map(str, actions)) or 'none'}"
            )
        legal = self.sim.avail_actions[0]
        joint = np.where(self.sim.alive[0], STOP, NO_OP)
        illegal = set()
        for agent, given in actions.items():
            i, action = self._id(agent), _whole(f"{agent}: action", given)
            if 0 <= action < legal.shape[1] and (self._strict or legal[i, action]):
                joint[i] = action
            elif self._strict:
                raise ValueError(
                    f"battle 0, agent {i}: action {action} is not available"
                )  # int64 may not hold it
            else:
                illegal.add(agent)
        return joint, illegal

    def _id(self, agent: str) -> int:
        return self.possible_agents.index(agent)

    def _mask(self, agent: str) -> NDArray[np.int8]:
        return self.sim.avail_actions[0, self._id(agent)].astype(np.int8)

    def _observations(self, agents: list[str]) -> dict[str, Any]:
        seen = {agent: self.sim.obs[0, self._id(agent)].copy() for agent in agents}
        if not self._masked_obs:
            return seen
        return {agent: {"observation": seen[agent], "action_mask": self._mask(agent)} for agent in agents}

    def _infos(self, agents: list[str], team: dict[str, Any], illegal: set[str]) -> dict[str, dict[str, Any]]:
        return {
            agent: {"action_mask": self._mask(agent), "illegal_action": agent in illegal, **team}
            for agent in agents
        }

    def state(self) -> NDArray[np.float32]:
        """SMAC's global state [S], a copy."""
        return self.sim.state()[0].copy()

    def render(self) -> NDArray[np.uint8] | None:
        """A picture of the battle [H, W, 3], or None without a render mode."""
        if self.render_mode is None:
            return None
        from dm2core.env.draw import Painter, Scene  # Pillow, only where somebody looks

        if self._painter is None:
            self._painter = Painter(self.scenario)
        unit = self.sim.raw[0]
        clock = f"step {self._steps} of {self.scenario.episode_limit}"
        scene = Scene(unit[:, :2], unit[:, 2], unit[:, 3], title=self.scenario.name, clock=clock)
        frame: NDArray[np.uint8] = self._painter.frame(scene)
        return frame

    def close(self) -> None:
        """Nothing is held open."""
