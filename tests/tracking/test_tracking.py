"""Every point of every finished cell is in MLflow exactly once, whatever happens to who delivers it."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from dm2core.config import Config
from dm2core.errors import DataError, ServiceError
from dm2core.tracking.deliver import Store, deliver_all
from dm2core.tracking.live import follow_once, running, written
from dm2core.tracking.runs import due, finished_runs
from tests.tracking.conftest import ROOT, write_cell

FIGURE = ["demo_ablation"]


def deliver(config: Config) -> tuple[int, int]:
    return deliver_all(Store("", Path(config.results)), finished_runs(config, FIGURE))


def in_store(config: Config) -> pd.DataFrame:
    """Points of runs that are not deleted: run name, key, step, value."""
    query = (
        "select t.value as name, m.key, m.step, m.value, m.timestamp from metrics m join runs r using (run_uuid)"
        " join tags t using (run_uuid) where t.key = 'dm2.run' and r.lifecycle_stage = 'active'"
    )
    with sqlite3.connect(Path(config.results) / "mlflow" / "mlflow.db") as connection:
        return pd.read_sql_query(query, connection)


def in_files(config: Config) -> pd.DataFrame:
    parts = []
    for path in sorted(Path(config.results).glob("cells/*/*/*/*/metrics.parquet")):
        name = path.parent.relative_to(Path(config.results) / "cells").as_posix()
        rows = pd.read_parquet(path)
        cell = json.loads(path.with_name("manifest.json").read_text())["config"]
        both = pd.concat([rows, due(rows, cell["eval_every"], cell["env_steps"])])
        parts.append(both.assign(name=name))
    return pd.concat(parts).rename(columns={"env_steps": "step"})


def same(config: Config) -> bool:
    columns = ["name", "key", "step", "value"]
    one, two = (
        table[columns].sort_values(columns).reset_index(drop=True)
        for table in (in_store(config), in_files(config))
    )
    return one.equals(two)


def test_everything_arrives_once_and_a_second_call_changes_nothing(tree: Config) -> None:
    assert deliver(tree) == (4, 0)
    assert same(tree)
    assert deliver(tree) == (0, 4)
    assert same(tree)


def test_a_run_carries_config_tags_demonstrations_and_files(
    tree: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replay goes to the runs that play in it alone."""
    monkeypatch.chdir(tmp_path)
    Path("figures").mkdir()
    Path("figures/replay_3m.gif").write_bytes(b"GIF89a")
    ippo = next(run for run in finished_runs(tree, FIGURE) if run.name == "3m/ippo/none/seed112358")
    Path("battles").mkdir()
    recording, replay = Path("battles/ippo.manifest.json"), Path("figures/replay_3m.manifest.json")
    recording.write_text(json.dumps({"inputs": {f"../{ippo.folder}/manifest.json": ippo.digest}}))
    replay.write_text(json.dumps({"inputs": {f"../{recording}": "0" * 64}}))
    deliver(tree)
    store = Store("", Path(tree.results))
    experiment = store.client.get_experiment_by_name("demo_ablation")
    runs = store.client.search_runs(
        [experiment.experiment_id], "tags.method = 'dm2' and tags.seed = '112358'"
    )
    for found in store.client.search_runs([experiment.experiment_id]):
        held = {item.path for item in store.client.list_artifacts(found.info.run_id)}
        assert ("replay_3m.gif" in held) == (found.info.run_name == ippo.name)
    assert [run.info.run_name for run in runs] == ["3m/dm2/ippo-q50_joint-concurrent/seed112358"]
    run = runs[0]
    assert run.data.params["ppo.lr"] == "0.0005" and "qmix" not in run.data.params
    assert run.data.tags["condition"] == "dm2@ippo-q50_joint-concurrent"
    assert run.data.tags["slurm_job_id"] == "17" and run.data.tags["commit"] == "abc"
    assert run.inputs.dataset_inputs[0].dataset.name == "3m/ippo-q50_joint-concurrent"
    files = {item.path for item in store.client.list_artifacts(run.info.run_id)}
    assert files == {"manifest.json", "policy.safetensors", "card.json", "win_rate.png"}
    assert run.info.end_time - run.info.start_time == 60_000
    assert run.data.metrics["eval/win_rate"] == pytest.approx(pd.read_parquet(
        Path(tree.results) / "cells" / run.info.run_name / "metrics.parquet")["value"].iloc[-1])  # fmt: skip


def test_condition_is_the_curve_with_the_settings_that_its_name_changes(tree: Config) -> None:
    run = next(run for run in finished_runs(tree, FIGURE) if run.name.startswith("3m/dm2/"))
    for name, condition in (
        ("3m/bc_ippo+lr=0.001/ippo-q50_joint-concurrent/seed1", "bc_ippo+lr=0.001@ippo-q50_joint-concurrent"),
        ("3m/ippo+lr=0.001/none/seed1", "ippo+lr=0.001"),
        ("3m/ippo/seed1", "ippo"),
    ):
        assert dataclasses.replace(run, name=name).tags()["condition"] == condition


def test_evaluations_of_all_seeds_meet_at_the_steps_when_they_were_due() -> None:
    for passed in ([0, 1013, 2001, 3040], [0, 1199, 2950, 3000]):
        rows = pd.DataFrame({"env_steps": [*passed, 700], "key": ["eval/win_rate"] * 4 + ["train/loss"]})
        rows["value"] = [0.0, 0.25, 0.5, 1.0, 9.0]
        found = due(rows, 1000, 3000)
        assert found["env_steps"].tolist() == [0, 1000, 2000, 3000]
        assert set(found["key"]) == {"eval_due/win_rate"}
        assert found["value"].tolist() == [0.0, 0.25, 0.5, 1.0]


def test_a_cell_that_was_run_again_replaces_its_run(tree: Config) -> None:
    deliver(tree)
    write_cell(Path(tree.results), "3m/ippo/none/seed112358", 900)
    assert deliver(tree) == (1, 3)
    assert same(tree)


def test_a_deliverer_killed_at_any_moment_loses_and_doubles_nothing(tree: Config) -> None:
    code = (
        "import sys; from tests.tracking.test_tracking import *; from dm2core.config import load_config;"
        "config = load_config(ROOT / 'config/config.yaml', {'scale': 'smoke', 'results': sys.argv[1]});"
        "store = Store('', Path(config.results)); print('ready', flush=True);"
        "deliver_all(store, finished_runs(config, FIGURE))"
    )
    command = [sys.executable, "-c", code, tree.results]
    killed = 0
    for wait in (0.05, 0.4):
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(wait)
        killed += child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert killed
    deliver(tree)
    assert same(tree)
    assert deliver(tree) == (0, 4)


def test_a_server_that_refuses_or_never_answers_is_one_line_in_seconds(tree: Config) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    free = socket.create_server(("127.0.0.1", 0))
    refused = free.getsockname()[1]
    free.close()
    for port in (refused, silent.getsockname()[1]):
        began = time.monotonic()
        with pytest.raises(ServiceError) as error:
            Store(f"http://127.0.0.1:{port}", Path(tree.results))
        assert "\n" not in str(error.value) and f"127.0.0.1:{port}" in str(error.value)
        assert time.monotonic() - began < 15
    silent.close()
    with pytest.raises(ServiceError, match="MLflow at http://localhost:abc does not answer"):
        Store("http://localhost:abc", Path(tree.results))


def test_a_locked_store_is_one_line_and_delivery_goes_on_later(tree: Config) -> None:
    store = Store("", Path(tree.results))
    runs = list(finished_runs(tree, FIGURE))
    store.deliver(runs[0])
    connection = sqlite3.connect(Path(tree.results) / "mlflow" / "mlflow.db", check_same_thread=False)
    connection.execute("begin exclusive")
    failed: list[str] = []

    def try_it() -> None:
        try:
            store.deliver(runs[1])
        except ServiceError as error:
            failed.append(str(error))

    worker = threading.Thread(target=try_it)
    worker.start()
    worker.join(60)
    connection.rollback()
    connection.close()
    assert len(failed) == 1 and "\n" not in failed[0]
    assert deliver(tree) == (3, 1)
    assert same(tree)


def test_a_damaged_manifest_is_named(tree: Config) -> None:
    path = Path(tree.results) / "cells/3m/ippo/none/seed112358/manifest.json"
    path.write_text("{")
    with pytest.raises(DataError, match=r"seed112358/manifest\.json is damaged"):
        deliver(tree)


def test_damaged_metrics_and_a_store_without_its_driver_are_one_line(
    tree: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(tree.results) / "cells/3m/ippo/none/seed112358/metrics.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"seed112358/metrics\.parquet is damaged"):
        deliver(tree)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(ServiceError, match="MLflow at postgresql"):
        Store("postgresql://nobody@127.0.0.1:1/x", Path(tree.results))


def test_a_damaged_store_is_one_line_with_its_remedy(tree: Config) -> None:
    store = Path(tree.results) / "mlflow" / "mlflow.db"
    store.parent.mkdir(exist_ok=True)
    store.write_bytes(b"no database at all" * 100)
    with pytest.raises(ServiceError, match=r"mlflow.db: .*; delete this file if it is damaged, and run dm2"):
        deliver(tree)


def test_an_experiment_that_was_deleted_in_mlflow_comes_back(tree: Config) -> None:
    deliver(tree)
    client = Store("", Path(tree.results)).client
    experiment = client.get_experiment_by_name("demo_ablation")
    client.delete_experiment(experiment.experiment_id)
    imported, kept = deliver(tree)
    assert imported + kept == 4 and same(tree)
    assert client.get_experiment(experiment.experiment_id).lifecycle_stage == "active"


def test_a_running_cell_is_followed_and_then_replaced(tree: Config) -> None:
    results, name = Path(tree.results), "3m/ippo/none/seed78590"
    state = results / "state" / "cells" / name
    state.mkdir(parents=True)
    attempts = {"digest": "a", "attempts": [{"started": "2026-01-02T03:04:05Z"}]}
    (state / "attempts.json").write_text(json.dumps(attempts))
    lines = [json.dumps([i, 100 * i, "eval/win_rate", i / 10]) + "\n" for i in range(6)]
    log, store = state / "metrics.jsonl", Store("", results)
    log.write_text("".join(lines[:3]) + lines[3][:9])  # the last line is being written
    assert running(results) == [name]
    assert store.live(name, "demo_ablation", *written(state)) == 3
    log.write_text("".join(lines))
    assert store.live(name, "demo_ablation", *written(state)) == 6
    assert Store("", results).live(name, "demo_ablation", *written(state)) == 6
    table = in_store(tree)
    assert table["step"].tolist() == [0, 100, 200, 300, 400, 500]
    write_cell(results, name, 30)
    assert running(results) == []
    figure_seeds = tree.model_copy(update={"seeds": [78590]})
    assert deliver(figure_seeds)[0] == 1
    assert len(in_store(tree).query("name == @name and key == 'eval/win_rate'")) == 30


def test_a_cell_that_was_begun_anew_otherwise_has_no_points_of_what_it_was(tree: Config) -> None:
    results, name = Path(tree.results), "3m/ippo/none/seed78590"
    state, store = results / "state" / "cells" / name, Store("", results)
    state.mkdir(parents=True)
    for digest, value, count in (("a", 0.9, 6), ("b", 0.1, 4)):
        attempts = {"digest": digest, "attempts": [{"started": "2026-01-02T03:04:05Z"}]}
        (state / "attempts.json").write_text(json.dumps(attempts))
        lines = [json.dumps([i, 100 * i, "eval/win_rate", value]) + "\n" for i in range(count)]
        (state / "metrics.jsonl").write_text("".join(lines))
        store.live(name, "demo_ablation", *written(state))
    assert in_store(tree).query("name.str.startswith(@name)")["value"].tolist() == [0.1] * 4


def test_followed_cells_are_delivered_when_they_are_finished(tree: Config) -> None:
    results, name = Path(tree.results), "3m/ippo/none/seed78590"
    config = tree.model_copy(update={"seeds": [78590]})
    state, store = results / "state" / "cells" / name, Store("", results)
    state.mkdir(parents=True)
    (state / "attempts.json").write_text(
        json.dumps({"digest": "a", "attempts": [{"started": "2026-01-02T03:04:05Z"}]})
    )
    (state / "metrics.jsonl").write_text(json.dumps([0, 0, "eval/win_rate", 0.5]) + "\n")
    figures = ["demo_ablation"]
    followed = follow_once(store, config, figures, results, set())
    assert followed == {name}
    write_cell(results, name, 30)
    assert follow_once(store, config, figures, results, followed) == set()
    assert len(in_store(tree).query("name == @name and key == 'eval/win_rate'")) == 30


def test_one_store_holds_the_runs_of_several_scales(tree: Config, tmp_path: Path) -> None:
    """Their cells have the same names."""
    uri = f"sqlite:///{tmp_path}/shared.db"
    there = list(finished_runs(tree, ["demo_ablation"]))
    assert deliver_all(Store(uri, Path(tree.results)), there)[0] == len(there) > 0
    assert deliver_all(Store(uri, tmp_path / "other"), there)[0] == len(there)
    assert deliver_all(Store(uri, Path(tree.results)), there) == (0, len(there))


def test_only_tracking_imports_mlflow_and_a_cell_never_does() -> None:
    users = set()
    for path in (ROOT / "dm2core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "mlflow" for name in names):
                users.add(path.relative_to(ROOT).as_posix())
    assert users == {"dm2core/tracking/deliver.py"}
    code = "import sys, dm2core.cli, dm2core.train; raise SystemExit('mlflow' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), check=False).returncode
        == 0
    )
