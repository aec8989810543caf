"""`make bench`: speeds on this machine, one core, as a table and as results/benchmarks/summary.json.

A part is a function from the arguments to rows (key, value, meaning); to add one, write it and list it in PARTS.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

MAP = "5m_vs_6m"
SIZES = (64, 256, 1024)
Rows = list[tuple[str, float, str]]


def sim(args: argparse.Namespace) -> Rows:
    """The simulator alone, and beside SMAX and smaclite where they are installed."""
    from benchmarks import peers
    from benchmarks.sim import per_cpu_second, sim_env_steps_per_s

    rows: Rows = [
        ("sim_env_steps_per_s", sim_env_steps_per_s(MAP), "simulator, random legal actions, 64 battles")
    ]
    if not peers.PYTHON.exists():
        print(peers.HOW_TO)
        return rows
    found = peers.compare(MAP, SIZES, args.smaclite)
    (args.out.parent / "peers.json").write_text(json.dumps(found, indent=2) + "\n")
    for name, took in found.items():
        what = f"{name.split('_')[0]}, random legal actions, " + (
            "1 battle" if name == "smaclite" else f"{name.split('_')[1]} battles"
        )
        rows.append((f"{name}_env_steps_per_s", per_cpu_second(took["peer"]), what))
        rows.append((f"sim_vs_{name}", peers.ratio(took), "times as many env steps per CPU second"))
    return rows


def learning(args: argparse.Namespace) -> Rows:
    """Training end to end."""
    from benchmarks.learning import env_steps_per_s
    from dm2core.config import load_config

    config = load_config("config/config.yaml", {"scale": "paper"})
    return [
        (
            f"{method}_env_steps_per_s",
            env_steps_per_s(config, MAP, method, args.iterations),
            f"{method.upper()}, authors' hyper-parameters, end to end",
        )
        for method in ("dm2", "ippo")
    ]


def baselines(args: argparse.Namespace) -> Rows:
    """QMIX, in both forms taking turns, and RMAPPO."""
    from benchmarks.baselines import compare_forms, rmappo_env_steps_per_s
    from dm2core.config import load_config

    config = load_config("config/config.yaml", {"scale": "paper"})
    compiled, torch_form, ratio = compare_forms(config, MAP, args.iterations)
    return [
        ("qmix_env_steps_per_s", compiled, "QMIX, PyMARL's hyper-parameters, end to end"),
        ("qmix_torch_env_steps_per_s", torch_form, "the same with its agents in torch"),
        ("qmix_compiled_vs_torch", ratio, "times as many env steps per CPU second"),
        (
            "rmappo_env_steps_per_s",
            rmappo_env_steps_per_s(config, MAP, args.iterations),
            "RMAPPO, end to end",
        ),
    ]


def update(args: argparse.Namespace) -> Rows:
    """How much of the core the updates use."""
    import torch

    from benchmarks.update import update_share_of_peak
    from dm2core.config import load_config

    torch.set_num_threads(1)
    share = update_share_of_peak(load_config("config/config.yaml", {"scale": "paper"}), MAP)
    return [
        ("product_peak_gflops", share["peak_gflops"], "GFLOP/s of a 1,024 x 1,024 product"),
        ("update_share_of_peak", share["ppo"], "of it, one PPO step (policy and value)"),
        ("disc_share_of_peak", share["discriminator"], "of it, one discriminator step"),
    ]


def cells(args: argparse.Namespace) -> Rows:
    """Whole cells: two at once, and their memory at the paper's buffer sizes."""
    from benchmarks.update import cells_side_by_side, two_cells_speedup

    maps = ("5m_vs_6m", "3s_vs_3z", "3s_vs_4z")
    memory = max(cells_side_by_side(name, "dm2", 1, 1)[0][1] for name in maps)
    return [
        (
            "two_cells_speedup",
            two_cells_speedup(MAP, args.iterations),
            "env steps/s of two DM2 cells over one",
        ),
        ("cell_peak_memory_mb", memory, f"largest DM2 cell of {', '.join(maps)}"),
    ]


def authors(args: argparse.Namespace) -> Rows:
    """Beside the released code, on the battles we recorded; nothing without a checkout of it."""
    from benchmarks.authors import compare
    from dm2core.config import load_config

    if args.authors is None:
        print("authors: not measured; give a checkout of carolinewang01/dm2 with --authors")
        return []
    config = load_config("config/config.yaml", {"scale": "paper"})
    meanings = {
        "authors_rollout_env_steps_per_s": "released code, rollout of 1 battle, the game free of charge",
        "authors_dm2_env_steps_per_s": "released code, DM2, rollout and update, the game free of charge",
        "authors_ippo_env_steps_per_s": "the same, IPPO",
        "authors_qmix_env_steps_per_s": "the same, QMIX, one battle and one update at a time",
        "rollout_vs_authors": "times as many env steps per CPU second, rollout (ours with the simulator)",
        "update_vs_authors": "times, DM2's update",
        "dm2_vs_authors": "times, DM2 end to end",
        "ippo_vs_authors": "times, IPPO end to end",
        "qmix_vs_authors": "times, QMIX end to end",
    }
    found = compare(config, MAP, args.authors, turns=5)
    return [(key, found[key], meaning) for key, meaning in meanings.items()]


def jaxmarl(args: argparse.Namespace) -> Rows:
    """IPPO with JaxMARL's own settings beside JaxMARL's; nothing without a checkout of it."""
    from benchmarks import peers
    from benchmarks.sim import per_cpu_second

    if args.jaxmarl is None or not peers.PYTHON.exists():
        print(
            "jaxmarl: not measured; give a checkout of FLAIROx/JaxMARL with --jaxmarl, after `make bench-peers`"
        )
        return []
    found = peers.compare_ippo(MAP, args.jaxmarl)
    (args.out.parent / "jaxmarl.json").write_text(json.dumps(found, indent=2) + "\n")
    return [
        ("jaxmarl_ippo_env_steps_per_s", per_cpu_second(found["peer"]), "JaxMARL's recurrent IPPO on SMAX"),
        (
            "shared_ippo_env_steps_per_s",
            per_cpu_second(found["sim"]),
            "ours with its settings, our simulator",
        ),
        ("ippo_vs_jaxmarl", peers.ratio(found), "times per CPU second; the simulators differ"),
    ]


def pack(args: argparse.Namespace) -> Rows:
    """Packs of cells; on a GPU only (elsewhere two small packs show that it runs)."""
    from benchmarks.pack import pack_rows

    return pack_rows(MAP, args.device, args.iterations)


def cost(args: argparse.Namespace) -> Rows:
    """How cost grows with agents, battles and cells: a chart and its table beside the summary."""
    from benchmarks.cost import measure, write

    rows = measure(MAP, args.iterations)
    write(rows, MAP, args.out.parent)
    return [
        (f"cost_{method}_{against}_{count:g}", seconds, f"seconds per million env steps, {count:g} {against}")
        for against, count, method, seconds in rows
    ]


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "sim": sim,
    "learning": learning,
    "baselines": baselines,
    "update": update,
    "cells": cells,
    "cost": cost,
    "authors": authors,
    "jaxmarl": jaxmarl,
    "pack": pack,
}


def main() -> None:
    """Measure, write what this run measured, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/summary.json"))
    parser.add_argument(
        "--only", default=",".join(PARTS), help=f"parts, with commas between: {', '.join(PARTS)}"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the part pack")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--smaclite", type=Path, help="a checkout of uoe-agents/smaclite, to be measured too")
    parser.add_argument("--authors", type=Path, help="a checkout of carolinewang01/dm2, to be measured too")
    parser.add_argument(
        "--jaxmarl", type=Path, help="a checkout of FLAIROx/JaxMARL, its IPPO to be measured too"
    )
    args = parser.parse_args()
    chosen = args.only.split(",")
    if unknown := [part for part in chosen if part not in PARTS]:
        parser.error(f"--only: there is no part {unknown[0]!r}; parts: {', '.join(PARTS)}")
    if args.smaclite and not (args.smaclite / "smaclite").is_dir():
        parser.error(f"--smaclite: {args.smaclite} is not a checkout of smaclite")
    if args.authors and not (args.authors / "src" / "learners").is_dir():
        parser.error(f"--authors: {args.authors} is not a checkout of carolinewang01/dm2")
    if args.jaxmarl and not (args.jaxmarl / "baselines" / "IPPO").is_dir():
        parser.error(f"--jaxmarl: {args.jaxmarl} is not a checkout of JaxMARL")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for part in chosen for row in PARTS[part](args)]
    args.out.write_text(json.dumps({key: value for key, value, _ in rows}, indent=2) + "\n")
    print(f"{MAP}, one core")
    for key, value, meaning in rows:
        print(f"{key:<28}{value:>12,.{2 if value < 10 else 1 if value < 1000 else 0}f}  {meaning}")


if __name__ == "__main__":
    main()
