"""tools/install_starcraft.sh on archives made here: what it says, refuses, and leaves behind."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.smac.tree import ROOT

SCRIPT = "tools/install_starcraft.sh"
MAPS = ("3m", "5m_vs_6m")

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("unzip", "curl", "sha256sum")), reason="needs unzip and curl"
)


class Shop:
    """A checkout with the script, whose hashes are those of two small archives beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.to = folder, folder / "Star Craft"
        game, maps = folder / "game.zip", folder / "maps.tar.gz"
        with zipfile.ZipFile(game, "w") as archive:
            archive.writestr("StarCraftII/Versions/Base75689/SC2_x64", "#!/bin/sh\n")
            archive.writestr("StarCraftII/Battle.net/Cache/TMP/x", "")
            archive.writestr("StarCraftII/Maps/Melee/Simple64.SC2Map", "another map")
        (folder / "hashes").mkdir()
        lines = []
        with tarfile.open(maps, "w:gz") as tar:
            for name in MAPS:
                file = folder / "hashes" / f"{name}.SC2Map"
                file.write_text(f"the map {name}")
                tar.add(file, f"smac-d6aab33f/smac/env/starcraft2/maps/SMAC_Maps/{name}.SC2Map")
                lines.append(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  SMAC_Maps/{name}.SC2Map\n")
        self.sources = ["--game", str(game), "--maps", f"file://{maps}"]
        listed = folder / "dm2core" / "env" / "smac" / "maps.sha256"
        listed.parent.mkdir(parents=True)
        listed.write_text("".join(lines))
        (folder / "tools").mkdir()
        text = (ROOT / SCRIPT).read_text()
        published = next(line for line in text.splitlines() if line.startswith("GAME_SHA256="))
        here = f"GAME_SHA256={hashlib.sha256(game.read_bytes()).hexdigest()}"
        (folder / SCRIPT).write_text(text.replace(published, here))

    def run(self, *options: str, code: int = 0) -> str:
        """What it said, on both channels."""
        done = subprocess.run(
            ["bash", str(self.folder / SCRIPT), "--to", str(self.to), *self.sources, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    @property
    def binary(self) -> Path:
        return self.to / "Versions" / "Base75689" / "SC2_x64"

    def map_file(self, name: str) -> Path:
        return self.to / "Maps" / "SMAC_Maps" / f"{name}.SC2Map"

    def files(self) -> set[str]:
        return {path.relative_to(self.to).as_posix() for path in self.to.rglob("*") if path.is_file()}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_it_says_what_it_would_download_and_does_nothing_unasked(shop: Shop) -> None:
    said = shop.run(code=2)
    assert "game.zip (0.0 GB)" in said and "maps.tar.gz (0.0 GB)" in said
    assert "needs about" in said and "free:" in said and "LICENSE" in said
    assert "nobody to ask; --yes" in said and "accepts Blizzard's license" in said
    assert shop.files() == set()


def test_game_and_maps_are_installed_and_a_second_run_has_nothing_to_do(shop: Shop) -> None:
    assert "export SC2PATH=" in shop.run("--yes")
    files = {"Versions/Base75689/SC2_x64", "Maps/Melee/Simple64.SC2Map"}
    assert shop.files() == files | {f"Maps/SMAC_Maps/{name}.SC2Map" for name in MAPS}
    assert shop.binary.stat().st_mode & 0o111
    before = shop.binary.stat().st_mtime_ns
    again = shop.run()
    assert "going to download" not in again and "byte for byte" in again
    assert shop.binary.stat().st_mtime_ns == before
    shop.run("--check")


def test_the_maps_alone_and_only_if_their_bytes_are_smacs(shop: Shop) -> None:
    said = shop.run("--maps-only", "--yes")
    assert "game.zip" not in said and not shop.binary.exists() and shop.map_file("3m").exists()
    shop.map_file("3m").write_text("changed")
    assert "missing or changed: 3m" in shop.run("--check", "--maps-only", code=69)
    shop.run("--maps-only", "--yes")
    assert shop.map_file("3m").read_text() == "the map 3m"


def test_maps_of_other_bytes_are_refused_and_nothing_is_installed_of_them(shop: Shop) -> None:
    listed = shop.folder / "dm2core" / "env" / "smac" / "maps.sha256"
    lines = listed.read_text().splitlines()
    listed.write_text("".join(f"{'0' * 64}{line[64:]}\n" for line in lines))
    assert "byte for byte" in shop.run("--maps-only", "--yes", code=65).splitlines()[-1]
    assert shop.files() == set()


def test_an_archive_that_is_not_the_published_one_is_refused(shop: Shop) -> None:
    with open(shop.folder / "game.zip", "ab") as file:
        file.write(b"x")
    last = shop.run("--yes", code=65).splitlines()[-1]
    assert "SHA-256" in last and "another version or damaged" in last
    assert shop.files() == set()


def test_what_is_wrong_is_named_with_its_exit_code(shop: Shop) -> None:
    assert "unknown option --fast" in shop.run("--fast", code=2)
    assert "needs a value" in shop.run("--game", code=2)
    assert "no such file" in shop.run("--game", str(shop.folder / "none.zip"), code=2)
    nowhere = (shop.folder / "none.zip").as_uri()
    assert "cannot be downloaded" in shop.run("--game", nowhere, "--yes", code=69).splitlines()[-1]
    shutil.rmtree(shop.to)
    shop.to.write_text("a file where the folder should be")
    assert "cannot be written" in shop.run("--yes", code=73)


def test_too_little_room_stops_it_before_the_download(shop: Shop) -> None:
    script = shop.folder / SCRIPT
    script.write_text(script.read_text().replace('room=$(df -PB1 "$to"', 'room=$(echo "head\n x x x 5"'))
    assert "not enough room" in shop.run("--yes", code=73)
    assert shop.files() == set()


class Plain(BaseHTTPRequestHandler):
    """As GitHub answers for an archive: no length; and no ranges."""

    body = b""

    def do_GET(self) -> None:
        if "Range" in self.headers:
            self.send_response(200, "from the start, whatever was asked")
        else:
            self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_without_lengths_and_ranges_will_do_for_the_maps(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the maps a few megabytes are assumed, and a download that cannot go on begins anew."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Plain, "body", (shop.folder / "maps.tar.gz").read_bytes())
    (shop.to / ".install").mkdir(parents=True)
    (shop.to / ".install" / "maps.tar.gz.part").write_bytes(b"the beginning")
    with HTTPServer(("127.0.0.1", 0), Plain) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        shop.sources = ["--maps", f"http://127.0.0.1:{server.server_port}/maps.tar.gz"]
        said = shop.run("--maps-only", "--yes")
        server.shutdown()
    assert "size unknown" in said and "needs about 0.3 GB" in said
    assert shop.map_file("3m").read_text() == "the map 3m"


def test_another_version_is_named_and_a_lost_permission_restored(shop: Shop) -> None:
    (shop.to / "Versions" / "Base69232").mkdir(parents=True)
    assert "other versions there: Base69232" in shop.run("--check", code=69)
    shop.run("--yes")
    shop.binary.chmod(0o644)
    assert "chmod +x" in shop.run("--check", code=69)
    assert "made executable" in shop.run()
    assert shop.binary.stat().st_mode & 0o111


def test_help_is_the_scripts_own_head(shop: Shop) -> None:
    assert "--maps-only" in shop.run("--help") and "set -e" not in shop.run("--help")
