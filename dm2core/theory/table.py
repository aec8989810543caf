"""A row of theory.csv: one number, what it should be, and whether it is."""

from __future__ import annotations

COLUMNS = ["test", "statement", "game", "quantity", "value", "expected", "holds"]
Row = tuple[str, str, str, str, float, str, bool]
