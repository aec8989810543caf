"""`dm2 verify`: every file that a manifest names, checked by SHA-256, and what depends on the damaged ones.

The chain: verdict - theory table - figures and replays - tables - cells - demonstrations - experts - configuration.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dm2core.errors import DataError
from dm2core.records.manifest import CellManifest, Manifest, hash_file, made_from, parse_manifest, sealed
from dm2core.records.provenance import REPOSITORY

NOT_RESULTS = {
    "logs",
    "benchmarks",
    "state",
    "mlflow",
    "report",
    "reference",
}  # no manifest names what lies there
STAMPED = (".png", ".pdf", ".gif")
LEFT_OUT = (
    "left_out.json"  # in a results folder: files that its manifests name and that were left out on purpose
)
LIMIT = (
    "A chain of hashes shows accidents and edits. It does not show forgery: whoever rewrites a file can rewrite its "
    "manifests. What cannot be rewritten unseen is the commit that they name, and a copy kept elsewhere."
)


@dataclass
class Findings:
    """`damaged` and `downstream` are path -> what is wrong; `checked` counts files; `unlisted` have no manifest.

    `manifests` counts those that were found.

    `left_out`: files that are not there and need not be (`leave_out`).
    """

    damaged: dict[Path, str] = field(default_factory=dict)
    downstream: dict[Path, str] = field(default_factory=dict)
    checked: int = 0
    manifests: int = 0
    unlisted: list[Path] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)


@dataclass
class Chain:
    """All manifests below some folders, by path, and what was made from what."""

    manifests: dict[Path, CellManifest | Manifest]
    broken: dict[Path, str]
    uses: dict[Path, list[Path]]  # file -> files made from it

    def made_with(self, path: Path) -> list[Path]:
        """Everything that was made from a file, directly or not."""
        return list(_reach([path], self.uses))


def read_chain(roots: Iterable[Path]) -> Chain:
    """Read every manifest, hash nothing. DataError if a root does not exist."""
    chain = Chain({}, {}, {})
    for path in sorted({p.resolve() for root in roots for p in _manifests(root)}):
        try:
            data = path.read_bytes()
            found = parse_manifest(data, path)
        except OSError as error:
            chain.broken[path] = f"cannot be read ({error.strerror})"
            continue
        except DataError:
            chain.broken[path] = "is not a manifest"
            continue
        chain.manifests[path] = found
        if sealed(data) is False or (sealed(data) is None and found.schema_version > 1):
            chain.broken[path] = "its own seal does not fit"
        outputs = list(named(path, found.outputs))
        for name in named(path, found.inputs):
            chain.uses.setdefault(name, []).extend([*outputs, path])
        for name in _of_repository(found):
            chain.uses.setdefault(name, []).extend([*outputs, path])
        chain.uses.setdefault(path, []).extend(outputs)
    return chain


def named(manifest: Path, files: Mapping[str, str]) -> dict[Path, str]:
    """A manifest's files with their hashes, as absolute paths."""
    return {Path(os.path.normpath(manifest.parent / name)): sha256 for name, sha256 in files.items()}


def _of_repository(manifest: CellManifest | Manifest) -> dict[Path, str]:
    """Inputs that belong to the repository; none where the package is installed without it."""
    if isinstance(manifest, CellManifest) or not (REPOSITORY / "claims").is_dir():
        return {}
    return {REPOSITORY / name: sha256 for name, sha256 in manifest.resources.items()}


def verify(roots: Iterable[Path]) -> Findings:
    """Check all `manifest.json` and `*.manifest.json` below `roots`; modification times play no part."""
    roots = list(roots)
    chain = read_chain(roots)
    found = Findings(damaged=dict(chain.broken))
    hashes: dict[Path, str] = {}
    optional = left_out(roots)
    for path, manifest in chain.manifests.items():
        own = named(path, manifest.outputs)
        for name, expected in {**own, **named(path, manifest.inputs), **_of_repository(manifest)}.items():
            if optional.get(name) == expected and not name.exists():
                found.left_out.append(name)
            else:
                _check(name, expected, hashes, found.damaged)
        if isinstance(manifest, Manifest) and manifest.made_from:
            _check_stamp(path, manifest, own, found.damaged)
    for path, users in _configurations(roots, chain).items():
        if not _hash(path, hashes).startswith(path.stem):
            found.damaged.setdefault(path, "its name is not the beginning of its SHA-256")
        chain.uses.setdefault(path, []).extend(users)
    found.downstream = {
        path: f"made from {cause}" for path, cause in _reach(found.damaged, chain.uses).items()
    }
    found.left_out = sorted(set(found.left_out))
    found.manifests = len({*chain.manifests, *chain.broken})
    known = {*hashes, *chain.manifests, *chain.broken}
    found.checked, found.unlisted = len(known), _unlisted(roots, known)
    return found


def leave_out(results: Path, apart: Collection[Path] = ()) -> int:
    """Write down that whatever is missing below a results folder now is so on purpose; how many files that are.

    `apart`: resolved paths of files that are there and will be missing where others read the folder.

    For a copy without its large files, policies and demonstrations say. A file that lies there is checked all the same,
    and one that a manifest names under another SHA-256 than now is damaged again.
    """
    missing = {}
    for path, manifest in read_chain([results]).manifests.items():
        for name, sha256 in {**named(path, manifest.outputs), **named(path, manifest.inputs)}.items():
            if not name.exists() or name in apart:
                missing[os.path.relpath(name, results.resolve())] = sha256
    text = json.dumps({"left_out": dict(sorted(missing.items()))}, indent=1)
    (results / LEFT_OUT).write_text(f"{text}\n", encoding="utf-8")
    return len(missing)


def left_out(roots: Iterable[Path]) -> dict[Path, str]:
    """What need not be there, with its SHA-256: by the lists below the roots, and in the folders that they lie in.

    DataError if a list is damaged.
    """
    out: dict[Path, str] = {}
    for path in (path for root in roots for path in _lists(root)):
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))["left_out"]
            out |= named(path.resolve(), {str(name): str(sha256) for name, sha256 in listed.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path}: is damaged; restore it, or delete it and see what is missing") from None
    return out


def _lists(root: Path) -> list[Path]:
    root = root if root.is_dir() else root.parent  # as for manifests
    below = sorted(root.rglob(LEFT_OUT))
    around = [folder / LEFT_OUT for folder in root.resolve().parents]
    return [
        *(path for path in below if not NOT_RESULTS & set(path.relative_to(root).parts)),
        *(path for path in around if path.is_file()),
    ]


def _manifests(root: Path) -> list[Path]:
    if not root.exists():
        raise DataError(f"{root}: no such file or folder")
    folder = root if root.is_dir() else root.parent
    found = [*folder.rglob("manifest.json"), *folder.rglob("*.manifest.json")]
    return [path for path in found if not NOT_RESULTS & set(path.relative_to(folder).parts)]


def _hash(path: Path, hashes: dict[Path, str]) -> str:
    if path not in hashes:
        try:
            hashes[path] = hash_file(path)
        except DataError:
            hashes[path] = ""
    return hashes[path]


def _check(path: Path, expected: str, hashes: dict[Path, str], damaged: dict[Path, str]) -> None:
    actual = _hash(path, hashes)
    if not actual:
        damaged.setdefault(path, "is missing or cannot be read")
    elif actual != expected:
        damaged.setdefault(path, "its SHA-256 is not the one a manifest names")


def _check_stamp(path: Path, manifest: Manifest, outputs: Iterable[Path], damaged: dict[Path, str]) -> None:
    """A picture carries the hash of what its manifest says it is made of."""
    expected = made_from(manifest.kind, manifest.config_sha256, manifest.inputs, manifest.resources)
    if manifest.made_from != expected:
        damaged.setdefault(path, "its made_from is not that of its inputs")
    for name in outputs:
        if name.suffix in STAMPED and name.is_file() and expected.encode() not in name.read_bytes():
            damaged.setdefault(name, "does not carry the hash of what its manifest says it is made of")


def _configurations(roots: Iterable[Path], chain: Chain) -> dict[Path, list[Path]]:
    """Configuration files named by their own hash, and what was made under each."""
    folders = [root if root.is_dir() else root.parent for root in roots]
    paths = {
        path.resolve()
        for folder in folders
        for path in folder.rglob("config/*.yaml")
        if not NOT_RESULTS & set(path.relative_to(folder).parts)
    }
    users: dict[str, list[Path]] = {}
    for path, manifest in chain.manifests.items():
        users.setdefault(manifest.config_sha256[:12], []).extend([*named(path, manifest.outputs), path])
    named_by_hash = [path for path in sorted(paths) if re.fullmatch(r"[0-9a-f]{12}", path.stem)]
    return {path: users.get(path.stem, []) for path in named_by_hash}


def _reach(start: Iterable[Path], uses: Mapping[Path, list[Path]]) -> dict[Path, Path]:
    """Everything made from `start`, with the file it comes from; without `start` itself."""
    first = list(start)
    reached: dict[Path, Path] = {}
    todo = [(path, path) for path in first]
    while todo:
        at, cause = todo.pop()
        for name in uses.get(at, []):
            if name not in reached and name not in first:
                reached[name] = cause
                todo.append((name, cause))
    return reached


def _unlisted(roots: Iterable[Path], known: set[Path]) -> list[Path]:
    out = []
    for root in roots:
        for path in sorted(root.rglob("*")) if root.is_dir() else []:
            hidden = NOT_RESULTS & set(path.relative_to(root).parts) or path.name.startswith(".")
            hidden = hidden or path.name == LEFT_OUT
            if not hidden and path.is_file() and path.resolve() not in known:
                out.append(path)
    return out


def report(roots: Iterable[Path]) -> bool:
    """Print the findings; whether all is well."""
    roots = list(roots)
    found = verify(roots)
    if not found.manifests:
        raise DataError(f"{', '.join(map(str, roots))}: no manifest there, so nothing was checked")
    for path, what in sorted(found.damaged.items()):
        print(f"damaged     {_short(path)}: {what}")
    for path, what in sorted(found.downstream.items()):
        print(f"downstream  {_short(path)}: {what}")
    for path in found.unlisted:
        print(f"unlisted    {_short(path)}: no manifest names it")
    counts = (
        f"{len(found.damaged)} damaged, {len(found.downstream)} downstream, {len(found.unlisted)} unlisted"
    )
    if found.left_out:
        counts += f", {len(found.left_out)} left out on purpose ({LEFT_OUT})"
    print(f"{found.checked} files checked, {counts}\n{LIMIT}")
    return not found.damaged


def _short(path: Path) -> Path:
    """Relative to the current folder, where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
