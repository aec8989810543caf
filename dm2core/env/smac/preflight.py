"""Is StarCraft II there as SMAC's published results need it? Looks at files only, so the answer takes no time."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dm2core.env.scenario import known_maps, user_map_sha256
from dm2core.errors import ServiceError

BUILD, VERSION = 75689, "4.10.0"  # the last Linux package; SMAC's own numbers after its 2019 paper use it
DATA_VERSION = "B89B5D6FA7CBF6452E721311BFBC6CB2"  # of 4.10.0's rules, as the game itself says
SMAC_COMMIT = "d6aab33f76abc3849c50463a8592a84f59a5ef84"
INSTALL = "run tools/install_starcraft.sh"
OTHERWISE = "docs/starcraft.md; env: embedded, the simulator, needs none of this"
_HASHES = Path(__file__).with_name("maps.sha256")


class Check(NamedTuple):
    """One thing that must be there: what, whether it is, what to do if not (one line each)."""

    what: str
    ok: bool
    to_do: str


def game_folder() -> Path:
    """Where pysc2 looks for the game."""
    return Path(os.environ.get("SC2PATH") or "~/StarCraftII").expanduser()


def preflight(map_name: str | None = None) -> list[Check]:
    """All checks, in the order in which they build on each other; of one map, or of every shipped one.

    A check that an earlier one makes pointless is left out. Maps whose bytes are not SMAC's are listed here, but can be
    played: `require` lets them pass.
    """
    checks = list(_checks(map_name))
    if all(check.ok for check in checks[:4]):
        changed = ", ".join(changed_maps([map_name] if map_name is not None else list(map_hashes())))
        to_do = f"changed: {changed}; {INSTALL} --maps-only" if changed else ""
        checks.insert(4, Check("SMAC's maps, byte for byte", not changed, to_do))
    return checks


def require(map_name: str) -> None:
    """ServiceError with the first thing that is missing for playing a map."""
    for check in _checks(map_name):
        if not check.ok:
            raise ServiceError(f"{check.what}: {check.to_do}; {OTHERWISE}")


def _checks(map_name: str | None) -> Iterator[Check]:
    if map_name is not None and user_map_sha256(map_name):
        yield Check(
            f"StarCraft II map {map_name}", False, "it is a map of your own, which the game does not have"
        )
        return
    folder = game_folder()
    there = folder.is_dir()
    set_to = f"SC2PATH is {os.environ['SC2PATH']}" if os.environ.get("SC2PATH") else "SC2PATH is not set"
    yield Check(
        f"StarCraft II in {folder}",
        there,
        "" if there else f"no such folder ({set_to}); set SC2PATH to the game's folder, or {INSTALL}",
    )
    if there:
        yield from _of_game(folder)
        yield from _of_maps(folder, [map_name] if map_name is not None else list(map_hashes()))
    yield from _of_packages()


def _of_game(folder: Path) -> Iterator[Check]:
    versions = folder / "Versions"
    found = sorted(path.name for path in versions.glob("Base*")) if versions.is_dir() else []
    binary = versions / f"Base{BUILD}" / "SC2_x64"
    right = binary.is_file()
    has = ", ".join(found) or "no version at all"
    yield Check(
        f"StarCraft II {VERSION}",
        right,
        "" if right else f"{versions} has {has}, but Base{BUILD}/SC2_x64 is needed; {INSTALL}",
    )
    if right:
        runs = os.access(binary, os.X_OK)
        yield Check(
            f"execute permission of {binary}", runs, "" if runs else f"missing; chmod +x {binary}, then again"
        )


def _of_maps(folder: Path, names: list[str]) -> Iterator[Check]:
    maps = folder / "Maps" / "SMAC_Maps"
    missing = [name for name in names if not (maps / f"{name}.SC2Map").is_file()]
    listed = ", ".join(missing)
    yield Check(
        f"SMAC's maps in {maps}", not missing, f"missing: {listed}; {INSTALL} --maps-only" if missing else ""
    )


def changed_maps(names: list[str]) -> list[str]:
    """Those of the maps that are there and are not SMAC's, byte for byte."""
    maps = game_folder() / "Maps" / "SMAC_Maps"
    return [
        name
        for name in names
        if (maps / f"{name}.SC2Map").is_file()
        and hashlib.sha256((maps / f"{name}.SC2Map").read_bytes()).hexdigest() != map_hashes()[name]
    ]


@cache
def map_hashes() -> dict[str, str]:
    """SHA-256 (hex) of the shipped maps' files in SMAC's repository at `SMAC_COMMIT`."""
    rows = (line.split() for line in _HASHES.read_text(encoding="utf-8").splitlines())
    every = {Path(path).stem: sha256 for sha256, path in rows}
    return {name: every[name] for name in known_maps() if name in every}


def _of_packages() -> Iterator[Check]:
    here = all(importlib.util.find_spec(name) is not None for name in ("pysc2", "s2clientprotocol"))
    yield Check("the Python package pysc2", here, "" if here else "not installed; pip install -e '.[smac]'")
    smac = importlib.util.find_spec("smac")
    places = (smac.submodule_search_locations if smac is not None else None) or []
    ours = any((Path(place) / "env" / "starcraft2").is_dir() for place in places)
    source = f"pip install git+https://github.com/oxwhirl/smac.git@{SMAC_COMMIT}"
    other = "not installed" if smac is None else "the smac that is installed is another project"
    yield Check("the Python package smac", ours, "" if ours else f"{other}; {source}")


def package_versions() -> dict[str, str]:
    """Versions of what stands between us and the game."""
    found = {}
    for name in ("smac", "pysc2", "s2clientprotocol", "protobuf"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
