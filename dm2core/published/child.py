"""Decode one published demonstration file; runs alone in a child process with limits, on standard input and output.

The only place in this project where anything is unpickled. The file is `numpy.savez_compressed` of a list of episodes
(gail_learner.py: BatchStorage.save), an object array `arr_0` of dicts {obs [1, L+1, O], actions [1, L+1, 1]} of torch
tensors. Seven names may occur in it. None of them is imported: each stands for a small recorder below, so nothing that
belongs to numpy or torch is ever called with what the file says. Tensors are read from the bytes of their storages by
numpy, inside bounds that are checked. What the file gets to hold of them takes no items, attributes or state from it.

Before the first byte is read the process has given up opening files and sockets, starting processes, and more memory
or processor time than it was granted. Imports nothing of dm2core; reads a file on descriptor 0, writes a line of JSON
and the arrays to descriptor 1, or one line on descriptor 2 and exit code 65.
"""

from __future__ import annotations

import ast
import ctypes
import io
import json
import os
import pickle
import resource
import stat
import sys
import zipfile
from collections.abc import Callable
from typing import IO, Any, NoReturn

import numpy as np
from numpy.lib.stride_tricks import as_strided

b"x".decode("cp437")  # names in zip files; loaded now, because nothing can be opened later

EXIT_DATA = 65
MEMBER = "arr_0.npy"
LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001  # torch.save before its zip format
KINDS = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "LongStorage": "<i8", "IntStorage": "<i4"}
MAX_EPISODES, MAX_ROWS = 100_000, 10_000  # per file; per episode


class Refused(Exception):
    """One line for the user."""


class _Closed:
    """Nothing that the file can change: pickle would set items, attributes and state of whatever allows it."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> NoReturn:
        raise Refused("it sets the state of something that has none")


class _Name(_Closed):
    """What an allowed name stands for: a recorder to be called, or nothing but a name."""

    __slots__ = ("_recorder",)

    def __init__(self, recorder: Callable[..., Any] | None = None) -> None:
        self._recorder = recorder

    def __call__(self, *args: Any) -> Any:
        if self._recorder is None:
            raise Refused("it calls numpy.ndarray, which is passed along alone")
        return self._recorder(*args)


class _Numbers(_Closed):
    """An array of numbers, of a storage or of a tensor. Unwrapped only where the file is not asked."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


class _Dtype:
    """numpy.dtype: only that of objects."""

    __slots__ = ()

    def __init__(self, name: Any = None, *_: Any) -> None:
        if name not in ("O8", "O"):
            raise Refused(f"an array of type {name!r:.40}; only lists of episodes are read")

    def __setstate__(self, _: Any) -> None:
        pass


class _Array:
    """numpy.ndarray: the outer list of episodes."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[4], list)):
            raise Refused("an array whose state is not that of a list of episodes")
        _, shape, dtype, _, items = state
        if not isinstance(dtype, _Dtype) or shape != (len(items),):
            raise Refused(f"an array of shape {shape!r:.40} with {len(items)} items")
        self.items = items


_NDARRAY = _Name()


def _reconstruct(*args: Any) -> _Array:
    if len(args) != 3 or args[0] is not _NDARRAY:
        raise Refused("an array of an unknown kind")
    return _Array()


def _load_from_bytes(data: Any = None, *_: Any) -> _Numbers:
    """torch.storage._load_from_bytes: numbers of one storage, a view of `data`."""
    if not isinstance(data, bytes):
        raise Refused("a storage that is not bytes")
    stream = io.BytesIO(data)
    magic, version, system = (_Plain(stream).load() for _ in range(3))
    if magic != LEGACY_MAGIC or version != LEGACY_VERSION or not isinstance(system, dict):
        raise Refused("a storage in an unknown format")
    if system.get("little_endian") is not True:
        raise Refused("a storage of big-endian numbers")
    kind, key, count = _Storage(stream).load_head()
    if _Plain(stream).load() != [key]:
        raise Refused("a storage that names other storages")
    size = np.dtype(kind).itemsize
    at = stream.tell() + 8
    if int.from_bytes(data[at - 8 : at], "little") != count or len(data) - at != count * size:
        raise Refused(f"a storage that promises {count} numbers and holds {len(data) - at} bytes")
    return _Numbers(np.frombuffer(data, dtype=kind, offset=at))


def _rebuild_tensor(*args: Any) -> _Numbers:
    """torch._utils._rebuild_tensor_v2: a copy of the part of its storage that a tensor shows."""
    if len(args) not in (6, 7):
        raise Refused("a tensor of an unknown kind")
    held, offset, shape, strides = args[:4]
    if type(held) is not _Numbers or held.array.ndim != 1:
        raise Refused("a tensor without a storage")
    storage = held.array
    numbers = (offset, *shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else (-1,)
    if any(type(n) is not int or not 0 <= n < 2**40 for n in numbers) or len(shape) != len(strides) != 0:
        raise Refused("a tensor with an impossible shape")
    if len(shape) != 3 or min(shape) < 1:
        raise Refused(f"a tensor of shape {shape!r:.60}; an episode's have three axes")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= len(storage):
        raise Refused(f"a tensor that reaches beyond its storage, number {last} of {len(storage)}")
    if int(np.prod([float(n) for n in shape])) > len(storage):
        raise Refused("a tensor that shows the same numbers more than once")
    steps = [step * storage.itemsize for step in strides]
    return _Numbers(as_strided(storage[offset:], shape, steps, writeable=False).copy())


def _ordered_dict(*args: Any) -> dict[Any, Any]:
    """collections.OrderedDict: a tensor's hooks, of which there are none."""
    if args:
        raise Refused("a dictionary with contents where a tensor's hooks stand")
    return {}


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Name(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): _Name(_reconstruct),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Name(_Dtype),
    ("torch._utils", "_rebuild_tensor_v2"): _Name(_rebuild_tensor),
    ("torch.storage", "_load_from_bytes"): _Name(_load_from_bytes),
    ("collections", "OrderedDict"): _Name(_ordered_dict),
}


class _Outer(pickle.Unpickler):
    """The list of episodes."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise Refused(
                f"it asks for {module!r:.60}.{name!r:.60}, which demonstrations never need"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("it refers to objects outside itself")


class _Plain(pickle.Unpickler):
    """Numbers, texts, lists and dictionaries."""

    def find_class(self, module: str, name: str) -> Any:
        raise Refused(f"a storage asks for {module!r:.60}.{name!r:.60}")

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("a storage refers to objects outside itself")


class _Storage(_Plain):
    """The line of a storage that says its type, key, place and length; where it was, CPU or GPU, does not matter."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in KINDS:
            return KINDS[name]
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        return pid

    def load_head(self) -> tuple[str, str, int]:
        pid = self.load()
        if not (
            isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage" and pid[5:] in ((), (None,))
        ):
            raise Refused("a storage without a description")
        _, kind, key, _, count = pid[:5]
        if kind not in KINDS.values() or not isinstance(key, str) or type(count) is not int or count < 0:
            raise Refused("a storage without a description")
        return kind, key, count


def confine(memory: int, seconds: int) -> None:
    """Give up everything this work does not need; `memory` in bytes beyond what the process has."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL: gone with its parent
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    used = _address_space()
    for what, most in (
        (resource.RLIMIT_AS, used + memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 3),  # no file and no socket more than the three it was born with
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(what)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))


def _address_space() -> int:
    """Bytes of address space in use; a guess where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as handle:
            return int(handle.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 2**30


def read_episodes(file: IO[bytes], memory: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(obs [L+1, O] float32, actions [L+1] int64) of every episode; Refused says why not."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if [member.filename for member in members] != [MEMBER]:
                names = ", ".join(member.filename[:30] for member in members[:5])
                raise Refused(f"it holds {names or 'nothing'} instead of {MEMBER} alone")
            member = members[0]
            if stat.S_ISLNK(member.external_attr >> 16) or member.flag_bits & 1:
                raise Refused("its member is a link or encrypted")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Refused("its member is compressed in an unknown way")
            if member.file_size > memory:
                raise Refused(
                    f"it unpacks to {member.file_size:,} bytes, more than the {memory:,} allowed (--memory)"
                )
            with archive.open(member) as stream:
                _check_header(stream)
                outer = _Outer(stream).load()
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise Refused(f"not an intact npz file ({str(error).splitlines()[0]:.80})") from None
    if not isinstance(outer, _Array) or not outer.items:
        raise Refused("it holds no list of episodes")
    if len(outer.items) > MAX_EPISODES:
        raise Refused(f"{len(outer.items)} episodes, more than {MAX_EPISODES}")
    episodes: list[tuple[np.ndarray, np.ndarray]] = []
    shown: set[int] = set()
    total = 0
    for number, item in enumerate(outer.items):
        _check_new(number, item, shown)
        episodes.append(_episode(number, item))
        total += sum(array.nbytes for array in episodes[-1])
        if total > memory:
            raise Refused(f"its episodes take more than the {memory:,} bytes allowed (--memory)")
    return episodes


def _check_new(number: int, item: Any, shown: set[int]) -> None:
    """A pickle can name one tensor for any number of episodes: a kilobyte, and gigabytes when they are listed."""
    for tensor in item.values() if type(item) is dict else ():
        if type(tensor) is _Numbers and id(tensor) in shown:
            raise Refused(f"episode {number}: its tensor is another one's, too")
        shown.add(id(tensor))


def _check_header(stream: IO[bytes]) -> None:
    """The npy header says: a list of objects."""
    if stream.read(6) != b"\x93NUMPY":
        raise Refused(f"{MEMBER} is not a numpy array")
    major = stream.read(2)[0:1]
    size = int.from_bytes(stream.read(2 if major == b"\x01" else 4), "little")
    if size > 10_000:
        raise Refused(f"{MEMBER} has a header of {size} bytes")
    try:
        header = ast.literal_eval(stream.read(size).decode("latin1"))
        kind, shape = header["descr"], header["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
        raise Refused(f"{MEMBER} has a damaged header") from None
    if kind != "|O" or not isinstance(shape, tuple) or len(shape) != 1:
        raise Refused(f"{MEMBER} is an array {kind!r:.20} {shape!r:.40}, not a list of episodes")


def _episode(number: int, item: Any) -> tuple[np.ndarray, np.ndarray]:
    if type(item) is not dict or set(item) != {"obs", "actions"}:
        raise Refused(f"episode {number} is not a dictionary of obs and actions")
    if not (type(item["obs"]) is _Numbers and type(item["actions"]) is _Numbers):
        raise Refused(f"episode {number}: obs and actions are not both tensors")
    obs, actions = item["obs"].array, item["actions"].array
    if obs.ndim != 3 or obs.shape[0] != 1 or actions.shape != (1, obs.shape[1], 1) or obs.shape[1] > MAX_ROWS:
        raise Refused(
            f"episode {number}: obs {obs.shape} and actions {actions.shape} are not [1, L+1, O] and [1, L+1, 1]"
        )
    if obs.dtype.kind != "f" or actions.dtype.kind != "i":
        raise Refused(
            f"episode {number}: obs are {obs.dtype}, actions {actions.dtype}; floats and integers are needed"
        )
    if obs.shape[1] < 2:
        raise Refused(f"episode {number}: a single row, where a step has two")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(obs[0], dtype="<f4")
    if not np.isfinite(rows).all():
        raise Refused(f"episode {number}: an observation is not finite")
    return rows, np.ascontiguousarray(actions[0, :, 0], dtype="<i8")


def _main(memory: int, seconds: int) -> None:
    source, target = sys.stdin.buffer, sys.stdout.buffer
    confine(memory, seconds)
    episodes = read_episodes(source, memory)
    sizes = {obs.shape[1] for obs, _ in episodes}
    if len(sizes) > 1:
        raise Refused(f"its episodes have observations of {sorted(sizes)} numbers")
    head = {"rows": [len(obs) for obs, _ in episodes], "obs_size": sizes.pop()}
    target.write(json.dumps(head).encode() + b"\n")
    for obs, actions in episodes:
        target.write(obs.data)
        target.write(actions.data)
    target.flush()


def _refuse(text: str) -> NoReturn:
    print(" ".join(text.split())[:300], file=sys.stderr, flush=True)
    os._exit(EXIT_DATA)


if __name__ == "__main__":
    try:
        _main(int(sys.argv[1]), int(sys.argv[2]))
    except Refused as error:
        _refuse(str(error))
    except MemoryError:
        _refuse(f"it needs more than the {int(sys.argv[1]):,} bytes of memory allowed (--memory)")
    except BrokenPipeError:
        os._exit(EXIT_DATA)
    except Exception as error:  # whatever a damaged stream makes the decoder say
        _refuse(f"not a published demonstration file ({type(error).__name__}: {error})")
    os._exit(0)  # without the interpreter's tidying: a deep structure may not survive it
