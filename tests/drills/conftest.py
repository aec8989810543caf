"""Drills: what tests/shell shows a few times, hundreds of times. `make drills` runs them and keeps their table."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.pack.test_kills import pack_config
from tests.shell.conftest import ROOT, cells, config, demo_sets, experts

__all__ = ["cells", "config", "demo_sets", "experts", "pack_config"]

_rows: list[str] = []
_skipped: dict[str, str] = {}  # node id -> why
Say = Callable[[str], None]


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Iterator[Say]:
    """Called with what a drill reached; it stands in the log with the drill's name and time."""
    began, told = time.monotonic(), list[str]()
    yield told.append
    seconds = time.monotonic() - began
    told = told or [_skipped.get(request.node.nodeid, "failed")]
    _rows.append(f"| `{request.node.name}` | {'; '.join(told)} | {seconds:.0f} |")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        _skipped[item.nodeid] = report.longrepr[2]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _rows:
        return
    table = "\n".join(["| drill | reached | s |", "|---|---|---|", *_rows])
    path: Path = ROOT / "results" / "drills" / f"{time.strftime('%Y%m%dT%H%M%S')}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table + "\n")
    terminalreporter.write_line(f"\n{table}\n\nkept in {path}")
