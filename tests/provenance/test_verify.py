"""Random one-byte edits of a finished tree are all named: two real cells, a table of them and a figure of it."""

from __future__ import annotations

import getpass
import json
import os
import random
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from dm2core.analysis.figures import Stamp, save
from dm2core.cli import main
from dm2core.config import cell_config, load_config
from dm2core.errors import DataError
from dm2core.records import provenance
from dm2core.records.attempts import Attempts
from dm2core.records.manifest import (
    NO_SEAL,
    SMOKE,
    VERSION,
    CellManifest,
    Job,
    Manifest,
    hash_file,
    judge,
    parse_manifest,
    read_manifest,
    seal,
)
from dm2core.records.numerics import numerics_key, simulator
from dm2core.records.provenance import processor_maker
from dm2core.records.verify import leave_out, verify
from dm2core.train import train_cell

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "config.yaml"


def change(path: Path, edit: Callable[[str], str]) -> None:
    """Edit a manifest and seal it anew."""
    text = re.sub(r'"seal": "\w*"', f'"seal": "{NO_SEAL}"', edit(path.read_text()))
    path.write_bytes(seal(text.encode()))


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    tiny = {
        "budget": {"env_steps": 1000, "eval_every": 1000, "eval_episodes": 2},
        "maps": {"3m": {"episodes_per_update": 8}},
    }
    config = load_config(CONFIG, {"scale": "smoke", **tiny})
    inputs = []
    for seed in (1, 2):
        folder = root / "cells" / f"seed{seed}"
        cell = cell_config(config, map_name="3m", method="ippo", seed=seed)
        train_cell(cell, folder, root.parent / f"state{seed}", None)
        inputs += [folder / "manifest.json", folder / "metrics.parquet"]
    shutil.copy(CONFIG, root / "config.yaml")
    for kind, name in (("table", "table.csv"), ("figure", "figure.csv")):
        job = Job(kind, hash_file(root / "config.yaml"), [root / "config.yaml", *inputs])
        (root / name).write_text("win_rate\n0.5\n")
        job.finish(root / f"{name}.manifest.json", [root / name])
        inputs = [root / name, root / f"{name}.manifest.json"]
    return root


def test_clean_tree(tree: Path) -> None:
    found = verify([tree])
    assert (found.damaged, found.downstream) == ({}, {})
    assert main(["verify", str(tree)]) == 0


def test_a_folder_without_a_manifest_is_not_called_fine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tmp_path)]) == 65
    assert capsys.readouterr().err == f"dm2: {tmp_path}: no manifest there, so nothing was checked\n"


def test_without_a_path_what_is_published_is_checked_too(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "results" / "reference" / "ours"
    shutil.copytree(tree, published)
    (published / "config").mkdir()
    (published / "config" / f"{hash_file(CONFIG)[:12]}.yaml").write_bytes(CONFIG.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["verify"]) == 65 and "no manifest there" in capsys.readouterr().err
    leave_out(published)
    assert main(["verify"]) == 0
    (published / "table.csv").write_text("win_rate\n0.6\n")
    assert main(["verify"]) == 65


def test_a_part_of_a_folder_is_read_with_the_folders_list(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    (copy / "cells" / "seed1" / "policy.safetensors").unlink()
    assert verify([copy / "cells"]).damaged
    leave_out(copy)
    for part in (copy / "cells", copy / "cells" / "seed1"):
        assert not verify([part]).damaged


def test_every_one_byte_edit_is_named(tree: Path) -> None:
    rng = random.Random(1)
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    for _ in range(100):
        path = rng.choice(files)
        good, stat = path.read_bytes(), path.stat()
        at = rng.randrange(len(good))
        path.write_bytes(good[:at] + bytes([good[at] ^ rng.randrange(1, 256)]) + good[at + 1 :])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        found = verify([tree])
        path.write_bytes(good)
        assert path.resolve() in found.damaged, (path, at)


def test_downstream_of_a_cell(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tree / "cells" / "seed1" / "metrics.parquet"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        assert main(["verify", str(tree)]) == 65
        found = verify([tree])
    finally:
        path.write_bytes(good)
    assert {tree / "table.csv", tree / "figure.csv"} <= set(found.downstream)
    assert "metrics.parquet" in capsys.readouterr().out


def test_mixed_numerics_are_said_downstream(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    cell = copy / "cells" / "seed1" / "manifest.json"
    change(cell, lambda text: text.replace('"threads": "1"', '"threads": "2"'))
    cells = sorted((copy / "cells").glob("*/manifest.json"))
    Job("table", "", cells).finish(copy / "t.manifest.json", [])
    table = read_manifest(copy / "t.manifest.json")
    assert isinstance(table, Manifest) and table.numerics["threads"] == ["1", "2"]
    assert "mixed numerics keys: threads 1 and 2" in table.not_for_publication
    Job("figure", "", [copy / "t.manifest.json"]).finish(copy / "f.manifest.json", [])
    figure = read_manifest(copy / "f.manifest.json")
    assert isinstance(figure, Manifest)
    assert "mixed numerics keys: threads 1 and 2" in figure.not_for_publication


def test_processors_of_two_makers_are_mixed_numerics_also_where_the_key_did_not_say_it_yet(
    tree: Path, tmp_path: Path
) -> None:
    assert [processor_maker(name) for name in ("AMD EPYC 9B14", "Genuine Intel(R) 0000", "Neoverse-N1")] == [
        "AMD",
        "Intel",
        "Neoverse-N1",
    ]
    shutil.copytree(tree / "cells", tmp_path / "cells")
    cells = sorted((tmp_path / "cells").glob("*/manifest.json"))
    for path, maker in zip(cells, ("AMD EPYC", "Intel(R) Xeon(R) Processor"), strict=True):
        change(path, lambda text: re.sub(r',\s*"processor": "[^"]*"', "", text))
        change(path, lambda text, maker=maker: re.sub(r'"cpu": "[^"]*"', f'"cpu": "{maker}"', text))
        cell = read_manifest(path)
        assert isinstance(cell, CellManifest) and "processor" not in cell.numerics
    numerics, reasons = judge(cells, {})
    assert numerics["processor"] == ["AMD", "Intel"]
    assert "mixed numerics keys: processor AMD and Intel" in reasons
    assert not any(reason.startswith("mixed") for reason in judge(cells[:1], {"processor": "AMD"})[1])


def test_qmix_in_its_two_forms_is_mixed_numerics_and_was_torch_before_there_were_two(
    tree: Path, tmp_path: Path
) -> None:
    assert "form" not in numerics_key() and numerics_key(form="fused")["form"] == "fused"
    shutil.copytree(tree / "cells", tmp_path / "cells")
    cells = sorted((tmp_path / "cells").glob("*/manifest.json"))
    assert "form" not in judge(cells, {})[0]
    for path in cells:
        change(path, lambda text: text.replace('"qmix": null', '"qmix": {"gamma": 0.99}'))
    assert judge(cells, {})[0]["form"] == ["torch"]
    change(cells[0], lambda text: text.replace('"threads": "1"', '"threads": "1", "form": "fused"'))
    assert "mixed numerics keys: form fused and torch" in judge(cells, {})[1]


def test_uncommitted_code_is_said_once_however_far_downstream(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    cells = sorted((copy / "cells").glob("*/manifest.json"))
    for cell in cells:
        change(cell, lambda text: re.sub(r'"dirty_sha256": "\w*"', '"dirty_sha256": ""', text))
    assert judge(cells, {})[1] == []
    change(cells[0], lambda text: text.replace('"dirty_sha256": ""', '"dirty_sha256": "12"'))
    assert judge(cells, {})[1] == ["uncommitted code made: cell"]
    assert judge(cells, {}, ["table"])[1] == ["uncommitted code made: cell, table"]


def test_one_attempt_with_uncommitted_code_is_enough(tree: Path, tmp_path: Path) -> None:
    """A cell may be begun with edited code and be finished, after a kill, with the code as it was."""
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    cell = copy / "cells" / "seed1" / "manifest.json"
    change(cell, lambda text: re.sub(r'"dirty_sha256": "\w*"', '"dirty_sha256": ""', text))
    assert judge([cell], {})[1] == []
    attempts = json.loads(cell.read_text())["attempts"]
    assert [len(one["commit"]) for one in attempts] == [40]
    change(cell, lambda text: text.replace('"dirty_sha256": ""', '"dirty_sha256": "12"', 1))
    manifest = json.loads(cell.read_text())
    manifest["code"]["dirty_sha256"], manifest["attempts"][0]["dirty_sha256"] = "", "12"
    change(cell, lambda _: json.dumps(manifest))
    assert judge([cell], {})[1] == ["uncommitted code made: cell"]


def test_an_input_that_is_not_what_its_manifest_says_is_refused(tree: Path, tmp_path: Path) -> None:
    """Damaged so that it still reads, or copied over from another cell; verify would say it, but later."""
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    cells = [copy / "cells" / seed for seed in ("seed1", "seed2")]
    inputs = [cell / name for cell in cells for name in ("metrics.parquet", "manifest.json")]
    Job("table", "", inputs)
    shutil.copy(inputs[2], inputs[0])
    with pytest.raises(
        DataError, match=r"seed1/metrics.parquet: not what manifest.json says, so it is damaged"
    ):
        Job("table", "", inputs)
    table = copy / "table.csv"
    table.write_text("win_rate\n0.9\n")
    with pytest.raises(DataError, match=r"table.csv: not what table.csv.manifest.json says"):
        Job("figure", "", [table, copy / "table.csv.manifest.json"])


def test_a_changed_input_manifest_is_refused(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "manifest.json"
    text = (tree / "cells" / "seed1" / "manifest.json").read_text()
    edited = text.replace('"threads": "1"', '"threads": "2"')
    for spoilt in (
        edited,
        re.sub(r'"seal": "[0-9a-f]', '"seal": "g', edited),
        re.sub(r'"seal": "\w+",?', "", edited),
    ):
        copy.write_text(spoilt)
        with pytest.raises(DataError, match="its seal does not fit"):
            Job("table", "", [copy])


def test_manifests_say_everything_and_nobodys_name(tree: Path) -> None:
    for path in (tree / "cells" / "seed1" / "manifest.json", tree / "figure.csv.manifest.json"):
        found, text = read_manifest(path), path.read_text()
        assert found.schema_version == VERSION
        assert len(found.code.dm2core_sha256) == len(found.lock_sha256 or "") == 64  # type: ignore[union-attr]
        assert found.host is not None and found.host.cores >= 1
        assert found.packages is not None and found.packages["numpy"] != "unknown"
        assert found.cpu_s is not None and found.cpu_s > 0 and found.peak_memory_mb
        assert found.started is not None and found.ended is not None and found.started <= found.ended
        names = [socket.gethostname(), *([getpass.getuser()] if getpass.getuser() != "root" else [])]
        assert not any(re.search(rf"\b{re.escape(name)}\b", text) for name in names)
    cell = read_manifest(tree / "cells" / "seed1" / "manifest.json")
    assert isinstance(cell, CellManifest) and (cell.kind, cell.seed, len(cell.attempts)) == ("cell", 1, 1)
    assert cell.attempts[0].numerics == cell.numerics and cell.numerics["simulator"] == simulator()


@pytest.mark.parametrize("field", ["code", "host", "packages", "wall_s", "ended"])
def test_a_field_that_is_missing_is_named(tree: Path, field: str) -> None:
    about = json.loads((tree / "figure.csv.manifest.json").read_bytes())
    del about[field]
    with pytest.raises(DataError, match=f"{field} is missing"):
        parse_manifest(json.dumps(about).encode(), Path("x"))


def test_manifests_of_version_1_are_read() -> None:
    cell = {"digest": "d", "config": {"keep_checkpoints": True, "seed": 7}, "outputs": {}, "env_steps": 9,
            "iterations": 1, "packages": {"torch": "2"}, "numerics": {"threads": "1"}, "peak_memory_mb": 5,
            "code": {"commit": "ab-dirty", "dm2core_sha256": "c"}, "last_attempt": {"wall_s": 1.0}, "inputs": {},
            "attempts": [{"started": "2026-01-02T03:04:05Z", "host": "h", "dm2core_sha256": "c"}]}  # fmt: skip
    old = parse_manifest(json.dumps(cell).encode(), Path("x"))
    assert isinstance(old, CellManifest) and (old.kind, old.seed) == ("expert", 7)
    assert old.code is not None and old.code.dirty
    table = {"schema_version": 1, "kind": "table", "config_sha256": "a", "inputs": {}, "outputs": {},
             "not_for_publication": [], "started": "2026-01-02T03:04:05Z", "seconds": 0.1}  # fmt: skip
    assert isinstance(parse_manifest(json.dumps(table).encode(), Path("x")), Manifest)
    with pytest.raises(DataError, match="newer than this program"):
        parse_manifest(json.dumps(table | {"schema_version": 3}).encode(), Path("x"))


def test_inputs_are_hashed_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("before")
    job = Job("table", "", [tmp_path / "in"])
    (tmp_path / "in").write_text("after")
    job.finish(tmp_path / "t.manifest.json", [])
    assert verify([tmp_path]).damaged == {tmp_path / "in": "its SHA-256 is not the one a manifest names"}


def test_a_picture_carries_the_hash_of_what_it_is_made_of(tree: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(tree / "table.csv", tmp_path / name)
        job = Job("figure", "", [tmp_path / name / "table.csv"])
        figure = Figure()
        figure.subplots().plot([1, 2])
        save(figure, tmp_path / name / "f", Stamp.of(job.made_from, ["a reason"]))
        made.append([tmp_path / name / f"f.{end}" for end in ("pdf", "png")])
        job.finish(tmp_path / name / "f.manifest.json", made[-1])
    assert [path.read_bytes() for path in made[0]] == [path.read_bytes() for path in made[1]]
    assert verify([tmp_path]).damaged == {}
    with Image.open(made[0][1]) as picture:
        assert picture.info["Source"] == f"dm2 made from {job.made_from}"
    save(figure, tmp_path / "one" / "f", Stamp.of("0" * 64, []))
    job.finish(tmp_path / "two" / "f.manifest.json", [])
    manifest = json.loads((tmp_path / "one" / "f.manifest.json").read_bytes())
    manifest |= {"outputs": {path.name: hash_file(path) for path in made[0]}, "seal": NO_SEAL}
    (tmp_path / "one" / "f.manifest.json").write_bytes(seal(json.dumps(manifest).encode()))
    said = verify([tmp_path / "one"]).damaged
    assert set(said) == set(made[0]) and "does not carry" in said[made[0][0]]


def test_files_without_a_manifest_are_listed(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    (tmp_path / "tree" / "stranger.csv").write_text("1")
    (tmp_path / "tree" / "logs").mkdir()
    (tmp_path / "tree" / "logs" / "a.log").write_text("1")
    found = verify([tmp_path / "tree"])
    assert found.unlisted == [tmp_path / "tree" / "stranger.csv"] and found.damaged == {}


def test_a_published_input_that_changed_is_named_with_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = tmp_path / "claims" / "claims.yaml"
    claims.parent.mkdir()
    claims.write_text("a")
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    monkeypatch.setattr("dm2core.records.verify.REPOSITORY", tmp_path)
    out = tmp_path / "results"
    out.mkdir()
    job = Job("verdict", "", [claims])
    (out / "verdict.csv").write_text("b")
    job.finish(out / "verdict.manifest.json", [out / "verdict.csv"])
    assert job.resources == {"claims/claims.yaml": hash_file(claims)} and job.inputs == {}
    assert verify([out]).damaged == {}
    claims.write_text("c")
    found = verify([out])
    assert set(found.damaged) == {claims} and out / "verdict.csv" in found.downstream


def test_a_killed_attempts_effort_is_what_it_last_reported(tmp_path: Path) -> None:
    """Once: an attempt that died before its first report has none."""
    Attempts(tmp_path, "cell", {"dm2core_sha256": "a"})
    (tmp_path / "progress.json").write_text(json.dumps({"env_steps": 9, "wall_s": 7.5, "cpu_s": 7.0}))
    Attempts(tmp_path, "cell", {"dm2core_sha256": "b"})
    assert json.loads((tmp_path / "progress.json").read_text()) == {
        "env_steps": 9
    }  # as `dm2 status` shows it
    said = Attempts(tmp_path, "cell", {"dm2core_sha256": "c"}).end()
    assert [one["dm2core_sha256"] for one in said["attempts"]] == ["a", "b", "c"]
    assert said["attempts"][0]["wall_s"] == 7.5 and "wall_s" not in said["attempts"][1]
    assert 7.5 <= said["wall_s"] < 15 and said["cpu_s"] > 7.0


@pytest.mark.parametrize("damage", ["[", '{"digest": "cell", "attempts": [{"starued": "x"}]}', "[[7]]", "{}"])
def test_damaged_attempts_are_told_and_left_out(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "attempts.json").write_text(damage)
    (tmp_path / "progress.json").write_text(json.dumps({"wall_s": "long"}))
    assert len(Attempts(tmp_path, "cell", {"dm2core_sha256": "b"}).end()["attempts"]) == 1
    assert "attempts.json is damaged; earlier attempts" in capsys.readouterr().err


def test_another_cells_attempts_are_not_this_ones_and_those_of_older_versions_are(tmp_path: Path) -> None:
    Attempts(tmp_path, "other", {"dm2core_sha256": "a"})
    assert len(Attempts(tmp_path, "cell", {"dm2core_sha256": "b"}).all) == 1
    (tmp_path / "attempts.json").write_text(json.dumps([{"started": "then", "wall_s": 1.0}]))
    assert len(Attempts(tmp_path, "cell", {"dm2core_sha256": "b"}).all) == 2


def test_pages_and_tests_do_not_make_code_uncommitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "dm2core"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "m"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    monkeypatch.setattr(provenance, "PACKAGE", package)
    look = provenance.code_version.__wrapped__
    clean = look()
    assert clean["dirty_sha256"] == "" and len(clean["commit"]) == 40
    (tmp_path / "README.md").write_text("page")
    assert look() == clean
    (package / "b.py").write_text("y = 1\n")  # not known to git
    strange = look()
    (package / "b.py").unlink()
    (package / "a.py").write_text("x = 2\n")
    edited = look()
    assert len({seen["dirty_sha256"] for seen in (clean, strange, edited)}) == 3
    assert edited["commit"] == clean["commit"]
    real = provenance._git
    for fails in ("diff", "ls-files"):  # as after 30 seconds on a slow disk
        monkeypatch.setattr(
            provenance, "_git", lambda *words, f=fails: None if words[0] == f else real(*words)
        )
        assert look()["dirty_sha256"]
    monkeypatch.setattr(provenance, "_git", real)
    monkeypatch.setattr(provenance, "REPOSITORY", package)  # inside a stranger's repository
    assert look()["commit"] == "unknown"


def test_what_was_left_out_on_purpose_is_not_damaged_but_what_is_there_is_checked(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "results"
    shutil.copytree(tree, copy)
    for path in copy.glob("cells/*/policy.safetensors"):
        path.unlink()
    assert main(["verify", str(copy)]) == 65
    assert leave_out(copy) == 2
    there = copy.resolve() / "cells" / "seed1" / "metrics.parquet"
    assert (
        there.exists() and leave_out(copy, {there}) == 3
    )  # what will be missing where others read the folder
    assert leave_out(copy) == 2
    capsys.readouterr()
    assert main(["verify", str(copy)]) == 0
    assert "0 damaged, 0 downstream, 0 unlisted, 2 left out on purpose" in capsys.readouterr().out
    (copy / "README.md").write_text("about it")
    assert main(["verify", str(copy / "README.md")]) == 0  # a file stands for the folder that it is in
    (copy / "cells" / "seed1" / "policy.safetensors").write_bytes(b"another")
    assert set(verify([copy]).damaged) == {copy / "cells" / "seed1" / "policy.safetensors"}
    (copy / "cells" / "seed1" / "policy.safetensors").unlink()
    (copy / "cells" / "seed1" / "metrics.parquet").unlink()  # gone, and nobody said that it would be
    found = verify([copy])
    assert set(found.damaged) == {copy / "cells" / "seed1" / "metrics.parquet"} and found.downstream
    (copy / "left_out.json").write_text("{")
    with pytest.raises(DataError, match=r"left_out\.json: is damaged"):
        verify([copy])


def test_the_smoke_scale_is_a_reason_not_to_publish_however_far_downstream(tmp_path: Path) -> None:
    Job("table", "", [], scale="smoke").finish(tmp_path / "t.manifest.json", [])
    Job("figure", "", [tmp_path / "t.manifest.json"]).finish(tmp_path / "f.manifest.json", [])
    figure = read_manifest(tmp_path / "f.manifest.json")
    assert isinstance(figure, Manifest) and SMOKE in figure.not_for_publication
    assert SMOKE not in Job("table", "", [], scale="quick").reasons


def test_copies_in_a_tracking_store_are_not_results(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results"
    shutil.copytree(tree, copy)
    artifacts = copy / "mlflow" / "artifacts"
    artifacts.mkdir(parents=True)
    shutil.copy(tree / "cells" / "seed1" / "manifest.json", artifacts)
    assert verify([copy]).damaged == {}
