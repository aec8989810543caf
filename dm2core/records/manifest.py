"""Manifests: beside every result, what went in, what came out, and where it was made, by SHA-256 (ours).

A cell's manifest is written by train.py, all others by a `Job`. Paths in them are relative to their folder, so that a
tree can be moved; files of the repository itself (claims, published curves) are named from its root. A manifest's own
bytes are sealed by a SHA-256 inside it. This shows accidents and edits; it is no protection against a forger.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dm2core.errors import DataError
from dm2core.records import provenance
from dm2core.records.crash import reach
from dm2core.records.files import remove_parts, write_atomic

VERSION = 2
NO_SEAL = "0" * 64
DIRTY, MIXED = "uncommitted code made: ", "mixed numerics keys: "
SMOKE = "scale smoke proves that every step runs; nothing is learned"
_SEAL = re.compile(rb'"seal": "([0-9a-f]{64})"')
REPOSITORY_PARTS = ("claims", "config", "resources")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Code(_Part):
    """`dirty_sha256`: of what was not committed, "" if all was; None in manifests of version 1."""

    commit: str
    dirty_sha256: str | None = None
    dm2core_sha256: str

    @property
    def dirty(self) -> bool:
        return bool(self.dirty_sha256) or self.commit.endswith("-dirty")


class Host(_Part):
    """The kind of machine; which one it was is nobody's business."""

    cpu: str
    cores: int
    system: str


class Attempt(_Part):
    """One process that trained a cell. `wall_s`, `cpu_s`: up to its last iteration if it was killed."""

    started: str
    wall_s: float | None = None
    cpu_s: float | None = None
    host: Host | str | None = None
    numerics: dict[str, str] = {}
    dm2core_sha256: str = ""
    commit: str | None = None
    dirty_sha256: str | None = None  # as Code's
    slurm_job_id: str | None = None
    slurm_restart_count: str | None = None


class _Common(_Part):
    """What every manifest says; what version 1 did not say yet is None."""

    schema_version: int = 1
    kind: str  # cell, expert, demonstrations, table, figure, replay, theory, transfer, verdict
    config_sha256: str = ""  # of the resolved configuration, as `dm2 config` prints it
    inputs: dict[str, str] = {}
    outputs: dict[str, str]
    code: Code | None = None
    lock_sha256: str | None = None  # of requirements.txt
    packages: dict[str, str] | None = None
    host: Host | None = None
    started: str | None = None  # UTC, of the first attempt
    ended: str | None = None
    wall_s: float | None = None  # monotonic, all attempts
    cpu_s: float | None = None
    peak_memory_mb: int | None = None
    seal: str = NO_SEAL

    @model_validator(mode="after")
    def _complete(self) -> _Common:
        if self.schema_version > VERSION:
            raise ValueError(f"schema_version {self.schema_version} is newer than this program, {VERSION}")
        missing = [name for name in type(self).model_fields if getattr(self, name) is None]
        if self.schema_version == VERSION and missing:
            raise ValueError(f"{missing[0]} is missing")
        return self


class CellManifest(_Common):
    """A trained cell or expert team."""

    digest: str  # of the configuration; decides reruns
    seed: int
    config: dict[str, Any]
    env_steps: int
    iterations: int
    numerics: dict[str, str] = {}
    game: dict[str, str] = {}  # what StarCraft II said about itself, if it was played
    attempts: list[Attempt] = []
    last_attempt: dict[str, float] = {}


class Manifest(_Common):
    """Everything else. `numerics`: of all that went in and of the work itself, name -> every value there was."""

    resources: dict[str, str] = {}  # inputs that belong to the repository, from its root
    made_from: str = ""  # hash of kind, configuration and inputs; pictures carry it in their bytes
    seeds: list[int] = []
    numerics: dict[str, list[str]] = {}
    not_for_publication: list[str]
    seconds: float = Field(default=0.0, exclude=True)  # version 1's wall_s


class Job:
    """Hashes the inputs when it is made, which is before the work; `finish` hashes the outputs.

    DataError if an input is not what a manifest among the inputs says it is: damaged, or another's.
    """

    def __init__(
        self,
        kind: str,
        config_sha256: str,
        inputs: Iterable[Path],
        *,
        seeds: Iterable[int] = (),
        numerics: Mapping[str, str] | None = None,
        scale: str = "",
    ) -> None:
        """`numerics`: the key of this process where it computes more than tables; `scale`: the configuration's."""
        self.kind, self.config_sha256, self.seeds = kind, config_sha256, list(seeds)
        listed = list(inputs)
        self.inputs = {path.absolute(): hash_file(path) for path in listed if not _of_repository(path)}
        require_unchanged(self.inputs)
        found = [(path, _of_repository(path)) for path in listed]
        self.resources = {name: hash_file(path) for path, name in found if name}
        self.code = provenance.code_version()
        dirty = [kind] if Code.model_validate(self.code).dirty else []
        self.numerics, self.reasons = judge(self.inputs, numerics or {}, dirty)
        if scale == "smoke":
            self.reasons = merge_reasons({*self.reasons, SMOKE})
        named = {path.as_posix(): sha256 for path, sha256 in self.inputs.items()}
        self.made_from = made_from(kind, config_sha256, named, self.resources)
        self.started, self._start = now(), time.monotonic()

    def finish(self, path: Path, outputs: Iterable[Path]) -> None:
        """Write the manifest to `path`; what killed attempts left of it and of the outputs goes."""
        base, made = path.absolute().parent, list(outputs)
        for file in (path, *made):
            remove_parts(file.parent, file.name)
        reach("results-written", path.name)
        effort = provenance.effort()
        manifest = Manifest(
            schema_version=VERSION,
            kind=self.kind,
            config_sha256=self.config_sha256,
            inputs={os.path.relpath(at, base): sha256 for at, sha256 in self.inputs.items()},
            resources=self.resources,
            made_from=self.made_from,
            outputs={os.path.relpath(at.absolute(), base): hash_file(at) for at in made},
            seeds=self.seeds,
            numerics=self.numerics,
            not_for_publication=self.reasons,
            code=Code.model_validate(self.code),
            lock_sha256=provenance.lock_sha256(),
            packages=provenance.package_versions(),
            host=Host.model_validate(provenance.host_class()),
            started=self.started,
            ended=now(),
            wall_s=round(time.monotonic() - self._start, 3),
            cpu_s=effort["cpu_s"],
            peak_memory_mb=int(effort["peak_memory_mb"]),
        )
        write_atomic(path, to_bytes(manifest))
        reach("manifest-written", path.name)


def now() -> str:
    """UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def made_from(kind: str, config_sha256: str, inputs: Mapping[str, str], resources: Mapping[str, str]) -> str:
    """One hash for what a result is made of. Manifests stay out of it: they say when, and the files say enough."""
    files = sorted(sha256 for name, sha256 in inputs.items() if not name.endswith("manifest.json"))
    text = json.dumps([kind, config_sha256, files, sorted(resources.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def _of_repository(path: Path) -> str:
    """Name from the repository's root of a file that belongs to it; "" for results and everything elsewhere."""
    try:
        name = path.resolve().relative_to(provenance.REPOSITORY)
    except ValueError:
        return ""
    return name.as_posix() if name.parts[0] in REPOSITORY_PARTS else ""


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; DataError if it cannot be read."""
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def to_bytes(manifest: CellManifest | Manifest) -> bytes:
    """The manifest as it is written, sealed."""
    return seal((json.dumps(manifest.model_dump(exclude_none=True), indent=2) + "\n").encode())


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


def parse_manifest(data: bytes, path: Path) -> CellManifest | Manifest:
    """A manifest of any version; DataError if it is none. The seal is not checked here."""
    try:
        found = json.loads(data)
        if "digest" not in found:
            return Manifest.model_validate(found)
        config = found["config"]  # version 1 says these there alone
        found = {"kind": "expert" if config["keep_checkpoints"] else "cell", "seed": config["seed"]} | found
        return CellManifest.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise DataError(f"{path}: not a manifest ({where}: {first['msg']})") from None
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not a manifest ({str(error).splitlines()[0]})") from None


def read_manifest(path: Path) -> CellManifest | Manifest:
    """DataError if it cannot be read, is no manifest, or was changed after it was written."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    fits, found = sealed(data), None if sealed(data) is False else parse_manifest(data, path)
    if found is None or (fits is None and found.schema_version > 1):  # the first version had no seals
        raise DataError(f"{path}: its seal does not fit, so it is damaged or edited; make the result again")
    return found


def require_unchanged(inputs: Mapping[Path, str]) -> None:
    """DataError if a file's SHA-256 (`inputs`, absolute paths) is not that of a manifest among them that made it."""
    for path in inputs:
        if not path.name.endswith("manifest.json"):
            continue
        for name, sha256 in read_manifest(path).outputs.items():
            made = Path(os.path.normpath(path.parent / name))
            if inputs.get(made, sha256) != sha256:
                raise DataError(
                    f"{made}: not what {path.name} says, so it is damaged or another's; make it again"
                )


def judge(
    inputs: Iterable[Path], own: Mapping[str, str], dirty: Iterable[str] = ()
) -> tuple[dict[str, list[str]], list[str]]:
    """Numerics of all manifests among `inputs` with `own`, and why what is made of them is not for publication.

    `dirty`: kinds of results that are known to be made with uncommitted code.
    """
    values: dict[str, set[str]] = {name: {value} for name, value in own.items()}
    reasons: set[str] = set()
    kinds = set(dirty)
    for path in inputs:
        if not path.name.endswith("manifest.json"):
            continue
        found = read_manifest(path)
        if isinstance(found, Manifest):
            reasons.update(found.not_for_publication)
            if (
                found.kind == "demonstrations"
            ):  # another step's bits; the cells that saw them are what is compared
                continue
            for name, several in found.numerics.items():
                values.setdefault(name, set()).update(several)
            continue
        keys = [(found.host, found.numerics), *((one.host, one.numerics) for one in found.attempts)]
        for host, key in keys:
            for name, value in (_processor(host) | _form(found) | key).items():
                values.setdefault(name, set()).add(value)
        dirty_attempt = any(one.dirty_sha256 for one in found.attempts)
        if dirty_attempt or (found.code is not None and found.code.dirty):
            kinds.add(found.kind)
    reasons = {reason for reason in reasons if not reason.startswith(MIXED)}  # said again below
    reasons.update(DIRTY + kind for kind in kinds)
    merged = {name: sorted(several) for name, several in sorted(values.items())}
    mixed = [f"{name} {' and '.join(several)}" for name, several in merged.items() if len(several) > 1]
    if mixed:
        reasons.add(MIXED + "; ".join(mixed))
    return merged, merge_reasons(reasons)


def _processor(host: Host | str | None) -> dict[str, str]:
    """What numerics keys have said since they name it, of where a cell was made."""
    return {"processor": provenance.processor_maker(host.cpu)} if isinstance(host, Host) else {}


def _form(found: CellManifest) -> dict[str, str]:
    """What numerics keys of QMIX's cells have said since there is a compiled form of it."""
    return {"form": "torch"} if found.config.get("qmix") else {}


def merge_reasons(reasons: Collection[str]) -> list[str]:
    """Each once, and what uncommitted code made in one line."""
    others = {reason for reason in reasons if not reason.startswith(DIRTY)}
    kinds = {
        kind
        for reason in reasons
        if reason.startswith(DIRTY)
        for kind in reason.removeprefix(DIRTY).split(", ")
    }
    return sorted({*others, DIRTY + ", ".join(sorted(kinds))} if kinds else others)
