"""`dm2 verify`: every file that a manifest names, checked by SHA-256, and what depends on the damaged ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dm2core.errors import DataError
from dm2core.manifest import hash_file, sealed


@dataclass(frozen=True)
class Findings:
    """`damaged` and `downstream` are path -> what is wrong; `checked` counts files."""

    damaged: dict[Path, str]
    downstream: dict[Path, str]
    checked: int


def verify(roots: Iterable[Path]) -> Findings:
    """Check all `manifest.json` and `*.manifest.json` below `roots`; modification times play no part."""
    damaged: dict[Path, str] = {}
    uses: dict[Path, list[Path]] = {}
    hashes: dict[Path, str] = {}
    for path in sorted({p.resolve() for root in roots for p in _manifests(root)}):
        data = path.read_bytes()
        hashes.setdefault(path, "")
        try:
            found: Any = json.loads(data)
            outputs = {path.parent / k: str(v) for k, v in found["outputs"].items()}
            inputs = {(path.parent / k).resolve(): str(v) for k, v in found.get("inputs", {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged[path] = "is not a manifest"
            continue
        if sealed(data) is False or (sealed(data) is None and "schema_version" in found):
            damaged[path] = "its own seal does not fit"
        for name, expected in {**outputs, **inputs}.items():
            _check(name, expected, hashes, damaged)
        for name in inputs:
            uses.setdefault(name, []).extend([*outputs, path])
        for name in outputs:
            uses.setdefault(path, []).append(name)
    return Findings(damaged, _downstream(damaged, uses), len(hashes))


def _manifests(root: Path) -> list[Path]:
    if not root.exists():
        raise DataError(f"{root}: no such file or folder")
    folder = root if root.is_dir() else root.parent
    found = [*folder.rglob("manifest.json"), *folder.rglob("*.manifest.json")]
    return [path for path in found if "mlflow" not in path.relative_to(folder).parts]  # copies, not results


def _check(path: Path, expected: str, hashes: dict[Path, str], damaged: dict[Path, str]) -> None:
    try:
        hashes[path] = hashes.get(path) or hash_file(path)
    except DataError:
        hashes[path] = ""
        damaged.setdefault(path, "is missing or cannot be read")
        return
    if hashes[path] != expected:
        damaged.setdefault(path, "its SHA-256 is not the one a manifest names")


def _downstream(damaged: dict[Path, str], uses: dict[Path, list[Path]]) -> dict[Path, str]:
    reached: dict[Path, str] = {}
    todo = [(path, path) for path in damaged]
    while todo:
        at, cause = todo.pop()
        for name in uses.get(at, []):
            if name not in reached and name not in damaged:
                reached[name] = f"made from {cause}"
                todo.append((name, cause))
    return reached


def report(roots: Iterable[Path]) -> bool:
    """Print the findings; whether all is well."""
    found = verify(roots)
    for path, what in sorted(found.damaged.items()):
        print(f"damaged     {path}: {what}")
    for path, what in sorted(found.downstream.items()):
        print(f"downstream  {path}: {what}")
    print(f"{found.checked} files checked, {len(found.damaged)} damaged, {len(found.downstream)} downstream")
    return not found.damaged
