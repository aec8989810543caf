"""Where every result of a run comes from, on one page: what `dm2 verify` found, code, machines, effort, hashes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from dm2core.records.manifest import CellManifest, Manifest, merge_reasons
from dm2core.records.verify import LIMIT, Chain, Findings

TRAINED = ("cell", "expert")
SHORT = 12  # hex digits that are shown of a hash


def page(chain: Chain, found: Findings, roots: Sequence[Path]) -> str:
    """Markdown; `chain` and `found` are of the same `roots`, whose parent names are left out."""
    base = Path(os.path.commonpath([root.resolve().parent for root in roots]))
    there = sorted(chain.manifests.items())
    made = [(path, m) for path, m in there if isinstance(m, Manifest)]
    trained = [(path, m) for path, m in there if isinstance(m, CellManifest)]
    reasons = merge_reasons({reason for _, m in made for reason in m.not_for_publication})
    parts = [
        "# Provenance",
        *(f"Not for publication: {reason}." for reason in reasons),
        *_verified(found, base),
        f"Effort: {_effort([m for _, m in there])}.",
        "## Made with",
        _table(["what", "which", "results"], _made_with([m for _, m in there])),
        "## Figures, tables, verdict, demonstrations",
        "`made from` is the hash over kind, configuration and inputs that a picture carries in its own bytes.",
        _table(
            ["result", "kind", "made from", "configuration", "seeds", "commit", "finished, UTC"],
            [_made_row(path, m, base) for path, m in made],
        ),
        "## Trained cells and experts",
        "`dm2 explain` tells more about each. `digest` is of its configuration, `metrics` of its numbers.",
        _table(
            [
                "run",
                "kind",
                "env steps",
                "hours",
                "CPU hours",
                "MiB",
                "attempts",
                "digest",
                "metrics",
                "commit",
            ],
            [_trained_row(path, m, base) for path, m in trained],
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verified(found: Findings, base: Path) -> Iterable[str]:
    if not found.damaged:
        yield f"{found.checked} files checked by SHA-256: each is what its manifest says. {LIMIT}"
        return
    yield f"Not for publication: {len(found.damaged)} of {found.checked} files are not what their manifests say."
    yield _table(
        ["damaged", "how"], [[_name(path, base), what] for path, what in sorted(found.damaged.items())]
    )
    if found.downstream:
        yield f"Made from them: {', '.join(_name(path, base) for path in sorted(found.downstream))}."


def _effort(manifests: Iterable[CellManifest | Manifest]) -> str:
    cpu = {"experts": 0.0, "cells": 0.0, "all else": 0.0}
    for m in manifests:
        cpu[f"{m.kind}s" if m.kind in TRAINED else "all else"] += m.cpu_s or 0.0
    return ", ".join(f"{kind} {_hours(seconds)} CPU hours" for kind, seconds in cpu.items())


def _made_with(manifests: Iterable[CellManifest | Manifest]) -> list[list[str]]:
    counts = Counter[tuple[str, str]]()
    for m in manifests:
        said = [("commit", _commit(m, 40))]
        if m.lock_sha256 is not None:
            said.append(("requirements.txt", m.lock_sha256[:SHORT] or "none"))
        if m.host is not None:
            said.append(("machine", f"{m.host.cpu}, {m.host.cores} cores, {m.host.system}"))
        said += [(name, version) for name, version in (m.packages or {}).items()]
        for name, value in m.numerics.items() if isinstance(m, CellManifest) else ():
            said.append((f"numerics: {name}", value))
        counts.update(said)
    order = {name: at for at, name in enumerate(dict.fromkeys(name for name, _ in counts))}
    listed = sorted(counts.items(), key=lambda item: (order[item[0][0]], -item[1]))
    return [[name, f"`{value}`" if name == "commit" else value, str(n)] for (name, value), n in listed]


def _made_row(path: Path, m: Manifest, base: Path) -> list[str]:
    when = (m.ended or m.started or "").replace("T", " ").removesuffix("Z")
    name = path.parent if path.name == "manifest.json" else path.with_name(path.name.split(".")[0])
    hashes = [f"`{text[:SHORT]}`" if text else "" for text in (m.made_from, m.config_sha256)]
    seeds = ", ".join(map(str, m.seeds))
    return [_name(name, base), m.kind, *hashes, seeds, _commit(m, SHORT), when]


def _trained_row(path: Path, m: CellManifest, base: Path) -> list[str]:
    wall = m.wall_s if m.wall_s is not None else m.last_attempt.get("wall_s", 0.0)
    return [
        _name(path.parent, base),
        m.kind,
        f"{m.env_steps:,}",
        _hours(wall),
        _hours(m.cpu_s) if m.cpu_s is not None else "",
        str(m.peak_memory_mb or ""),
        str(len(m.attempts)),
        f"`{m.digest[:SHORT]}`",
        f"`{m.outputs.get('metrics.parquet', '')[:SHORT]}`",
        _commit(m, SHORT),
    ]


def _commit(m: CellManifest | Manifest, digits: int) -> str:
    if m.code is None:
        return "not recorded"
    return m.code.commit.removesuffix("-dirty")[:digits] + (", uncommitted changes" if m.code.dirty else "")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g}"


def _name(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "None."
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)
