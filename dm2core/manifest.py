"""Manifests of tables, figures and demonstration sets: what went in, what came out, by SHA-256 (ours).

Paths in a manifest are relative to its folder, so that a tree can be moved. A manifest's own bytes are sealed by
a SHA-256 inside it. This shows accidents and edits; it is no protection against a forger.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from dm2core.errors import DataError

NO_SEAL = "0" * 64
_SEAL = re.compile(rb'"seal": "([0-9a-f]{64})"')


class Manifest(BaseModel):
    """Beside its outputs; `inputs` and `outputs` are path -> SHA-256 (hex), times are UTC, `seconds` monotonic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = 1
    kind: str  # demonstrations, table, figure
    config_sha256: str  # of the resolved configuration, as `dm2 config` prints it
    inputs: dict[str, str]
    outputs: dict[str, str]
    not_for_publication: list[str]
    started: str
    seconds: float
    seal: str = NO_SEAL


class Job:
    """Hashes the inputs when it is made, which is before the work; `finish` hashes the outputs."""

    def __init__(self, kind: str, config_sha256: str, inputs: Iterable[Path]) -> None:
        self.kind, self.config_sha256 = kind, config_sha256
        self.inputs = {path.absolute(): hash_file(path) for path in inputs}
        self.started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._start = time.monotonic()

    def finish(self, path: Path, outputs: Iterable[Path]) -> None:
        """Write the manifest to `path`."""
        base = path.absolute().parent
        manifest = Manifest(
            kind=self.kind,
            config_sha256=self.config_sha256,
            inputs={os.path.relpath(at, base): sha256 for at, sha256 in self.inputs.items()},
            outputs={os.path.relpath(at.absolute(), base): hash_file(at) for at in outputs},
            not_for_publication=reasons_against(self.inputs),
            started=self.started,
            seconds=round(time.monotonic() - self._start, 3),
        )
        part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        part.write_bytes(seal((json.dumps(manifest.model_dump(), indent=2) + "\n").encode()))
        os.replace(part, path)


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; DataError if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def seal(data: bytes) -> bytes:
    """The manifest's bytes with the hash of themselves, their seal taken as zeros."""
    digest = hashlib.sha256(data).hexdigest()
    return data.replace(f'"seal": "{NO_SEAL}"'.encode(), f'"seal": "{digest}"'.encode())


def sealed(data: bytes) -> bool | None:
    """Whether the seal fits the bytes; None if there is none (made by an earlier version)."""
    found = _SEAL.search(data)
    if found is None:
        return None
    bare = data[: found.start(1)] + NO_SEAL.encode() + data[found.end(1) :]
    return hashlib.sha256(bare).hexdigest().encode() == found[1]


def read_manifest(path: Path) -> Manifest:
    """DataError if it is not a manifest of this form."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{path}: not a manifest ({str(error).splitlines()[0]})") from None


def reasons_against(inputs: Iterable[Path]) -> list[str]:
    """Why results made of these inputs are not for publication: another machine's bits, uncommitted code."""
    keys, dirty = set(), False
    reasons: set[str] = set()
    for path in inputs:
        if path.name == "manifest.json":
            cell = json.loads(path.read_bytes())
            if "numerics" in cell:
                keys.add(json.dumps(cell["numerics"], sort_keys=True))
            dirty = dirty or "-dirty" in json.dumps(cell)
        elif path.name.endswith(".manifest.json"):
            reasons.update(read_manifest(path).not_for_publication)
    if len(keys) > 1:
        reasons.add("cells of different numerics keys: " + " and ".join(sorted(keys)))
    if dirty:
        reasons.add("cells made with uncommitted code")
    return sorted(reasons)
