"""`dm2 doctor` finds what is missing, says what to do, and its exit code speaks of the embedded default alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dm2core.cli import main
from dm2core.inspection import doctor
from dm2core.inspection.doctor import ASKED, DEFAULT, Check, examine

ROOT = Path(__file__).parents[2]


def test_this_installation_is_fit_and_every_fault_has_a_remedy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["fit"] is True
    assert {check["needed_for"] for check in said["checks"]} == {*(DEFAULT, "provenance", *ASKED.values())}
    assert all(check["do"] for check in said["checks"] if check["state"] != "ok")
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert "The embedded default can run." in page and "simulator" in page


def test_a_broken_package_is_named_and_the_exit_code_is_69(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    monkeypatch.setattr(
        doctor, "CHECKS", tuple(check for check in doctor.CHECKS if check[1] in ("Python", "torch"))
    )
    assert main(["doctor"]) == 69
    said = capsys.readouterr()
    assert "broken" in said.out and said.err == "dm2: embedded default: torch is broken; make setup\n"


def test_what_is_asked_for_and_missing_is_exit_code_69_with_the_first_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor", "slurm", "--json"]) == 69
    said = capsys.readouterr()
    assert said.err == "dm2: Slurm: sbatch is missing; run on a login node of the cluster\n"
    found = json.loads(said.out)
    assert found["fit"] is False and {check["needed_for"] for check in found["checks"]} == {"Slurm"}
    assert main(["doctor", "slurn"]) == 2
    assert "choose from embedded, smac" in capsys.readouterr().err


def test_the_real_games_own_checks_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [
        SimpleNamespace(what="maps", ok=False, to_do="unpack them"),
        SimpleNamespace(what="game", ok=True, to_do=""),
    ]
    monkeypatch.setattr(doctor, "preflight", lambda: checks)
    found = list(doctor._starcraft("StarCraft II", "backend"))
    assert [(check.what, check.state, check.do) for check in found] == [
        ("maps", "missing", "unpack them"),
        ("game", "ok", ""),
    ]


def test_a_full_disk_and_a_missing_package_are_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e8))
    assert [check.state for check in doctor._disk(DEFAULT, "disk")] == ["broken"]
    (tmp_path / "requirements.txt").write_text("no-such-package==1.0\nnumpy==0.1 ; x\n")
    monkeypatch.setattr(doctor.provenance, "REPOSITORY", tmp_path)
    found = next(doctor._packages(DEFAULT, "packages"))
    assert (found.state, found.found) == ("missing", "no-such-package of 2 locked")


def test_a_damaged_store_is_broken_and_a_whole_one_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, good in (("a", True), ("b", False)):
        store = tmp_path / "results" / name / "mlflow" / "mlflow.db"
        store.parent.mkdir(parents=True)
        if good:
            with sqlite3.connect(store) as connection:
                connection.execute("create table runs (x)")
            connection.close()
        else:
            store.write_bytes(b"no database" * 100)
    states = {check.what: check.state for check in doctor._mlflow("MLflow", "mlflow")}
    assert [states[f"results/{name}/mlflow/mlflow.db"] for name in "ab"] == ["ok", "broken"]


def test_a_check_that_raises_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(who: str, what: str) -> Iterator[Check]:
        raise RuntimeError("out of order")

    def right(who: str, what: str) -> Iterator[Check]:
        yield Check(who, what, "ok", "")

    monkeypatch.setattr(doctor, "CHECKS", ((DEFAULT, "one", wrong), (DEFAULT, "two", right)))
    assert [(check.what, check.state) for check in examine()] == [("one", "broken"), ("two", "ok")]
