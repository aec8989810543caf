"""docs/paper_map.md names functions and tests that exist."""

from __future__ import annotations

import importlib
import re

import pytest

from .conftest import ROOT

ROWS = re.findall(
    r"^\| (?!paper \||---)(.+?) \| `([\w.]+)` \| `([^`]+)` \|$",
    (ROOT / "docs" / "paper_map.md").read_text(),
    re.M,
)


@pytest.mark.parametrize(("place", "function", "test"), ROWS, ids=[row[0] for row in ROWS])
def test_named_function_and_test_exist(place: str, function: str, test: str) -> None:
    assert place
    path = ("dm2core." + function).split(".")
    for cut in range(len(path) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(path[:cut]))
        except ModuleNotFoundError:
            continue
        for name in path[cut:]:
            found = getattr(found, name)
        break
    assert callable(found)
    file, _, name = test.partition("::")
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert f"def {name}(" in text if name else "def test_" in text


def test_every_row_of_the_table_is_read() -> None:
    lines = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8").splitlines()
    assert len(ROWS) == sum(line.startswith("| ") for line in lines) - 1 >= 30
