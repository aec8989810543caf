"""The unmodified smac package plays whole episodes over the wire; what it returns is what the simulator returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from dm2core.env import scripted
from dm2core.env.vector import BattleSim
from tests.smac.conftest import needs_smac, others_warnings

pytestmark = [pytest.mark.smac, needs_smac, others_warnings]

SEED = 7


@dataclass
class Difference:
    """Between smac and the simulator, over all steps."""

    steps: int = 0
    episodes: int = 0
    outcomes: set[str] = field(default_factory=set)
    largest: float = 0.0  # of obs, state, reward
    mismatches: int = 0  # of availability, flags, counts, stats

    def of(self, one: object, other: object) -> None:
        self.largest = max(self.largest, float(np.abs(np.asarray(one) - np.asarray(other)).max()))

    def equal(self, one: object, other: object) -> None:
        self.mismatches += int(np.asarray(one != other).sum())


def compare(map_name: str, episodes: int) -> Difference:
    """Play with random legal actions, with focused fire, and kiting, in turns."""
    from smac.env import StarCraft2Env

    from tests.smac.game_server import key_of

    env, sim, here = (
        StarCraft2Env(map_name=map_name, seed=SEED),
        BattleSim(map_name, 1),
        np.zeros(1, dtype=np.int64),
    )
    players = (scripted.random_legal(SEED), scripted.focus_fire, scripted.kite)
    out = Difference()
    try:
        for episode in range(episodes):
            seen, state = env.reset()
            sim.reset(key_of(SEED, episode))
            out.of(seen, sim.obs[0])
            out.of(state, sim.state()[0])
            over, player = False, players[episode % 3]
            while not over:
                avail = np.array(env.get_avail_actions(), dtype=np.bool_)
                out.equal(avail, sim.avail_actions[0])
                actions = player(sim, here)[0].tolist()
                reward, over, info = env.step(list(actions))
                step = sim.step(np.array([actions]), here)
                out.of(reward, step.reward[0])
                out.of(env.get_obs(), sim.obs[0])
                out.of(env.get_state(), sim.state()[0])
                out.equal(over, bool(step.terminated[0] or step.truncated[0]))
                out.equal(info["battle_won"], bool(step.won[0]))
                out.equal(info["dead_allies"], int(step.dead_allies[0]))
                out.equal(info["dead_enemies"], int(step.dead_enemies[0]))
                out.steps += 1
            out.episodes += 1
            kind = "won" if step.won[0] else "out of time" if step.truncated[0] else "lost"
            out.outcomes.add(kind)
        stats = env.get_stats()
        out.equal(stats["battles_game"], episodes)
        out.equal(stats["restarts"], 0)
        assert env.max_reward == sim.encoding.max_reward
        info = env.get_env_info()
        spec = sim.spec
        sizes = (
            info["n_agents"],
            info["n_actions"],
            info["obs_shape"],
            info["state_shape"],
            info["episode_limit"],
        )
        assert sizes == (spec.n_agents, spec.n_actions, spec.obs_size, spec.state_size, spec.episode_limit)
    finally:
        env.close()
    return out


@pytest.mark.parametrize("map_name", ["3m", "8m_vs_9m", "3s_vs_5z", "2s3z", "3s5z"])
def test_smac_over_the_wire_equals_the_simulator(map_name: str, tree: Path) -> None:
    found = compare(map_name, 4)
    assert found.episodes == 4
    assert found.mismatches == 0 and found.largest <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("map_name", "outcomes"),
    [
        ("3m", {"won", "lost"}),
        ("5m_vs_6m", {"lost", "out of time"}),  # no script wins it
        ("3s_vs_4z", {"won", "lost"}),
    ],
)
def test_a_hundred_whole_episodes_equal_the_simulators(map_name: str, outcomes: set[str], tree: Path) -> None:
    found = compare(map_name, 100)
    assert found.episodes == 100 and found.steps > 1500
    assert found.outcomes >= outcomes
    assert found.mismatches == 0 and found.largest <= 1e-6
    print(map_name, found)
