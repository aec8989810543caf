"""docs/reliability.md names tests that exist, one row per promise."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_every_test_in_the_promise_table_exists() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 50
    assert named <= there, sorted(named - there)


def test_there_is_one_row_per_promise() -> None:
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)] == list(range(1, 27))


def test_every_drill_is_in_the_table() -> None:
    drills = [path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "drills").glob("test_*.py")]
    assert set(re.findall(r"^def (test_\w+)", "\n".join(drills), re.MULTILINE)) <= set(
        re.findall(r"`(test_\w+)`", PAGE)
    )
