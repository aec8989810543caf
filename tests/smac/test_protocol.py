"""The stand-in speaks the game's protocol as pysc2's own client does, and refuses what the game would refuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dm2core.env.scenario import load_scenario
from dm2core.env.vector import BattleSim
from tests.smac.conftest import needs_pysc2, others_warnings
from tests.smac.tree import all_end

pytestmark = [pytest.mark.smac, needs_pysc2, others_warnings]

MAP = "SMAC_Maps/5m_vs_6m.SC2Map"


@pytest.fixture
def game(tree: Path) -> Iterator[Any]:
    """A started stand-in and its controller, before any game is created."""
    from absl import flags
    from pysc2 import run_configs

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    process = run_configs.get().start(want_rgb=False)
    yield process
    process.close()


def join(game: Any, seed: int = 3, path: str = MAP) -> Any:
    """Create and join a game as SMAC does."""
    from pysc2 import run_configs
    from s2clientprotocol import common_pb2
    from s2clientprotocol import sc2api_pb2 as api

    data = run_configs.get().map_data(path)
    create = api.RequestCreateGame(
        local_map=api.LocalMap(map_path=path, map_data=data), realtime=False, random_seed=seed
    )
    create.player_setup.add(type=api.Participant)
    create.player_setup.add(type=api.Computer, race=common_pb2.Terran, difficulty=api.VeryHard)
    game.controller.create_game(create)
    options = api.InterfaceOptions(raw=True, score=False)
    game.controller.join_game(api.RequestJoinGame(race=common_pb2.Terran, options=options))
    return game.controller


def teams(controller: Any) -> tuple[list[Any], list[Any]]:
    units = controller.observe().observation.raw_data.units
    allies = sorted((u for u in units if u.owner == 1), key=lambda u: (u.unit_type, u.pos.x, u.pos.y))
    return allies, [u for u in units if u.owner == 2]


def command(unit: Any, ability: int, **target: Any) -> Any:
    from s2clientprotocol import raw_pb2
    from s2clientprotocol import sc2api_pb2 as api

    order = raw_pb2.ActionRawUnitCommand(ability_id=ability, unit_tags=[unit.tag], **target)
    return api.Action(action_raw=raw_pb2.ActionRaw(unit_command=order))


def test_it_is_version_4_10_and_the_map_is_the_simulators(game: Any) -> None:
    controller = join(game)
    assert controller.ping().game_version.startswith("4.10.0")
    raw = controller.game_info().start_raw
    assert (raw.map_size.x, raw.map_size.y, raw.playable_area.p1.x) == (32, 32, 32)
    rows = np.unpackbits(np.frombuffer(raw.pathing_grid.data, np.uint8)).reshape(32, 32)
    assert (load_scenario("5m_vs_6m").pathing() == rows.T).all()
    assert {unit.unit_id for unit in controller.data_raw().units} == {48}


def test_a_battle_over_the_wire_is_the_simulators_battle(game: Any) -> None:
    from s2clientprotocol import sc2api_pb2 as api

    from tests.smac.game_server import key_of

    controller, sim, here = join(game, seed=3), BattleSim("5m_vs_6m", 1), np.zeros(1, dtype=np.int64)
    sim.reset(key_of(3, 0))
    tags = [unit.tag for side in teams(controller) for unit in side]
    while sim.raw[0, :, 2].min() > 0.0:  # everybody attacks the first enemy within reach, or walks east
        there = {unit.tag: unit for side in teams(controller) for unit in side}
        allies, enemies = [there[tag] for tag in tags[:5]], [there[tag] for tag in tags[5:]]
        numbers, orders = [], []
        for i, unit in enumerate(allies):
            near = np.flatnonzero(sim.avail_actions[0, i, 6:])
            numbers.append(6 + int(near[0]) if near.size else 4)
            goal = {"x": unit.pos.x + 2, "y": unit.pos.y}
            orders.append(
                command(unit, 23, target_unit_tag=enemies[near[0]].tag)
                if near.size
                else command(unit, 16, target_world_space_pos=goal)
            )
        controller.actions(api.RequestAction(actions=orders))
        controller.step(8)
        sim.step(np.array([numbers]), here)
        there = {unit.tag: unit for side in teams(controller) for unit in side}
        for tag, row in zip(tags, sim.raw[0], strict=True):
            assert (tag in there) == (row[2] > 0.0)
            u = there.get(tag)
            if u is not None:
                seen = (u.pos.x, u.pos.y, u.health, u.shield, u.weapon_cooldown)
                assert np.abs(np.array(seen) - row).max() < 1e-6


def test_killing_everybody_brings_both_teams_back_two_loops_later(game: Any) -> None:
    from s2clientprotocol import debug_pb2

    controller = join(game)
    before = [unit.tag for side in teams(controller) for unit in side]
    controller.debug([debug_pb2.DebugCommand(kill_unit=debug_pb2.DebugKillUnit(tag=before))])
    assert teams(controller) == ([], [])
    controller.step(2)
    after = [unit.tag for side in teams(controller) for unit in side]
    assert len(after) == 11 and not set(before) & set(after)


def test_what_the_game_would_refuse_is_refused(game: Any) -> None:
    from pysc2.lib import protocol, remote_controller
    from s2clientprotocol import sc2api_pb2 as api

    with pytest.raises(protocol.ProtocolError):
        game.controller.observe()  # no game yet
    wrong = api.RequestCreateGame(local_map=api.LocalMap(map_path="SMAC_Maps/none.SC2Map", map_data=b""))
    with pytest.raises(remote_controller.RequestError, match="InvalidMapPath"):
        game.controller.create_game(wrong)
    controller = join(game)
    allies, enemies = teams(controller)
    for order in (
        command(enemies[0], 4),
        command(allies[0], 23, target_unit_tag=allies[1].tag),
        command(allies[0], 23, target_unit_tag=77),
        command(allies[0], 5),
        command(allies[0], 16, target_world_space_pos={"x": 3.0, "y": 3.0}),
    ):
        with pytest.raises(protocol.ProtocolError):
            controller.actions(api.RequestAction(actions=[order]))


def test_quit_ends_the_process(game: Any) -> None:
    pid = game.pid
    game.close()
    assert all_end([pid])
