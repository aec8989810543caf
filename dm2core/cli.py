"""`dm2`: train cells, sample demonstrations, evaluate policies, check against recordings.

Wrong usage or configuration is one line, before torch is imported. Exit codes: 0 done, 1 a check found a difference,
2 wrong configuration or usage, 65 damaged or refused input, 69 something is missing, 70 numerical failure, 73 cannot
write, 75 interrupted: run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dm2core.config import (
    METHODS,
    Config,
    ConfigError,
    cell_config,
    dump_config,
    load_config,
    parse_demos_id,
)
from dm2core.env.scenario import add_maps, known_maps
from dm2core.errors import (
    EXIT_AGAIN,
    EXIT_DATA,
    EXIT_SERVICE,
    EXIT_USAGE,
    EXIT_WRITE,
    DataError,
    Dm2Error,
    ServiceError,
)
from dm2core.strict import parse_yaml, unknown

if TYPE_CHECKING:
    from dm2core.records.manifest import Job


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        code = int(args.run(args) or 0)
        sys.stdout.flush()  # here, where a closed pipe is seen
        return code
    except ConfigError as error:
        print(f"dm2: {error}", file=sys.stderr)
        return EXIT_USAGE
    except Dm2Error as error:
        print(f"dm2: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever read what is printed is gone, perhaps before all was done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_AGAIN
    except MemoryError:
        print("dm2: not enough memory for that; ask for less, fewer --episodes for one", file=sys.stderr)
        return EXIT_SERVICE
    except OSError as error:  # what has no better message of its own
        print(f"dm2: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return EXIT_WRITE
    except KeyboardInterrupt:  # before a cell has begun to listen
        print("dm2: stopped", file=sys.stderr)
        return EXIT_AGAIN


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dm2", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    train = commands.add_parser("train", help="train one cell, or go on with it")
    _add_config(train)
    train.add_argument("--map", required=True)
    train.add_argument("--method", required=True, help=" or ".join(METHODS))
    taught = [name for name, method in METHODS.items() if method.needs_demos]
    train.add_argument(
        "--demos", type=Path, help="demonstration set (its folder); " + ", ".join(taught) + " need one"
    )
    train.add_argument(
        "--expert", action="store_true", help="train the expert budget and keep every checkpoint"
    )
    train.add_argument("--seed", type=int, required=True)
    train.add_argument("--out", type=Path, required=True, help="folder of the results")
    train.add_argument("--state", type=Path, help="folder of the unfinished cell; default: OUT.state")
    train.set_defaults(run=_train)

    theory = commands.add_parser("theory", help="the paper's theory as numbers on small games")
    theory.add_argument("--seed", type=int, default=1)
    theory.add_argument("--games", type=int, default=12, help="random games beside the fixed ones")
    theory.add_argument("--out", type=Path, required=True, help="folder of theory.csv and curves.csv")
    theory.set_defaults(run=_theory)

    pack = commands.add_parser(
        "train-pack", help="train many cells of one map in one process, or go on with them"
    )
    _add_config(pack)
    pack.add_argument("--map", required=True)
    pack.add_argument(
        "--cell",
        action="append",
        required=True,
        metavar="METHOD:DEMOS:SEED:OUT:STATE",
        help="once per cell; DEMOS is a demonstration set's folder, or none",
    )
    pack.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    pack.add_argument("--threads", type=int, default=1, help="of the simulator")
    pack.add_argument(
        "--replace", action="store_true", help="replace finished cells of another configuration in OUT"
    )
    pack.set_defaults(run=_train_pack)

    demos = commands.add_parser("demos", help="sample a demonstration set from expert runs")
    _add_config(demos)
    demos.add_argument("--map", required=True)
    demos.add_argument("--id", required=True, help="for example ippo-q50_joint-concurrent")
    demos.add_argument(
        "--experts", type=Path, nargs="*", default=[], help="expert folders, in order of expert_seeds"
    )
    demos.add_argument("--out", type=Path, required=True)
    demos.set_defaults(run=_demos)

    recalled = commands.add_parser(
        "recall-demos", help="fight the battles of demonstration sets again: demos.npz from battles.npz"
    )
    recalled.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a set")
    _add_maps_file(recalled)
    recalled.set_defaults(run=_recall_demos)

    published = commands.add_parser(
        "import-demos", help="make a demonstration set of the released code's files, one per agent"
    )
    published.add_argument("files", nargs="+", type=Path, metavar="FILE", help="agent_0.npz agent_1.npz ...")
    published.add_argument("--to", type=Path, required=True, help="folder of the set")
    published.add_argument("--map", required=True)
    published.add_argument("--id", default="imported", help="its name on the card and in results")
    published.add_argument("--episodes", type=int, help="per agent; default: all")
    published.add_argument(
        "--nonconcurrent", action="store_true", help="agent i gets the i-th so many episodes of its file"
    )
    published.add_argument("--memory", type=float, default=8.0, help="GiB that decoding one file may use")
    published.set_defaults(run=_import_demos)

    evaluate = commands.add_parser("evaluate", help="win rate of a trained policy")
    evaluate.add_argument(
        "--policy", type=Path, required=True, help="policy.safetensors, or its cell's folder"
    )
    evaluate.add_argument("--map", help="default: the map it was trained on")
    _add_maps_file(evaluate)
    evaluate.add_argument(
        "--episodes", type=int, default=320, help="battles; default 320, a cell's own evaluations have 32"
    )
    evaluate.add_argument(
        "--seed", type=int, default=0, help="which battles; default 0, a cell's own are eval_seed's, 92814"
    )
    evaluate.add_argument(
        "--sampled", action="store_true", help="sample actions instead of taking the likeliest"
    )
    evaluate.add_argument(
        "--env",
        choices=("embedded", "sim", "smac"),
        help="where to play: the simulator (embedded or sim, the default) or StarCraft II (smac)",
    )
    evaluate.add_argument("--games", type=int, help="games of StarCraft II side by side")
    evaluate.add_argument(
        "--out", type=Path, help="JSON file of the result; with --env: in results/transfer, if not given"
    )
    evaluate.set_defaults(run=_evaluate)

    replay = commands.add_parser("replay", help="draw a battle: an animated GIF and a strip of moments")
    replay.add_argument(
        "--who",
        nargs="+",
        required=True,
        help="one or two of: attack_nearest, focus_fire, hide, kite, random, a cell's folder, a policy file, "
        "a battle recorded before (X.npz)",
    )
    replay.add_argument("--map", help="default: the map the policy was trained on, or the battle recorded on")
    _add_maps_file(replay)
    replay.add_argument(
        "--seed",
        type=int,
        default=0,
        help="which battles; default 0, a cell's own evaluations are eval_seed's, 92814",
    )
    replay.add_argument("--battle", type=int, default=0, help="which battle of the stream")
    replay.add_argument(
        "--sampled", action="store_true", help="sample actions instead of taking the likeliest"
    )
    replay.add_argument(
        "--out", type=Path, required=True, help="X.gif (and X.png beside it), or X.npz to record"
    )
    replay.set_defaults(run=_replay)

    config = commands.add_parser("config", help="print the resolved configuration")
    _add_config(config)
    config.set_defaults(run=lambda args: print(dump_config(_config(args)), end=""))

    status = commands.add_parser("status", help="what is running and what is done")
    _add_config(status)
    status.add_argument("--figure", action="append", help="whose cells are planned; all for every figure's")
    status.add_argument("--watch", action="store_true", help="keep showing until interrupted")
    status.add_argument(
        "--lines", action="store_true", help="with --watch: a line a minute on a terminal, too"
    )
    status.add_argument("--json", action="store_true", help="for other programs")
    status.set_defaults(run=_status)

    track = commands.add_parser("track", help="deliver finished cells to MLflow")
    _add_config(track)
    track.add_argument("--figure", action="append", help="only this figure's cells; may be given again")
    track.add_argument("--uri", help="tracking server or database; else mlflow.uri of the configuration")
    track.add_argument("--live", action="store_true", help="follow running cells until interrupted")
    track.add_argument("--every", type=float, default=30.0, help="seconds between two looks of --live")
    track.set_defaults(run=_track)

    verify = commands.add_parser("verify", help="check every finished file by its SHA-256")
    verify.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="default: results, the published too, figures",
    )
    verify.set_defaults(run=_verify)

    explain = commands.add_parser("explain", help="one page about one run")
    explain.add_argument(
        "name",
        metavar="RUN",
        help="3s_vs_3z/dm2/ippo-q50_joint-concurrent/seed112358, or a path that ends so",
    )
    _add_config(explain)
    explain.set_defaults(run=_explain)

    doctor = commands.add_parser("doctor", help="check the installation, and what is missing for what")
    doctor.add_argument(
        "asked",
        nargs="*",
        metavar="WHAT",
        help="embedded, smac, gpu, slurm, mlflow: exit code 69 if it cannot be used here",
    )
    doctor.add_argument("--json", action="store_true", help="for other programs")
    doctor.set_defaults(run=_doctor)

    encoding = commands.add_parser("check-encoding", help="replay traces of SMAC's encoder")
    encoding.add_argument("files", nargs="+")
    encoding.set_defaults(run=_check_encoding)
    update = commands.add_parser("check-update", help="replay recorded updates of the released code")
    update.add_argument("files", nargs="+")
    update.set_defaults(run=_check_update)
    return parser


def _theory(args: argparse.Namespace) -> None:
    if args.games < 2 or args.seed < 0:
        raise ConfigError(f"--games {args.games} --seed {args.seed}: at least 2 games, a seed of at least 0")
    from dm2core.records.files import write_atomic
    from dm2core.records.manifest import Job
    from dm2core.theory.report import curves, run

    job = Job("theory", "", [], seeds=[args.seed])
    table = run(args.seed, args.games, lambda name: print(f"theory: {name}", flush=True))
    for name, data in (("theory", table), ("curves", curves(args.seed))):
        text = data.to_csv(index=False, float_format="%.9g", lineterminator="\n")
        write_atomic(args.out / f"{name}.csv", text.encode())
    write_atomic(args.out / "counterexample.txt", f"{table.attrs['counterexample']}\n".encode())
    made = ("theory.csv", "curves.csv", "counterexample.txt")
    job.finish(args.out / "theory.manifest.json", [args.out / name for name in made])
    failed = table.loc[~table["holds"], "test"] + " " + table["statement"]
    print(f"{len(table)} numbers; statements that fail somewhere:")
    for statement, count in failed.dropna().value_counts(sort=False).items():
        print(f"  {statement}: {count}")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, default=Path("config/config.yaml"), help="default: config/config.yaml"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for example budget.env_steps=9000"
    )


def _add_maps_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--maps-file", type=Path, help="unit types and maps of your own (docs/env.md)")


def _config(args: argparse.Namespace) -> Config:
    overrides: dict[str, Any] = {}
    for item in args.set:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item}: expected KEY=VALUE, for example budget.env_steps=9000")
        *path, last = key.split(".")
        at = overrides
        for part in path:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                raise ConfigError(f"--set {item}: {part} was already set to {at!r}; give one or the other")
        try:
            at[last] = parse_yaml(text)
        except ConfigError as error:
            raise ConfigError(f"--set {item}: {error}") from None
        except Exception:  # whatever YAML's constructors raise: dates, tags, odd keys
            raise ConfigError(f"--set {item}: the value is not valid YAML") from None
    return load_config(args.config, overrides, "--set")


def _train(args: argparse.Namespace) -> None:
    config = _config(args)
    demos_id, sha256 = "none", ""
    if args.demos is not None:
        demos_id = "given"
    common: dict[str, Any] = {
        "map_name": args.map,
        "method": args.method,
        "seed": args.seed,
        "expert": args.expert,
    }
    cell_config(config, **common, demos=demos_id)  # complain before torch is imported
    _require_game(config, args.map)
    if args.demos is not None:
        from dm2core.demonstrations import load_demos

        loaded = load_demos(args.demos)
        demos_id, sha256 = loaded.demos_id, loaded.sha256
        if args.demos.is_file():
            args.demos = args.demos.parent
    from dm2core.train import train_cell

    cell = cell_config(config, **common, demos=demos_id, demos_sha256=sha256)
    state = args.state or Path(os.path.abspath(args.out) + ".state")
    train_cell(cell, args.out, state, args.demos, config_sha256=_sha256(config))


def _train_pack(args: argparse.Namespace) -> None:
    config, listed = _config(args), []
    if args.threads < 1:
        raise ConfigError(f"--threads {args.threads}: must be at least 1")
    for text in args.cell:
        parts = text.split(":")
        if len(parts) != 5 or not parts[2].isdecimal():
            raise ConfigError(f"--cell {text}: expected METHOD:DEMOS:SEED:OUT:STATE, DEMOS none for no set")
        method, demos, seed, out, state = parts
        common: dict[str, Any] = {"map_name": args.map, "method": method, "seed": int(seed), "packed": True}
        cell = cell_config(config, **common, demos="none" if demos == "none" else "given")
        if not METHODS[cell.method].packs:
            raise ConfigError(f"--cell {text}: method {method} is not trained in packs; use dm2 train")
        listed.append((common, None if demos == "none" else Path(demos), Path(out), Path(state)))
    folders = {"output": [out for *_, out, _ in listed], "state": [state for *_, state in listed]}
    for what, paths in folders.items():
        if len({path.resolve() for path in paths}) < len(listed):
            raise ConfigError(f"--cell: two cells have the same {what} folder")
    import torch

    from dm2core.demonstrations import load_demos
    from dm2core.pack.train import Member, train_pack

    if args.device == "cuda" and not torch.cuda.is_available():
        raise ServiceError("--device cuda: torch finds no GPU here; give --device cpu")
    members = []
    for common, path, out, state in listed:
        given: dict[str, Any] = {}
        if path is not None:
            loaded = load_demos(path)
            given = {"demos": loaded.demos_id, "demos_sha256": loaded.sha256}
            path = path.parent if path.is_file() else path
        members.append(Member(cell_config(config, **common, **given), out, state, path))
    train_pack(
        members,
        torch.device(args.device),
        args.threads,
        config_sha256=_sha256(config),
        replace=args.replace,
    )


def _sha256(config: Config) -> str:
    return hashlib.sha256(dump_config(config).encode()).hexdigest()


def _demos(args: argparse.Namespace) -> None:
    config = _config(args)
    parse_demos_id(args.id)
    config.map_params(args.map)
    _require_game(config, args.map)
    import torch

    from dm2core.demos import make_demos

    torch.set_num_threads(1)
    make_demos(config, args.map, args.id, args.experts, args.out)


def _recall_demos(args: argparse.Namespace) -> None:
    if args.maps_file is not None:
        add_maps(args.maps_file)
    import torch

    from dm2core.demos import recall_demos

    torch.set_num_threads(1)
    for folder in args.folders:
        print(f"{folder}: {'fought again' if recall_demos(folder) else 'is there'}", flush=True)


def _require_game(config: Config, map_name: str) -> None:
    """ServiceError if the configuration asks for a game that is not there."""
    if config.games is not None:
        from dm2core.env.smac.preflight import require

        require(map_name)


def _require_map(name: str) -> None:
    """ConfigError with the nearest name unless there is such a map."""
    if name not in known_maps():
        raise ConfigError(f"--map: {unknown('map', name, known_maps())}")


def _map_of(who: Path | str) -> str | None:
    """What a policy or recording says of its map, if anything; DataError if that map is not known here."""
    from dm2core.replay import map_of

    name = map_of(str(who))
    if name not in (None, *known_maps()):
        raise DataError(
            f"{who}: is of a map that is not known here: {unknown('map', str(name), known_maps())}; "
            "a map of your own comes with --maps-file"
        )
    return name


def _import_demos(args: argparse.Namespace) -> None:
    _require_map(args.map)
    if args.episodes is not None and args.episodes < 1:
        raise ConfigError(f"--episodes {args.episodes}: must be at least 1")
    if not 0 < args.memory < 2**20:
        raise ConfigError(f"--memory {args.memory}: GiB, more than 0")
    from dm2core.published.convert import import_demos

    card = import_demos(
        args.files,
        args.to,
        args.map,
        demos_id=args.id,
        episodes=args.episodes,
        nonconcurrent=args.nonconcurrent,
        memory=int(args.memory * 2**30),
    )
    print(f"{args.to}: {card['episodes_per_agent']} episodes for each of {len(card['agents'])} agents")


def _evaluate(args: argparse.Namespace) -> None:
    if args.maps_file is not None:
        add_maps(args.maps_file)
    if args.map is not None:
        _require_map(args.map)
    if args.episodes < 1:
        raise ConfigError(f"--episodes {args.episodes}: must be at least 1")
    if args.games is not None and (args.games < 1 or args.env != "smac"):
        raise ConfigError(f"--games {args.games}: at least 1, and only with --env smac")
    smac = None
    if args.env == "smac":
        from dm2core.env.smac.preflight import require
        from dm2core.env.smac.settings import DEFAULTS

        require(args.map or "3m")  # before torch is imported
        smac = DEFAULTS.model_copy(update={"games": args.games or DEFAULTS.games})
    from dm2core.players import policy_file

    args.policy = policy_file(str(args.policy))
    if not args.policy.is_file():
        raise DataError(f"{args.policy}: no such policy file")
    import torch

    from dm2core import transfer
    from dm2core.env.vector import map_spec
    from dm2core.evaluate import evaluate
    from dm2core.records.files import make_folder
    from dm2core.replay import read_policy
    from dm2core.rollout import compute_for

    torch.set_num_threads(1)
    map_name = args.map or _map_of(args.policy)
    if map_name is None:
        raise DataError(f"{args.policy}: does not say which map it was trained on; give --map")
    how = {"episodes": args.episodes, "seed": args.seed, "greedy": not args.sampled}
    kept = args.env is not None or args.out is not None
    record = transfer.Record(args.policy, map_name, "embedded" if smac is None else "smac", how, args.out)
    if kept:
        _refuse_others_manifest(record.manifest, [record.path])
        make_folder(record.path)
    policy = read_policy(args.policy, map_spec(map_name))
    compute = compute_for(policy)
    result = evaluate(
        policy, map_name, args.episodes, args.seed, greedy=not args.sampled, compute=compute, smac=smac
    )
    for key, value in result.items():
        print(f"{key:<20}{value:.4f}")
    if kept:
        print(f"{'result':<20}{record.finish(compute, result)}")


def _replay(args: argparse.Namespace) -> None:
    if args.maps_file is not None:
        add_maps(args.maps_file)
    if args.out.suffix not in (".gif", ".npz"):
        raise ConfigError(f"--out {args.out}: must end in .gif or .npz")
    if len(args.who) > (2 if args.out.suffix == ".gif" else 1):
        raise ConfigError(f"--who: {len(args.who)} players; a GIF shows one or two, a recording holds one")
    if args.seed < 0 or not 0 <= args.battle < 2**63:
        raise ConfigError(
            f"--battle {args.battle} --seed {args.seed}: must not be negative, nor the battle above 2^63"
        )
    if args.map is not None:
        _require_map(args.map)
    from dm2core.players import check_player

    for who in args.who:
        check_player(who)
    import torch

    from dm2core import replay

    torch.set_num_threads(1)
    map_name = args.map or next(filter(None, map(_map_of, args.who)), None)
    if map_name is None:
        raise ConfigError("--map: give the map; a script can play any")
    made = [args.out] if args.out.suffix == ".npz" else [args.out, args.out.with_suffix(".png")]
    manifest = args.out.with_suffix(".manifest.json")
    _refuse_others_manifest(manifest, made)
    job = _replay_job(args)
    battles = [
        replay.battle_of(map_name, who, args.seed, args.battle, greedy=not args.sampled) for who in args.who
    ]
    if args.out.suffix == ".npz":
        battles[0].save(args.out)
    else:
        replay.draw(battles, args.out, about=f"dm2 made from {job.made_from}")
    job.finish(manifest, made)
    for battle in battles:
        print(
            f"{battle.who}: {battle.outcome} after {len(battle.rewards)} steps, return {battle.rewards.sum():.2f}"
        )


def _refuse_others_manifest(path: Path, made: list[Path]) -> None:
    """ConfigError if a manifest is there already and tells of other files: they would be left without one."""
    from dm2core.records.manifest import read_manifest

    try:
        others = [name for name in read_manifest(path).outputs if name not in {file.name for file in made}]
    except DataError:  # none, or nothing that tells of files
        return
    if others:
        raise ConfigError(f"--out {made[0]}: {path} is the manifest of {others[0]}; give another name")


def _replay_job(args: argparse.Namespace) -> Job:
    """Policies that play, and recordings, are inputs, with the manifests that lie beside them.

    Recordings are only drawn: what was computed for them is theirs to say.
    """
    from dm2core.players import policy_file
    from dm2core.records.manifest import Job
    from dm2core.records.numerics import numerics_key

    players = [policy_file(who) for who in args.who]
    inputs = [path for path in players if path.is_file()]
    beside = [path.with_name("manifest.json") for path in inputs if path.name == "policy.safetensors"]
    beside += [path.with_suffix(".manifest.json") for path in inputs if path.suffix == ".npz"]
    files = dict.fromkeys([*inputs, *(path for path in beside if path.is_file())])
    played = any(path.suffix != ".npz" for path in players)
    return Job("replay", "", files, seeds=[args.seed], numerics=numerics_key() if played else None)


def _status(args: argparse.Namespace) -> None:
    config, figures = _config(args), args.figure or ["demo_ablation"]
    if args.figure == ["all"]:
        from dm2core.analysis.grid import figure_names

        figures = figure_names(config)
    from dm2core.inspection.status import Status, show

    if args.json:
        print(json.dumps(Status(config, figures).json(), indent=1))
    else:
        show(config, figures, watch=args.watch, lines=args.lines)


def _track(args: argparse.Namespace) -> None:
    config = _config(args)
    from dm2core.analysis.grid import figure_cells, figure_names
    from dm2core.tracking.deliver import Store, deliver_all
    from dm2core.tracking.live import follow
    from dm2core.tracking.runs import finished_runs

    if not 0.0 < args.every < 1e6:
        raise ConfigError(f"--every {args.every}: must be positive, and days at most")
    figures = args.figure or figure_names(config)
    for figure in figures:
        figure_cells(config, figure)  # an unknown one is a ConfigError
    store = Store(args.uri or config.mlflow.uri, Path(config.results))
    imported, kept = deliver_all(store, finished_runs(config, figures))
    print(f"MLflow at {store.uri}: {imported} runs imported, {kept} there already")
    if args.live:
        follow(store, config, figures, args.every)


def _verify(args: argparse.Namespace) -> int:
    from dm2core.records.verify import LEFT_OUT, report

    published = sorted(path.parent for path in Path("results/reference").glob(f"*/{LEFT_OUT}"))
    there = [path for path in (Path("results"), Path("figures"), *published) if path.exists()]
    if not (args.paths or there):
        raise ConfigError("verify: no results or figures here; give a path")
    return 0 if report(args.paths or there) else EXIT_DATA


def _explain(args: argparse.Namespace) -> None:
    config = _config(args)
    from dm2core.inspection.explain import explain

    explain(args.name, config, args.config)


def _doctor(args: argparse.Namespace) -> None:
    from dm2core.inspection.doctor import ASKED, doctor

    if strange := [name for name in args.asked if name not in ASKED]:
        raise ConfigError(f"doctor: {strange[0]}: choose from {', '.join(ASKED)}")
    doctor(args.asked, as_json=args.json)


def _check_encoding(args: argparse.Namespace) -> int:
    from dm2core.env.golden import main as check

    return check(args.files)


def _check_update(args: argparse.Namespace) -> int:
    import torch

    from dm2core.golden_update import main as check

    torch.set_num_threads(1)
    return check(args.files)


if __name__ == "__main__":
    sys.exit(main())
