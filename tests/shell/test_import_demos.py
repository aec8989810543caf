"""Published demonstration files become a set of ours, and a file that is anything else does nothing but be refused."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle  # unsafe on purpose: writes files as the released code does, and hostile ones
import re
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dm2core.cli import main
from dm2core.config import Config, cell_config, dump_config
from dm2core.demonstrations import load_demos
from dm2core.env.vector import make_env
from dm2core.published import child

SPEC = make_env("3m", 1).spec
LENGTHS = (5, 60, 17, 30, 8, 41)


def team(lengths: tuple[int, ...] = LENGTHS) -> list[dict[str, torch.Tensor]]:
    """Whole episodes as the released runner holds them: obs [1, L+1, N, O], actions [1, L+1, N, 1], zeros after."""
    draws = torch.Generator().manual_seed(0)
    episodes = []
    for steps in lengths:
        obs = torch.zeros(1, SPEC.episode_limit + 1, SPEC.n_agents, SPEC.obs_size)
        actions = torch.zeros(1, SPEC.episode_limit + 1, SPEC.n_agents, 1, dtype=torch.long)
        obs[:, : steps + 1] = torch.rand(1, steps + 1, SPEC.n_agents, SPEC.obs_size, generator=draws)
        actions[:, : steps + 1] = torch.randint(
            1, SPEC.n_actions, (1, steps + 1, SPEC.n_agents, 1), generator=draws
        )
        obs[:, steps // 2 :, 1] = 0.0  # agent 1 dies half-way and sees nothing more
        actions[:, steps // 2 :, 1] = 0
        episodes.append({"obs": obs, "actions": actions})
    return episodes


def of_agent(
    episodes: list[dict[str, torch.Tensor]], agent: int
) -> collections.deque[dict[str, torch.Tensor]]:
    """What the released code keeps of them: views, whose storages hold the whole team."""
    return collections.deque({key: value[:, :, agent, :] for key, value in ep.items()} for ep in episodes)


def write(folder: Path, episodes: list[dict[str, torch.Tensor]]) -> list[Path]:
    files = [folder / f"agent_{i}.npz" for i in range(SPEC.n_agents)]
    for i, file in enumerate(files):
        np.savez_compressed(file, of_agent(episodes, i))  # type: ignore[arg-type]
    return files


def write_as_on_a_gpu_with_old_numpy(file: Path, episodes: Iterable[dict[str, torch.Tensor]]) -> None:
    """What `write` writes, as numpy 1 on a CUDA machine wrote it: protocol 3, numpy.core, storages on cuda:0."""

    class Storage:
        def __init__(self, storage: Any) -> None:
            self.data = storage.__reduce__()[1][0].replace(
                b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
            )

        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (self.data,)

    class Tensor:
        def __init__(self, tensor: torch.Tensor) -> None:
            function, (storage, *rest) = tensor.__reduce_ex__(2)
            self.parts = function, (Storage(storage), *rest)

        def __reduce__(self) -> Any:
            return self.parts

    old = np.array([{key: Tensor(value) for key, value in ep.items()} for ep in episodes], dtype=object)
    data = pickle.dumps(old, protocol=3).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    raw(file, data, len(old))
    assert b"cuda:0" in data and b"numpy._core" not in data


def raw(file: Path, pickled: bytes, count: int = 1) -> None:
    """An npz file around given pickle bytes."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": (count,)})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", head.getvalue() + pickled)


def run(files: list[Path], to: Path, *more: str) -> int:
    return main(["import-demos", *map(str, files), "--to", str(to), "--map", "3m", *more])


@pytest.mark.parametrize("old", [False, True])
def test_published_files_become_a_set_row_by_row(old: bool, tmp_path: Path) -> None:
    episodes = team()
    files = write(tmp_path, episodes)
    for i, file in enumerate(files if old else []):
        write_as_on_a_gpu_with_old_numpy(file, of_agent(episodes, i))
    assert run(files, tmp_path / "set") == 0
    demos = load_demos(tmp_path / "set", None, SPEC)
    for i, agent in enumerate(demos.agents):
        assert agent.lengths.tolist() == list(LENGTHS)  # of the battle, though agent 1 died earlier
        assert agent.won is None and agent.episode_return is None  # the files do not say
        for k, start in enumerate(agent.start):
            end = start + LENGTHS[k] + 1
            assert np.array_equal(agent.obs[start:end], episodes[k]["obs"][0, : LENGTHS[k] + 1, i])
            assert np.array_equal(agent.actions[start:end], episodes[k]["actions"][0, : LENGTHS[k] + 1, i, 0])
    card = json.loads((tmp_path / "set" / "card.json").read_text())
    assert card["win_rate"] is None and card["episodes_per_agent"] == len(LENGTHS)
    assert [source["file"] for source in card["imported"]] == [file.name for file in files]
    assert main(["verify", str(tmp_path / "set")]) == 0


def test_nonconcurrent_sets_take_a_block_of_each_file(tmp_path: Path) -> None:
    files = write(tmp_path, team())
    assert run(files, tmp_path / "set", "--nonconcurrent", "--episodes", "2") == 0
    agents = load_demos(tmp_path / "set").agents
    assert [agent.battle.tolist() for agent in agents] == [[0, 1], [2, 3], [4, 5]]
    assert [agent.lengths.tolist() for agent in agents] == [[5, 60], [17, 30], [8, 41]]
    assert run(files, tmp_path / "more", "--nonconcurrent", "--episodes", "3") == 65


def test_a_cell_trains_on_an_imported_set(tmp_path: Path, config: Config) -> None:
    assert run(write(tmp_path, team()), tmp_path / "set", "--id", "authors-5m") == 0
    small = config.model_copy(
        update={"budget": config.budget.model_copy(update={"env_steps": 300, "eval_every": 300})}
    )
    (tmp_path / "c.yaml").write_text(dump_config(small))
    base = f"train --config {tmp_path}/c.yaml --map 3m --method dm2 --seed 1 --demos {tmp_path}/set"
    assert main([*base.split(), "--out", f"{tmp_path}/out"]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    card = json.loads((tmp_path / "set" / "card.json").read_text())
    assert (manifest["config"]["demos"], manifest["config"]["demos_sha256"]) == ("authors-5m", card["sha256"])
    assert cell_config(small, map_name="3m", method="ippo", seed=1).digest() != manifest["digest"]


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


class Changed(Calls):
    """A call whose result is then changed, as pickle changes dictionaries and objects."""

    def __init__(self, made: Calls, state: Any = None, items: dict[Any, Any] | None = None) -> None:
        super().__init__(made.call[0], *made.call[1])
        self.change = state, None, iter((items or {}).items()) if items else None

    def __reduce__(self) -> Any:
        function, args = self.call
        return function, args, *self.change


INTERFACE = {"__array_interface__": {"version": 3, "typestr": "|O", "shape": (2, 3), "data": b"A" * 48}}


def tensor(state: Any = None, items: dict[Any, Any] | None = None) -> dict[str, Any]:
    """An episode whose observations are changed after they were read."""
    return {**good(), "obs": Changed(rebuilt(torch.zeros(6), 0, (1, 6, 1), (6, 1, 1)), state, items)}


def objects(*items: Any) -> np.ndarray:
    out = np.empty(len(items), dtype=object)
    out[:] = items
    return out


def good() -> dict[str, torch.Tensor]:
    return {key: value[:, :, 0, :] for key, value in team((5,))[0].items()}


def saved(*items: Any) -> Callable[[Path], None]:
    return lambda file: np.savez_compressed(file, objects(*items))


def rebuilt(storage: torch.Tensor, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Calls:
    return Calls(
        torch._utils._rebuild_tensor_v2,
        storage._typed_storage(),
        offset,
        shape,
        strides,
        False,
        collections.OrderedDict(),
    )


def storage_that_promises(count: int) -> Calls:
    """A storage of `count` numbers in a few bytes."""
    data = torch.zeros(3)._typed_storage().__reduce__()[1][0]
    data = data.replace(b"K\x03Ntq", b"\x8a\x06" + count.to_bytes(6, "little") + b"Ntq")
    data = data[:-20] + struct.pack("<q", count) + bytes(12)
    return Calls(
        torch._utils._rebuild_tensor_v2,
        Calls(torch.storage._load_from_bytes, data),
        0,
        (1, 1, 1),
        (1, 1, 1),
        False,
        {},
    )


def nested(depth: int) -> Callable[[Path], None]:
    return lambda file: raw(file, b"\x80\x03" + b"]" * depth + b"a" * (depth - 1) + b".")


def huge_memo(file: Path) -> None:
    raw(file, b"\x80\x03]r\xff\xff\xff\x7f.")


def zip_bomb(file: Path) -> None:
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("arr_0.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(member, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        member.write(b"\x80\x03B\xff\xff\xff\x7f")
        for _ in range(70):
            member.write(bytes(2**20))


def linked_member(file: Path) -> None:
    info = zipfile.ZipInfo("arr_0.npy")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(info, "/etc/passwd")


def bare(file: Path, item: Any) -> None:
    file.write_bytes(pickle.dumps(item))


def cut(file: Path) -> None:
    saved(good())(file)
    file.write_bytes(file.read_bytes()[:-200])


def flipped(file: Path) -> None:
    saved(good())(file)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def not_finite() -> dict[str, torch.Tensor]:
    episode = good()
    episode["obs"] = episode["obs"].clone()
    episode["obs"][0, 2, 3] = float("nan")
    return episode


def too_large_for_float32() -> dict[str, torch.Tensor]:
    episode = good()
    episode["obs"] = episode["obs"].double()
    episode["obs"][0, 2, 3] = 1e300
    return episode


REBUILD = torch._utils._rebuild_tensor_v2
SONG = Path(tempfile.gettempdir()) / f"dm2-canary-{os.getpid()}"  # for the decoder, too, which works in /
CANARY = f"touch {SONG}"
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "os.system": (saved(Calls(os.system, CANARY)), r"asks for '(posix|nt)'\.'system'"),
    "a call of eval": (saved(Calls(eval, f"__import__('os').system('{CANARY}')")), "asks for 'builtins'"),
    "os.system among good episodes": (saved(good(), Calls(os.system, CANARY)), "asks for"),
    "os.system for a tensor": (saved({**good(), "obs": Calls(os.system, CANARY)}), "asks for"),
    "torch.load within": (saved(Calls(torch.load, "x")), "asks for 'torch.serialization'"),
    "a storage that calls": (
        saved(Calls(torch.storage._load_from_bytes, pickle.dumps(Calls(os.system, CANARY)))),
        "a storage asks for",
    ),
    "hooks that call": (
        saved({**good(), "obs": Calls(REBUILD, 1, 0, (1,), (1,), False, Calls(os.system, CANARY))}),
        "asks for",
    ),
    "an array of a huge shape": (
        lambda file: raw(file, pickle.dumps(Calls(np.ndarray, (2**40,)), protocol=3)),
        "calls numpy.ndarray, which is passed along alone",
    ),
    "a tensor whose numbers are changed": (saved(tensor(items={0: [[1.0]]})), "does not support item assignment"),
    "a tensor that points into memory": (saved(tensor(INTERFACE)), "sets the state of something that has none"),
    "a tensor with another array within": (
        saved(tensor((None, {"array": [1.0]}))), "sets the state of something that has none"
    ),
    "a name that is given attributes": (
        lambda file: raw(file, b"\x80\x03cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb."), "sets the state"
    ),
    "a call that is given a default": (
        lambda file: raw(file, b"\x80\x03ctorch._utils\n_rebuild_tensor_v2\nN}X\x01\x00\x00\x00aK\x01s\x86b."),
        "sets the state",
    ),
    "an object of a name": (
        lambda file: raw(file, b"\x80\x03cnumpy\nndarray\n)\x81."), "not a published demonstration file"
    ),
    "a storage of 10^12 numbers": (saved({**good(), "obs": storage_that_promises(10**12)}), "promises"),
    "a view beyond its storage": (
        saved({**good(), "obs": rebuilt(torch.zeros(6), 0, (1, 6, 10**6), (1, 1, 1))}), "beyond its storage"
    ),
    "a view before its storage": (
        saved({**good(), "obs": rebuilt(torch.zeros(6), -5, (1, 6, 1), (1, 1, 1))}), "impossible shape"
    ),
    "one number shown 10^12 times": (
        saved({**good(), "obs": rebuilt(torch.zeros(6), 0, (1, 10**6, 10**6), (0, 0, 0))}), "more than once"
    ),
    "a memo of 2^31 entries": (huge_memo, "memory"),
    "nested very deep": (nested(200_000), "no list of episodes|memory"),
    "a zip bomb": (zip_bomb, "unpacks to|memory"),
    "a link in the zip file": (linked_member, "link"),
    "cut short": (cut, "not an intact npz"),
    "one bit flipped": (flipped, "not an intact npz"),
    "wrong shapes": (saved({**good(), "actions": torch.zeros(1, 3, 1, dtype=torch.long)}), r"not \[1, L\+1, O\]"),
    "NaN": (saved(not_finite()), "not finite"),
    "1e300": (saved(too_large_for_float32()), "not finite"),
    "a row": (saved({key: value[:, :1] for key, value in good().items()}), "a single row"),
    "text for a tensor": (saved({**good(), "obs": "text"}), "not both tensors"),
    "an object array for a tensor": (saved({**good(), "obs": objects(1, 2)}), "not both tensors"),
    "another dictionary": (saved({"states": good()["obs"]}), "not a dictionary of obs and actions"),
    "no episodes": (saved(), "no list of episodes"),
    "plain numbers": (lambda file: np.savez(file, np.zeros(3)), "not a list of episodes"),
    "two arrays": (lambda file: np.savez(file, a=np.zeros(3), b=np.zeros(3)), "instead of arr_0"),
    "not a zip file": (lambda file: bare(file, Calls(os.system, CANARY)), "not an intact npz"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_any_other_file_is_refused_in_one_line_and_runs_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make, words = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    files = write(tmp_path, team((5,)))
    files[1].unlink()
    make(files[1])
    assert run(files, tmp_path / "set", "--memory", "0.0625") == 65
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert re.search(words, said), said
    assert "agent_1.npz" in said
    assert not SONG.exists()
    assert not (tmp_path / "set").exists()


def test_the_canary_sings_where_it_is_run() -> None:
    pickle.loads(pickle.dumps(Calls(os.system, CANARY)))
    assert SONG.exists()
    SONG.unlink()


def test_a_kilobyte_that_stands_for_gigabytes_is_refused_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One episode, shown six hundred times; and one too large to be sent, whose decoder must not wait for a reader."""
    files = write(tmp_path, team((5,)))
    shared = {"obs": torch.zeros(1, 1000, 30), "actions": torch.zeros(1, 1000, 1, dtype=torch.int64)}
    began = time.monotonic()
    for episodes, words in (
        ([shared] * 600, "its tensor is another one's"),
        ([shared], "more than the 65,536"),
    ):
        files[1].unlink()
        saved(*episodes)(files[1])
        assert run(files, tmp_path / "set", "--memory", str(2**16 / 2**30 if len(episodes) == 1 else 1)) == 65
        assert words in capfd.readouterr().err
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "loop", "missing"])
def test_what_is_no_regular_file_is_refused_without_waiting(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, team((5,)))
    files[1].unlink()
    if kind == "fifo":
        os.mkfifo(files[1])
    elif kind != "missing":
        files[1].symlink_to({"device": "/dev/zero", "folder": "/", "loop": files[1].name}[kind])
    assert run(files, tmp_path / "set") == 65
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1 and "agent_1.npz" in said


def test_files_that_do_not_fit_the_map_are_refused_with_both_numbers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = [str(file) for file in write(tmp_path, team((5,)))]
    base = ["import-demos", "--to", str(tmp_path / "set")]
    assert main([*base, *files, "--map", "8m"]) in (2, 65)
    assert main([*base, *files[:2], "--map", "3m"]) == 65
    assert "3 agents, got 2 files" in capfd.readouterr().err
    assert main([*base, *files, "--map", "3s_vs_3z"]) == 65
    other = make_env("3s_vs_3z", 1).spec.obs_size
    assert f"observations of {SPEC.obs_size} numbers, 3s_vs_3z has {other}" in capfd.readouterr().err
    assert main([*base, *files, "--map", "3mm"]) == 2
    assert "did you mean '3m'" in capfd.readouterr().err


def test_the_decoder_can_neither_open_nor_start_anything(tmp_path: Path) -> None:
    """Even code that ran in it, which none does, would find no file, no socket, no process and no memory."""
    code = f"""
import importlib.util, os, socket, subprocess, sys
spec = importlib.util.spec_from_file_location("child", {str(Path(child.__file__))!r})
child = importlib.util.module_from_spec(spec); spec.loader.exec_module(child)
child.confine(2**26, 60)
def refused(what):
    try: what()
    except (OSError, MemoryError): return True
    return False
assert refused(lambda: open({str(tmp_path / "new")!r}, "w"))
assert refused(lambda: open("/etc/passwd"))
assert refused(lambda: socket.socket())
assert refused(lambda: subprocess.Popen(["true"]))
assert refused(lambda: bytearray(2**28))
os._exit(7)
"""
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", code])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert not (tmp_path / "new").exists()
