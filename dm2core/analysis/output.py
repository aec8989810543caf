"""Tables and pictures written like all other results: whole or not at all, or one line with path and bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dm2core.records.files import write_atomic

if TYPE_CHECKING:  # tables need no matplotlib
    import pandas as pd
    from matplotlib.figure import Figure


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Without the index."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomic(path, buffer.getvalue())


def write_csv(table: pd.DataFrame, path: Path, float_format: str | None = None) -> None:
    """Without the index."""
    text = table.to_csv(index=False, float_format=float_format, lineterminator="\n")
    write_atomic(path, text.encode())


def write_text(text: str, path: Path) -> None:
    """UTF-8."""
    write_atomic(path, text.encode())


def write_picture(figure: Figure, path: Path, **options: Any) -> None:
    """In the format that the path's ending names."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], **options)
    write_atomic(path, buffer.getvalue())
