"""A stand-in for the StarCraft II binary: the real protocol on the outside, this project's battle inside.

pysc2 starts it as it starts the game (`SC2_x64 -listen H -port P -dataDir D -tempDir T`) and talks to it over a
websocket in s2clientprotocol messages. It knows what SMAC's maps make the game do: two teams at fixed places, one
order to the enemies, and both teams again two loops after everybody is dead. Requests that the game would refuse get
an error.

What shall go wrong is scripted in `faults.json` of its data folder: {"2": {"at": "step", "count": 7, "do": "die"}}
lets the second game die instead of answering its seventh request of that kind. {"all": {"last_loop": 900}} lets every
game end by itself after so many loops, as the real one does after 2^19; {"all": {"playable": 30}} narrows its map.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from s2clientprotocol import common_pb2, raw_pb2
from s2clientprotocol import sc2api_pb2 as api
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from dm2core.env.observe import GAME_LOOPS
from dm2core.env.scenario import load_scenario
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys

VERSION, BUILD = "4.10.0.75689", 75689
STOP, MOVE, ATTACK = 4, 16, 23
ALLY_TYPES = 1990  # where the map's own unit types begin


def key_of(seed: int, battle: int) -> NDArray[np.uint64]:
    """Random stream [1] of a game's battle number `battle`, given the seed the game was created with."""
    return battle_keys(seed, "game server", battle, 1)


class Refused(Exception):
    """The game answers with an error."""


class Battle:
    """One map in play: battle after battle, as the map's trigger makes them."""

    def __init__(self, map_name: str, seed: int, late: int) -> None:
        self.scenario, self.seed, self.late = load_scenario(map_name), seed, late
        self.sim, self.number, self.loop = BattleSim(map_name, 1), -1, 0
        self.here = np.zeros(1, dtype=np.int64)
        self.begin()

    def begin(self) -> None:
        """Both teams appear; with `late` the last units only after that many loops."""
        self.number += 1
        self.sim.reset(key_of(self.seed, self.number))
        self.orders: dict[int, int] = {}
        self.killed: set[int] = set()
        self.missing = self.late

    def tag(self, unit: int) -> int:
        return (self.number + 1) * 1000 + unit

    def living(self) -> list[int]:
        health = self.sim.raw[0, :, 2]
        there = [u for u in range(len(health)) if health[u] > 0 and u not in self.killed]
        return [u for u in there if not (self.missing and u in (0, len(health) - 1))]

    def unit_of(self, tag: int) -> int:
        found = [u for u in self.living() if self.tag(u) == tag]
        if not found:
            raise Refused(f"no living unit has the tag {tag}")
        return found[0]

    def units(self) -> list[raw_pb2.Unit]:
        """The raw list; not in SMAC's order of agents."""
        n_agents, units = self.scenario.n_agents, self.scenario.allies + self.scenario.enemies
        kinds = list(dict.fromkeys(u.name for u in self.scenario.allies))
        out = []
        for u in sorted(self.living(), key=lambda u: (u < n_agents, -u if u < n_agents else u)):
            x, y, health, shield, cooldown = map(float, self.sim.raw[0, u])
            ally, kind = u < n_agents, units[u]
            out.append(
                raw_pb2.Unit(
                    tag=self.tag(u),
                    owner=1 if ally else 2,
                    alliance=raw_pb2.Self if ally else raw_pb2.Enemy,
                    display_type=raw_pb2.Visible,
                    unit_type=ALLY_TYPES + kinds.index(kind.name) if ally else kind.smac_type,
                    pos=common_pb2.Point(x=x, y=y, z=10.0),
                    radius=kind.radius,
                    build_progress=1.0,
                    health=health,
                    health_max=kind.health,
                    shield=shield,
                    shield_max=kind.shield,
                    weapon_cooldown=cooldown,
                )
            )
        return out

    def order(self, command: raw_pb2.ActionRawUnitCommand) -> None:
        """One raw command as SMAC's action number."""
        sim, n_agents = self.sim, self.scenario.n_agents
        for tag in command.unit_tags:
            unit = self.unit_of(tag)
            if unit >= n_agents:
                raise Refused(f"unit {tag} is the opponent's")
            if command.queue_command:
                raise Refused("SMAC queues no commands")
            if command.ability_id == STOP:
                action = 1
            elif command.ability_id == MOVE:
                goal = command.target_world_space_pos
                dx, dy = goal.x - float(sim.raw[0, unit, 0]), goal.y - float(sim.raw[0, unit, 1])
                if abs(abs(dx) + abs(dy) - 2.0) > 1e-4 or min(abs(dx), abs(dy)) > 1e-4:
                    raise Refused(f"a move by ({dx}, {dy})")
                action = (2 if dy > 0 else 3) if abs(dy) > abs(dx) else (4 if dx > 0 else 5)
            elif command.ability_id == ATTACK:
                target = self.unit_of(command.target_unit_tag)
                if target < n_agents:
                    raise Refused("an attack on a friend")
                action = 6 + target - n_agents
            else:
                raise Refused(f"ability {command.ability_id}")
            self.orders[unit] = action

    def step(self, loops: int) -> None:
        """Advance by `loops` game loops."""
        self.loop += loops
        if self.missing:
            self.missing -= 1
            return
        if not self.living():
            self.begin()
            return
        if loops != GAME_LOOPS:
            return  # nothing is ordered in these loops, and the battle waits for its first step
        n_agents, alive = self.scenario.n_agents, self.sim.alive[0]
        ordered = [self.orders.get(i, 1) if alive[i] else 0 for i in range(n_agents)]
        self.orders = {}
        self.sim.step(np.array([ordered], dtype=np.int64), self.here)


class Server:
    """The states of a game process and its answers."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.status, self.map_name, self.seed = api.launched, "", 0
        self.battle: Battle | None = None
        faults = folder / "faults.json"
        self.fault: dict[str, Any] = {}
        if faults.exists():
            scripted = json.loads(faults.read_text())
            self.fault = scripted.get(str(number), scripted.get("all", {}))
        self.asked: dict[str, int] = {}

    def serve(self, connection: ServerConnection) -> None:
        while True:
            try:
                message = connection.recv(decode=False)  # pysc2 sends its bytes as text
            except ConnectionClosed:
                return
            request = api.Request.FromString(message)
            kind = request.WhichOneof("request")
            self.asked[kind] = self.asked.get(kind, 0) + 1
            if self.fault.get("at") == kind and self.fault["count"] == self.asked[kind]:
                self.fail(connection)
                continue
            if kind == "quit":
                os._exit(0)
            response = api.Response(id=request.id)
            try:
                getattr(self, f"on_{kind}")(getattr(request, kind), response)
            except Refused as error:
                response.error.append(str(error))
            except AttributeError as error:
                response.error.append(f"not understood: {kind}: {error}")
            response.status = self.status
            connection.send(response.SerializeToString())

    def fail(self, connection: ServerConnection) -> None:
        """What the script says."""
        what = self.fault["do"]
        print(f"game {self.number}: about to {what}", flush=True)
        if what == "die":
            os._exit(139)
        if what == "hang":
            time.sleep(3600)
        if what == "garble":
            connection.send(bytes(range(255, 155, -1)))
        if what == "refuse":
            connection.send(api.Response(status=self.status, error=["internal error"]).SerializeToString())

    def playing(self) -> Battle:
        if self.battle is None or self.status != api.in_game:
            raise Refused("not in a game")
        return self.battle

    def on_ping(self, _: api.RequestPing, response: api.Response) -> None:
        response.ping.game_version, response.ping.base_build = VERSION, BUILD
        response.ping.data_version, response.ping.data_build = "stand-in", BUILD

    def on_create_game(self, request: api.RequestCreateGame, response: api.Response) -> None:
        if self.status not in (api.launched, api.ended):
            raise Refused("a game is there already")
        path = self.folder / "Maps" / request.local_map.map_path
        if not path.is_file() or path.read_bytes() != request.local_map.map_data:
            response.create_game.error = api.ResponseCreateGame.InvalidMapPath
            return
        kinds = [(player.type, player.difficulty) for player in request.player_setup]
        if [kind for kind, _ in kinds] != [api.Participant, api.Computer] or request.realtime:
            raise Refused("expected one participant, one computer, not in real time")
        if kinds[1][1] != api.VeryHard:
            raise Refused("SMAC's opponent has difficulty 7, VeryHard")
        self.map_name, self.seed, self.status = path.stem, request.random_seed, api.init_game
        response.create_game.SetInParent()

    def on_join_game(self, request: api.RequestJoinGame, response: api.Response) -> None:
        if self.status != api.init_game or not request.options.raw:
            raise Refused("join a created game, with the raw interface")
        late = self.fault["count"] if self.fault.get("do") == "late" else 0
        self.battle, self.status = Battle(self.map_name, self.seed, late), api.in_game
        response.join_game.player_id = 1

    def on_game_info(self, _: api.RequestGameInfo, response: api.Response) -> None:
        scenario, info = self.playing().scenario, response.game_info
        wide, deep = scenario.size
        info.map_name = info.local_map_path = self.map_name
        info.player_info.add(player_id=1, type=api.Participant)
        info.player_info.add(player_id=2, type=api.Computer, difficulty=api.VeryHard)
        raw = info.start_raw
        raw.map_size.x, raw.map_size.y = wide, deep
        raw.playable_area.p0.x = raw.playable_area.p0.y = 0
        raw.playable_area.p1.x, raw.playable_area.p1.y = self.fault.get("playable", wide), deep
        # One bit a cell, row after row, the most significant bit first.
        raw.pathing_grid.bits_per_pixel = 1
        raw.pathing_grid.size.x, raw.pathing_grid.size.y = wide, deep
        raw.pathing_grid.data = np.packbits(scenario.pathing().T, axis=1).tobytes()
        raw.terrain_height.bits_per_pixel = 8
        raw.terrain_height.size.x, raw.terrain_height.size.y = wide, deep
        raw.terrain_height.data = bytes(wide * deep)

    def on_data(self, _: api.RequestData, response: api.Response) -> None:
        for ability, name in ((STOP, "stop"), (MOVE, "move"), (ATTACK, "attack")):
            response.data.abilities.add(ability_id=ability, button_name=name, available=True)
        for unit in self.playing().scenario.enemies:
            if unit.smac_type not in [there.unit_id for there in response.data.units]:
                response.data.units.add(unit_id=unit.smac_type, name=unit.name, movement_speed=unit.speed)

    def on_observation(self, _: api.RequestObservation, response: api.Response) -> None:
        battle = self.playing()
        response.observation.observation.game_loop = battle.loop
        response.observation.observation.raw_data.units.extend(battle.units())

    def on_action(self, request: api.RequestAction, response: api.Response) -> None:
        battle = self.playing()
        for action in request.actions:
            battle.order(action.action_raw.unit_command)
            response.action.result.append(1)
        response.action.SetInParent()

    def on_step(self, request: api.RequestStep, response: api.Response) -> None:
        battle = self.playing()
        battle.step(request.count)
        response.step.simulation_loop = battle.loop
        if battle.loop >= self.fault.get("last_loop", 2**19):
            self.status = api.ended

    def on_debug(self, request: api.RequestDebug, response: api.Response) -> None:
        battle = self.playing()
        for command in request.debug:
            if command.WhichOneof("command") != "kill_unit":
                raise Refused("a debug command other than kill_unit")
            battle.killed.update(battle.unit_of(tag) for tag in command.kill_unit.tag)
        response.debug.SetInParent()

    def on_restart_game(self, _: api.RequestRestartGame, response: api.Response) -> None:
        self.playing().begin()
        response.restart_game.SetInParent()

    def on_save_replay(self, _: api.RequestSaveReplay, response: api.Response) -> None:
        response.save_replay.data = b"a replay"

    def on_leave_game(self, _: api.RequestLeaveGame, response: api.Response) -> None:
        self.battle, self.status = None, api.launched
        response.leave_game.SetInParent()


def take_number(folder: Path) -> int:
    """1 for the first game ever started from this folder, 2 for the second, ...; leaves the process id there."""
    (folder / "started").mkdir(exist_ok=True)
    number = 1
    while True:
        try:
            with open(folder / "started" / str(number), "x", encoding="utf-8") as handle:
                handle.write(str(os.getpid()))
            return number
        except FileExistsError:
            number += 1


def main(arguments: list[str]) -> None:
    given = dict(zip(arguments[::2], arguments[1::2], strict=False))
    server = Server(Path(given["-dataDir"]), take_number(Path(given["-dataDir"])))
    print(f"game {server.number}: version {VERSION}", flush=True)
    if server.fault.get("at") == "start":
        server.fault.setdefault("do", "die")
        print(f"game {server.number}: cannot start", flush=True)
        sys.exit(1)
    with serve(server.serve, given["-listen"], int(given["-port"]), compression=None, max_size=None) as there:
        there.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
