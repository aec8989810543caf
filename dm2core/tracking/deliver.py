"""Delivery to an MLflow store, by one process: a run is complete and FINISHED, or it is made anew.

A run is known by its tags dm2.run, dm2.digest and results, the folder that it is of: one store may hold several scales'
runs. Nothing is ever added to a finished run, so delivering twice, or
after a kill at any moment, leaves every point there exactly once.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import tempfile
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dm2core.errors import ServiceError
from dm2core.tracking.runs import Point, Run, condition, read_card

BATCH = 1000  # points a request; the REST interface takes no more
ANSWER_S = 5.0
RUN, DIGEST, LIVE, FORM = "dm2.run", "dm2.digest", "dm2.live", "dm2.form"
CELL, RESULTS = "dm2.cell", "results"  # digest of a running cell's configuration; the folder of results
THIS_FORM = "5"  # of what a run holds; one of an earlier form is made anew


class Store:
    """One MLflow store. Raises ServiceError, one line, if it does not answer or cannot be written."""

    def __init__(self, uri: str, results: Path) -> None:
        """`uri` of a server or a database; empty: sqlite in the results folder."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("DO_NOT_TRACK", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # its own default waits for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        self.results = results.as_posix()
        folder = (results / "mlflow").resolve()
        self.uri = uri or f"sqlite:///{folder.as_posix()}/mlflow.db"
        self._artifacts = (
            None if self.uri.startswith(("http://", "https://")) else (folder / "artifacts").as_uri()
        )
        if self._artifacts is None:
            _ask(self.uri)
        else:
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow.tracking import MlflowClient  # 2 to 4 seconds

        self.client = self._try(lambda: MlflowClient(tracking_uri=self.uri))

    def deliver(self, run: Run) -> bool:
        """Make the store hold this run once; False if it did already."""
        return bool(self._try(lambda: self._deliver(run)))

    def live(self, name: str, experiment: str, digest: str, points: list[Point]) -> int:
        """Add points of a running cell to its provisional run: those after the ones it has. How many there are now.

        `digest` is that of the cell's configuration: one that was begun anew with another has a run of its own.
        """
        return int(self._try(lambda: self._live(name, experiment, digest, points)))

    def _try(self, action: Any) -> Any:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return action()
        except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
            text = str(error).strip().splitlines() or [type(error).__name__]
            damaged = isinstance(error, SQLAlchemyError) and self.uri.startswith("sqlite:")
            to_do = "delete this file if it is damaged, and" if damaged else "nothing is lost,"
            raise ServiceError(
                f"MLflow at {self.uri}: {text[0][:200]}; {to_do} run dm2 track again"
            ) from None

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":  # in MLflow's pages; nothing can be added to it then
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        place = f"{self._artifacts}/{name}" if self._artifacts else None
        kind = {
            "mlflow.experimentKind": "custom_model_development"
        }  # else the pages open as for language models
        return str(self.client.create_experiment(name, artifact_location=place, tags=kind))

    def _runs(self, experiment_id: str, name: str) -> list[Any]:
        """Those of these results; earlier forms did not say whose they are."""
        found = self.client.search_runs([experiment_id], f"tags.`{RUN}` = '{name}'")
        return [run for run in found if run.data.tags.get(RESULTS, self.results) == self.results]

    def _deliver(self, run: Run) -> bool:
        experiment = self._experiment(run.experiment)
        kept = False
        for old in self._runs(experiment, run.name):
            tags = old.data.tags
            good = (old.info.status, tags.get(DIGEST), tags.get(FORM)) == ("FINISHED", run.digest, THIS_FORM)
            if good and not kept:
                kept = True
            else:
                self.client.delete_run(old.info.run_id)
        if kept:
            return False
        start, end = run.times()
        tags = {RUN: run.name, DIGEST: run.digest, FORM: THIS_FORM, RESULTS: self.results, **run.tags()}
        run_id = self.client.create_run(
            experiment, start_time=start, tags=tags, run_name=run.name
        ).info.run_id
        self._log(run_id, run.points(), run.params())
        if run.card is not None:
            self.client.log_inputs(run_id, [_dataset(run.card)])
        for path in run.files():
            self.client.log_artifact(run_id, str(path))
        with tempfile.TemporaryDirectory() as folder:
            self.client.log_artifact(run_id, str(_picture(run, Path(folder))))
        self.client.set_terminated(run_id, "FINISHED", end_time=end)
        return True

    def _live(self, name: str, experiment: str, digest: str, points: list[Point]) -> int:
        experiment_id = self._experiment(experiment)
        found = []
        for old in self._runs(experiment_id, name):
            if LIVE in old.data.tags and old.data.tags.get(CELL, digest) == digest:
                found.append(old)
            elif LIVE in old.data.tags:
                self.client.delete_run(old.info.run_id)
        if found:
            run_id, there = found[0].info.run_id, int(found[0].data.tags[LIVE])
        else:
            tags = dict(zip(("map", "method", "demos", "seed"), name.split("/"), strict=False))
            tags |= {RUN: name, LIVE: "0", CELL: digest, RESULTS: self.results, "condition": condition(name)}
            first = points[0][2] if points else None
            run = self.client.create_run(
                experiment_id, start_time=first, tags=tags, run_name=f"{name} (running)"
            )
            run_id, there = run.info.run_id, 0
        self._log(run_id, points[there:], {})
        self.client.set_tag(run_id, LIVE, str(max(len(points), there)))
        return max(len(points), there)

    def _log(self, run_id: str, points: list[Point], params: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param

        entities = [Metric(key, value, time, steps) for key, value, time, steps in points]
        for at in range(0, len(entities), BATCH):
            self.client.log_batch(run_id, metrics=entities[at : at + BATCH])
        listed = [Param(key, value) for key, value in params.items()]
        for at in range(0, len(listed), 100):
            self.client.log_batch(run_id, params=listed[at : at + 100])


def deliver_all(store: Store, runs: Iterable[Run]) -> tuple[int, int]:
    """How many runs were imported, and how many were there."""
    imported = kept = 0
    for run in runs:
        if store.deliver(run):
            imported += 1
            print(f"imported {run.experiment}: {run.name}", flush=True)
        else:
            kept += 1
    return imported, kept


def _ask(uri: str) -> None:
    """A server that refuses, or takes a connection and never answers, is known within seconds."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_S):
            return
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        why = getattr(error, "reason", error)
        raise ServiceError(
            f"MLflow at {uri} does not answer ({why}); nothing is lost, run dm2 track again"
        ) from None


def _dataset(card: Path) -> Any:
    """The demonstration set as the run's input."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    about = read_card(card)
    profile = json.dumps({key: about.get(key) for key in ("win_rate", "episodes_per_agent", "obs_size")})
    dataset = Dataset(
        name=f"{about['map']}/{about['demos_id']}",
        digest=str(about["sha256"])[:36],
        source_type="local",
        source=json.dumps({"uri": card.parent.as_posix()}),
        profile=profile,
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "demonstrations")])


def _picture(run: Run, folder: Path) -> Path:
    """Win rate of the greedy policies over env steps."""
    curve = run.curve()
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve["env_steps"], curve["win_rate"], marker=".")
    axes.set(xlabel="env steps", ylabel="win rate, greedy", ylim=(-0.02, 1.02), title=run.name)
    axes.grid(alpha=0.25)
    path = folder / "win_rate.png"
    figure.savefig(path, dpi=110)
    return path
