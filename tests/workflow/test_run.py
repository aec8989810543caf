"""The whole smoke pipeline through the real command line, and what a second call does."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd

from dm2core.analysis.grid import VARIANTS
from dm2core.config import load_config
from dm2core.errors import EXIT_WRITE, guarded
from dm2core.records.manifest import VERSION, read_manifest
from dm2core.records.verify import leave_out, read_chain, verify

from .conftest import ROOT, SMOKE, Outcome, snakemake

SEED = ("--config", "seeds=[112358]")
CONDITIONS = {*VARIANTS, "ippo"}


def again(folder: Path, *arguments: str) -> Outcome:
    return snakemake(folder, "-n", *arguments)


def test_figure_shows_every_condition_and_the_demonstrators(smoke: Path) -> None:
    drawn = pd.read_csv(smoke / "figures" / "demo_ablation.csv")
    assert set(drawn["map"]) == {"3m"}
    for series in ("mean", "seed"):
        assert set(drawn.loc[drawn["series"] == series, "condition"]) == CONDITIONS
    lines = drawn[drawn["series"] == "demonstrators"]
    assert set(lines["condition"]) == {"joint-concurrent", "indep-concurrent"}
    assert drawn["win_rate"].between(0, 1).all()
    assert drawn["env_steps"].max() >= 3_000
    assert {path.suffix for path in (smoke / "figures").iterdir()} == {".pdf", ".png", ".csv", ".json"}


def test_second_call_has_nothing_to_do(smoke: Path) -> None:
    assert "Nothing to be done" in again(smoke, *SMOKE, *SEED).text


def test_one_more_seed_adds_that_seeds_cells_only(smoke: Path) -> None:
    outcome = again(smoke, *SMOKE, "--config", "seeds=[112358, 5]")
    assert outcome.plan == {"train_cell": 5, "collect_scores": 1, "plot_demo_ablation": 1}
    assert all(cell.endswith("/seed5") for cell in outcome.cells)


def test_one_more_map_adds_that_maps_cells_only(smoke: Path) -> None:
    maps = "demo_ablation={maps: [3m, 3s_vs_3z]}"
    outcome = again(smoke, *SMOKE, *SEED, maps)
    assert {cell.split("/")[0] for cell in outcome.cells} == {"3s_vs_3z"}
    assert outcome.plan["train_cell"] == 5


def test_documented_command_reruns_exactly_one_maps_cells(smoke: Path) -> None:
    outcome = again(smoke, "cells", "--forcerun", "train_cell", *SMOKE, *SEED, "only_map=3m")
    assert outcome.plan == {"train_cell": 5}
    assert {cell.split("/")[0] for cell in outcome.cells} == {"3m"}


def test_a_training_setting_reruns_every_cell(smoke: Path) -> None:
    outcome = again(smoke, "cells", *SMOKE, *SEED, "ppo={lr: 0.002}")
    assert outcome.plan == {"train_expert": 3, "sample_demos": 4, "train_cell": 5}


def test_the_verdict_of_finished_cells_never_trains_one(smoke: Path) -> None:
    outcome = again(smoke, "results/smoke/verdict/verdict.md", *SMOKE, *SEED, "ppo={lr: 0.002}")
    assert outcome.plan == {"theory": 1, "verdict": 1}


def test_a_discriminators_setting_spares_cells_without_one(smoke: Path) -> None:
    outcome = again(smoke, "cells", *SMOKE, *SEED, "discriminator={steps: 5, episodes_per_step: 8}")
    assert outcome.plan == {"train_cell": 4}
    assert all("/dm2/" in cell for cell in outcome.cells)


def test_card_settings_leave_experts_and_ippo_alone(smoke: Path) -> None:
    outcome = again(smoke, "cells", *SMOKE, *SEED, "demos={episodes: 32, card_episodes: 33}")
    assert outcome.plan == {"sample_demos": 4, "train_cell": 4}
    assert all("/dm2/" in cell for cell in outcome.cells)


def test_report_is_one_page_with_figure_and_data(smoke: Path) -> None:
    report = smoke / "report.html"
    outcome = snakemake(smoke, "figures/demo_ablation.pdf", *SMOKE, *SEED, "--report", str(report))
    assert outcome.code == 0, outcome.text
    text = report.read_text(encoding="utf-8")
    assert "demo_ablation.csv" in text and "sample standard deviation" in text


def test_finished_cells_leave_no_state_and_no_partial_files(smoke: Path) -> None:
    results = smoke / "results" / "smoke"
    leftovers = [path for path in results.rglob("*") if path.suffix in {".tmp", ".part"}]
    assert leftovers == []
    state = [path for path in (results / "state").rglob("*.safetensors")]
    assert state == []


def test_resolved_config_is_kept_under_its_own_hash(smoke: Path) -> None:
    for path in (smoke / "results" / "smoke" / "config").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem)
        load_config(path)


def test_manifests_name_their_digest_and_one_thread(smoke: Path) -> None:
    manifests = list((smoke / "results" / "smoke").rglob("seed*/manifest.json"))
    digests = {json.loads(path.read_text())["digest"] for path in manifests}
    assert len(manifests) == len(digests) == 8
    for path in manifests:
        numerics = read_manifest(path).numerics
        assert set(numerics) == {
            *("torch", "numpy", "numba", "simulator", "threads", "cpu_capability", "processor", "mkl_cbwr"),
            *("machine", "system", "device"),
        }
        assert (numerics["threads"], numerics["device"]) == ("1", "cpu") and all(
            numerics[name] for name in numerics if name != "mkl_cbwr"
        )


def test_scripts_run_without_snakemake_and_draw_the_same_bytes(smoke: Path, tmp_path: Path) -> None:
    """After they were killed while they wrote, and met a full disk."""
    results = smoke / "results" / "smoke"
    settings = load_config(ROOT / "config" / "config.yaml", {"scale": "smoke", "seeds": [112358]})
    configs = [path for path in (results / "config").iterdir() if load_config(path) == settings]
    tables, figures = tmp_path / "tables", tmp_path / "figures"
    for name, folder, arguments, die_at, size in (
        ("collect", tables, ["--map", "3m"], "write-half:3m.csv", 1000),
        ("plot_demo_ablation", figures, ["--tables", str(tables)], "write-renamed:demo_ablation.pdf", 30_000),
    ):
        arguments = ["--config", str(configs[0]), *arguments, "--out", str(folder)]
        main = script(name).main
        assert disturbed(main, arguments, smoke, die_at=die_at) == (-signal.SIGKILL, "")
        assert not list(folder.glob("*manifest.json"))
        code, said = disturbed(main, arguments, smoke, size=size)
        assert code == EXIT_WRITE
        assert re.fullmatch(
            rf"{re.escape(str(folder))}/\S+: cannot write \d+ bytes .*", said.splitlines()[-1]
        )
        assert not list(folder.glob("*manifest.json"))
        command = [sys.executable, str(ROOT / "workflow" / "scripts" / f"{name}.py"), *arguments]
        subprocess.run(command, cwd=smoke, check=True)
        assert not list(folder.glob(".*.tmp"))
    for first, second in ((smoke / "figures", figures), (results / "tables", tables)):
        for path in first.iterdir():
            if path.name.endswith(".manifest.json"):  # says when
                continue
            assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def disturbed(
    main: Callable[[list[str]], int], arguments: list[str], where: Path, die_at: str = "", size: int = -1
) -> tuple[int, str]:
    """Exit code and last words of a script that dies at a point, or may write `size` bytes a file."""
    said = where / "said"
    pid = os.fork()
    if pid == 0:
        os.environ["DM2_CRASH_AT"] = die_at
        os.chdir(where)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, -1))
        code = guarded(lambda: main(arguments))
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, "" if code < 0 else said.read_text()


def test_a_failing_cell_does_not_stop_the_others_and_its_log_is_shown(smoke: Path) -> None:
    """With the options of the Makefile."""
    quiet = re.search(r"^QUIET := (.*?) *#", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert quiet is not None
    results = smoke / "results" / "smoke"
    blocked = results / "state" / "cells" / "3m" / "ippo" / "none" / "seed7"
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a file where the cell wants a folder")
    filters = ("only_method=ippo", "only_seed=[7, 8]")
    options = ("--cores", "1", *SMOKE, *quiet[1].split(), "--config", "seeds=[112358, 7, 8]", *filters)
    outcome = snakemake(smoke, "cells", *options)
    blocked.unlink()
    assert outcome.code != 0
    assert re.search(r"^Logfile .*/seed7\.log:\n=+\ndm2: .*seed7", outcome.text, re.MULTILINE), outcome.text
    assert (results / "cells" / "3m" / "ippo" / "none" / "seed8" / "manifest.json").is_file()
    assert not (results / "cells" / "3m" / "ippo" / "none" / "seed7" / "manifest.json").exists()


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "workflow" / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_unsafe_loaders_are_found(tmp_path: Path) -> None:
    lines = [
        "import " + "pickle",
        "np.load(f, allow_pickle" + "=True)",
        "x = ev" + "al(text)",
        "yaml" + ".load(text)",
    ]
    (tmp_path / "bad.py").write_text("\n".join(lines))
    assert len(script("ban_unsafe").offences(tmp_path / "bad.py")) == len(lines)


def test_a_finished_run_verifies_and_one_flipped_byte_names_all_that_was_made_from_it(
    smoke: Path, tmp_path: Path
) -> None:
    shutil.copytree(smoke, tmp_path / "copy")
    roots = [tmp_path / "copy" / name for name in ("results", "figures")]
    found = verify(roots)
    assert found.damaged == {} and found.checked > 50
    path = next(roots[0].glob("**/demos/3m/ippo-q50_joint-concurrent/demos.npz"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    found = verify(roots)
    assert set(found.damaged) == {path.resolve()}
    downstream = {name.as_posix() for name in found.downstream}
    for end in ("seed112358/policy.safetensors", "tables/3m.parquet", "figures/demo_ablation.pdf"):
        assert any(name.endswith(end) for name in downstream), end
    assert not any("/ippo/none/" in name for name in downstream)


def test_500_one_byte_edits_of_a_finished_run_are_named_with_what_was_made_from_them(
    smoke: Path, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(smoke, root)
    results = root / "results" / "smoke"
    places = ("experts", "demos", "cells", "tables", "config")
    files = [path for place in places for path in sorted((results / place).rglob("*")) if path.is_file()]
    files = [path for path in files if path.parent.name != "seed8"]  # another test's cell, not the figure's
    files += sorted((root / "figures").iterdir())
    assert verify([root / "results", root / "figures"]).unlisted == []
    used = read_manifest(root / "figures" / "demo_ablation.manifest.json").config_sha256[:12]
    rng = random.Random(2)
    for _ in range(500):
        path = rng.choice(files)
        good, stat = path.read_bytes(), path.stat()
        at = rng.randrange(len(good))
        path.write_bytes(good[:at] + bytes([good[at] ^ rng.randrange(1, 256)]) + good[at + 1 :])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        found = verify([root / "results", root / "figures"])
        path.write_bytes(good)
        assert path in found.damaged, (path, at)
        # Final policies, battles, cards for people and tables as CSV are ends: the figure reads none of them.
        ends = ("policy.safetensors", "battles.npz", "card.md", "3m.csv")
        end = path.name in ends or path.parent.name == "figures"
        end |= path.parent.name == "config" and path.stem != used  # planned by another test, made nothing
        if not end:
            assert root / "figures" / "demo_ablation.pdf" in found.downstream, path


def test_a_copy_with_metrics_manifests_and_cards_alone_verifies_and_redraws_without_training(
    smoke: Path, tmp_path: Path
) -> None:
    keep = {"metrics.parquet", "manifest.json", "card.json", "card.md"}
    results = tmp_path / "results" / "smoke"
    for place in ("cells", "demos"):
        for path in (smoke / "results" / "smoke" / place).rglob("*"):
            if path.name in keep and path.parent.name != "seed8":  # another test's
                target = results / path.relative_to(smoke / "results" / "smoke")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    # Policies, two files of each demonstration set, three of each expert team.
    assert leave_out(results) == 5 + 2 * 4 + 3 * 3
    found = verify([results])
    assert (found.damaged, found.downstream, found.unlisted) == ({}, {}, [])
    outcome = snakemake(tmp_path, "--cores", "1", *SMOKE, *SEED)
    assert outcome.plan == {"collect_scores": 1, "plot_demo_ablation": 1}, outcome.text
    for end in ("pdf", "png", "csv"):
        drawn, redrawn = (root / "figures" / f"demo_ablation.{end}" for root in (smoke, tmp_path))
        assert drawn.read_bytes() == redrawn.read_bytes(), end
    assert verify([results, tmp_path / "figures"]).damaged == {}


def test_every_result_has_a_complete_manifest(smoke: Path) -> None:
    found = read_chain([smoke / "results", smoke / "figures"])
    assert found.broken == {}
    kinds = Counter(manifest.kind for manifest in found.manifests.values())
    kinds["cell"] -= len(list(smoke.glob("results/smoke/cells/*/*/*/seed8/manifest.json")))  # another test's
    assert kinds == {"expert": 3, "demonstrations": 4, "cell": 5, "table": 1, "figure": 1}
    assert {manifest.schema_version for manifest in found.manifests.values()} == {VERSION}
    assert all(len(manifest.config_sha256) == 64 for manifest in found.manifests.values())
