"""Checkpoints and tensors: hashed, versioned, and never able to run code.

A sealed file is a line of JSON (what it is, SHA-256 of everything) and safetensors bytes; the hash is checked before
the bytes are parsed, because safetensors itself loads most bit flips silently. Of checkpoints two generations are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from dm2core.errors import DataError
from dm2core.records.files import write_atomic, write_error

FORMAT = 2
NAMES = ("checkpoint", "checkpoint.previous")


@dataclass(frozen=True)
class Progress:
    """Where a cell stands at an iteration boundary."""

    digest: str  # of the cell's configuration
    iteration: int
    env_steps: int
    metrics_bytes: int  # length of the metrics log at this point; what lies beyond is from a lost iteration
    metrics_sha256: str  # of that part of the log
    next_eval: int  # env steps at which the next evaluation is due


def read_file(path: Path, sha256: str | None = None) -> bytes:
    """A file's bytes, checked against `sha256` (hex) if given; DataError if unreadable or not those."""
    try:
        if path.is_fifo():
            raise DataError(f"{path}: cannot be read (it is a pipe)")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{path}: damaged, its SHA-256 is not the one its manifest names; make it again")
    return data


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Plain safetensors file."""
    write_atomic(path, _pack(tensors, metadata))


def load_tensors(path: Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, its bytes checked against `sha256` first if given; DataError otherwise."""
    try:
        return load_safetensors(read_file(path, sha256))
    except SafetensorError as error:
        raise DataError(f"{path}: not a safetensors file ({str(error).splitlines()[0]})") from None


def load_metadata(path: Path) -> dict[str, str]:
    """What `save_tensors` was told about the file; {} for files of other origin. Reads the header alone."""
    try:
        with safe_open(path, framework="pt") as handle:
            about = json.loads((handle.metadata() or {}).get("dm2", "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{path}: not a safetensors file ({str(error).splitlines()[0]})") from None
    return {str(key): str(value) for key, value in about.items()} if isinstance(about, dict) else {}


def sha256_in_manifest(path: Path) -> str | None:
    """SHA-256 that the manifest beside a finished cell's output names; None if there is no such manifest."""
    try:
        found = json.loads((path.parent / "manifest.json").read_text())["outputs"][path.name]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(found)


def save_checkpoint(folder: Path, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write the newest generation; the one before it is kept."""
    newest, previous = (folder / name for name in NAMES)
    save_sealed(newest, progress, tensors, keep=previous)


def save_sealed(
    path: Path, progress: Progress, tensors: Mapping[str, torch.Tensor], keep: Path | None = None
) -> None:
    """One sealed file; `keep` as for `write_atomic`."""
    payload = _pack(tensors, {})
    head = {"format": FORMAT, "sha256": "", **asdict(progress)}
    head["sha256"] = _seal(head, payload)
    write_atomic(path, _canonical(head) + b"\n" + payload, keep)


def load_checkpoint(folder: Path, digest: str) -> tuple[Progress, dict[str, torch.Tensor]] | None:
    """Newest undamaged generation of this cell; None if there is none or it is another configuration's.

    A damaged one before it makes way for it, so that the next save keeps a good one; only for whoever holds the lock.
    DataError if every generation is damaged: nothing is thrown away silently.
    """
    damaged = []
    for name in NAMES:
        path = folder / name
        if not path.exists():
            continue
        found = load_sealed(path)
        if found is None:
            damaged.append(path)
            print(f"warning: {path} is damaged, falling back", file=sys.stderr)
            continue
        if found[0].digest != digest:
            print(f"warning: {path} belongs to another configuration, starting anew", file=sys.stderr)
            return None
        if damaged:
            drop_newest(folder)
        return found
    if damaged:
        raise DataError(f"{folder}: every checkpoint is damaged; delete the folder to start this cell anew")
    return None


def saved_iterations(folder: Path, digest: str) -> list[int]:
    """At which iterations this cell's undamaged generations stand, the newest first."""
    found = [load_sealed(folder / name) for name in NAMES if (folder / name).exists()]
    return [one[0].iteration for one in found if one is not None and one[0].digest == digest]


def drop_newest(folder: Path) -> None:
    """Go back one generation; to nothing, if there is no other."""
    newest, previous = (folder / name for name in NAMES)
    try:
        if previous.exists():
            os.replace(previous, newest)
        else:
            newest.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(newest, 0, error) from None


def load_sealed(path: Path) -> tuple[Progress, dict[str, torch.Tensor]] | None:
    """Inverse of `save_sealed`; None if damaged, DataError if missing or undamaged but of another format."""
    line, _, payload = read_file(path).partition(b"\n")
    try:
        head = json.loads(line)
        if head["sha256"] != _seal(head | {"sha256": ""}, payload):
            return None
        version = head.pop("format")
        del head["sha256"]
        if version == FORMAT:
            return Progress(**head), load_safetensors(payload)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
        return None
    raise DataError(f"{path}: written in format {version}, this version reads {FORMAT}; delete the folder")


def _seal(head: Mapping[str, object], payload: bytes) -> str:
    """SHA-256 (hex) of both, without a copy of the payload."""
    digest = hashlib.sha256(_canonical(head))
    digest.update(payload)
    return digest.hexdigest()


def _canonical(head: Mapping[str, object]) -> bytes:
    return json.dumps(head, sort_keys=True).encode()


def _pack(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Bytes that depend on content alone: safetensors writes several metadata keys in random order, so one is used.

    Tensors are taken as they lie, a replay may hold gigabytes.
    """
    about = {"dm2": json.dumps(dict(metadata), sort_keys=True)}
    return save_safetensors({k: v.detach().contiguous() for k, v in tensors.items()}, about)
