"""Files that survive anything: written whole or not at all, hashed, versioned, and never able to run code.

A checkpoint is a line of JSON (what it is, SHA-256 of the rest) and safetensors bytes. Two generations are kept.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from dm2core.errors import DataError, WriteError

FORMAT = 1
NAMES = ("checkpoint", "checkpoint.previous")


@dataclass(frozen=True)
class Progress:
    """Where a cell stands at an iteration boundary."""

    digest: str  # of the cell's configuration
    iteration: int
    env_steps: int
    metrics_bytes: int  # length of the metrics log at this point; what lies beyond is from a lost iteration
    next_eval: int  # env steps at which the next evaluation is due


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes; DataError if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, or leave it as it was; WriteError names path, size and free space."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(part, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise write_error(path, len(data), error) from None


def write_error(path: Path, size: int, error: OSError) -> WriteError:
    """One line for a failed write."""
    free = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        stats = os.statvfs(path.parent)
        free = f", {stats.f_bavail * stats.f_frsize} bytes free"
    return WriteError(f"{path}: cannot write {size} bytes ({error.strerror}{free}); make room and run again")


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Plain safetensors file."""
    write_atomic(path, _pack(tensors, metadata))


def load_tensors(path: Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, its bytes checked against `sha256` first if given; DataError otherwise."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{path}: damaged, its SHA-256 is not the one its manifest names; make it again")
    try:
        return load_safetensors(data)
    except SafetensorError as error:
        raise DataError(f"{path}: not a safetensors file ({str(error).splitlines()[0]})") from None


def save_checkpoint(folder: Path, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write the newest generation; the one before it is kept."""
    payload = _pack(tensors, {})
    head = {"format": FORMAT, "sha256": "", **asdict(progress)}
    head["sha256"] = hashlib.sha256(_canonical(head) + payload).hexdigest()
    newest, previous = (folder / name for name in NAMES)
    if newest.exists():
        os.replace(newest, previous)
    write_atomic(newest, _canonical(head) + b"\n" + payload)


def load_checkpoint(folder: Path, digest: str) -> tuple[Progress, dict[str, torch.Tensor]] | None:
    """Newest undamaged generation of this cell; None if there is none or it is another configuration's.

    DataError if every generation is damaged: nothing is thrown away silently.
    """
    damaged = []
    for name in NAMES:
        path = folder / name
        if not path.exists():
            continue
        found = _read(path)
        if found is None:
            damaged.append(path)
            print(f"warning: {path} is damaged, falling back", file=sys.stderr)
            continue
        if found[0].digest != digest:
            print(f"warning: {path} belongs to another configuration, starting anew", file=sys.stderr)
            return None
        return found
    if damaged:
        raise DataError(f"{folder}: every checkpoint is damaged; delete the folder to start this cell anew")
    return None


def _read(path: Path) -> tuple[Progress, dict[str, torch.Tensor]] | None:
    line, _, payload = path.read_bytes().partition(b"\n")
    try:
        head = json.loads(line)
        if head.pop("format") != FORMAT:
            return None
        stored = head.pop("sha256")
        expected = hashlib.sha256(_canonical({"format": FORMAT, "sha256": "", **head}) + payload).hexdigest()
        if stored != expected:
            return None
        return Progress(**head), load_safetensors(payload)
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None


def _canonical(head: Mapping[str, object]) -> bytes:
    return json.dumps(head, sort_keys=True).encode()


def _pack(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Bytes that depend on content alone: safetensors writes several metadata keys in random order, so one is used."""
    about = {"dm2": json.dumps(dict(metadata), sort_keys=True)}
    return save_safetensors({k: v.detach().contiguous().clone() for k, v in tensors.items()}, about)
