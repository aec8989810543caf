"""What is said when StarCraft II is not there as it should be: one line, exit code 69, at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dm2core.env.scenario import add_maps, known_maps
from dm2core.env.smac import preflight
from dm2core.env.smac.preflight import changed_maps, map_hashes
from dm2core.errors import ServiceError
from tests.smac.tree import ROOT, make_tree

FAULTS = ("folder", "version", "maps", "permission")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "game"))
    return tmp_path / "game"


def break_it(tree: Path, fault: str) -> None:
    """An installation with one fault."""
    if fault == "folder":
        return
    make_tree(tree, build=69232 if fault == "version" else preflight.BUILD)
    if fault == "maps":
        (tree / "Maps" / "SMAC_Maps" / "3m.SC2Map").unlink()
    if fault == "permission":
        (tree / "Versions" / "Base75689" / "SC2_x64").chmod(0o644)


WORDS = {
    "folder": ["no such folder", "set SC2PATH", "tools/install_starcraft.sh"],
    "version": ["Base69232", "Base75689", "tools/install_starcraft.sh"],
    "maps": ["missing: 3m", "--maps-only"],
    "permission": ["chmod +x", "SC2_x64"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_own_line_with_the_remedy(tree: Path, fault: str) -> None:
    break_it(tree, fault)
    with pytest.raises(ServiceError) as caught:
        preflight.require("3m")
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in [*WORDS[fault], "simulator, needs none of this"]), text
    assert not any(word in text for other in FAULTS if other != fault for word in WORDS[other][:1])


@pytest.mark.parametrize("fault", FAULTS)
def test_the_list_names_the_fault_and_nothing_else_of_the_game(tree: Path, fault: str) -> None:
    break_it(tree, fault)
    wrong = [check for check in preflight.preflight() if not check.ok and "Python package" not in check.what]
    assert len(wrong) == 1
    assert all(word in " ".join(wrong[0][::2]) for word in WORDS[fault])


def test_a_sound_installation_passes_every_check_of_the_game(tree: Path) -> None:
    make_tree(tree)
    checks = preflight.preflight()
    assert len(checks) == 7
    assert all(check.ok and not check.to_do for check in checks[:4])
    assert checks[4].to_do.startswith("changed: 3m, ")  # the stand-in's maps are not SMAC's


def test_the_package_indexs_smac_is_recognised(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tree)
    (tree / "site" / "smac").mkdir(parents=True)
    (tree / "site" / "smac" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tree / "site")
    monkeypatch.delitem(sys.modules, "smac", raising=False)
    last = preflight.preflight()[-1]
    assert not last.ok
    assert re.search(r"another project; pip install git\+https://\S+@d6aab33f", last.to_do)


def test_maps_are_known_by_their_bytes(tree: Path) -> None:
    assert list(map_hashes()) == [name for name in known_maps() if name in map_hashes()]
    assert len(map_hashes()) == 9
    make_tree(tree)
    assert changed_maps(["3m", "8m"]) == ["3m", "8m"]


def test_a_map_of_ones_own_cannot_be_played_in_the_game(tree: Path, tmp_path: Path) -> None:
    make_tree(tree)
    file = tmp_path / "mine.yaml"
    file.write_text("maps: {my_map: {allies: {marine: 2}, enemies: {marine: 2}, limit: 30, terrain: band}}\n")
    add_maps(file)
    with pytest.raises(ServiceError, match="my_map: it is a map of your own"):
        preflight.require("my_map")


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--set", "env=smac", "--map", "3m", "--method", "ippo", "--seed", "1", "--out", "out"],
        ["demos", "--set", "env=smac", "--map", "3m", "--id", "ippo-q50_joint-concurrent", "--out", "out"],
        ["evaluate", "--env", "smac", "--map", "3m", "--policy", "policy.safetensors"],
    ],
    ids=["train", "demos", "evaluate"],
)
def test_every_command_ends_with_69_before_torch_is_imported(command: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from dm2core.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    config = [] if command[0] == "evaluate" else ["--config", str(ROOT / "config" / "config.yaml")]
    done = subprocess.run(
        [sys.executable, "-c", code, *command, *config],
        cwd=tmp_path,
        env={**os.environ, "SC2PATH": str(tmp_path / "nowhere"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 69, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "nowhere" in done.stderr and list(tmp_path.iterdir()) == []
