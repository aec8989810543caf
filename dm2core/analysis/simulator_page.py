"""docs/simulator.md: the committed tables, and the words of simulator_text.py around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan, sqrt
from pathlib import Path
from typing import Any

import pandas as pd

from dm2core.analysis import simulator_text as text
from dm2core.analysis.calibration import at, curve
from dm2core.analysis.choices import CHOICES, FARM_SHARE, SEED
from dm2core.env.scenario import unit_types

Z = 1.959964  # two-sided 95 %
MARKS = (500_000, 1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000, 6_000_000, 8_000_000, 10_000_000)
COMMAND = "snakemake docs/simulator.md --cores 1"


def wilson(rate: float, count: int) -> tuple[float, float]:
    """95 % interval of a share `rate` of `count` battles (Wilson 1927)."""
    z2 = Z * Z / count
    middle = (rate + z2 / 2) / (1 + z2)
    half = Z / (1 + z2) * sqrt(rate * (1 - rate) / count + z2 / (4 * count))
    return (0.0 if rate == 0 else middle - half), (1.0 if rate == 1 else middle + half)


def interval(row: pd.Series[Any], column: str) -> tuple[float, float]:
    """95 % interval of a column: shares by Wilson, means by their standard error, extremes as they are."""
    value, count = float(row[column]), int(row["battles"])
    if column.endswith("_rate"):
        return wilson(value, count)
    if column.endswith("_mean") and column.replace("_mean", "_sd") in row:
        half = Z * float(row[column.replace("_mean", "_sd")]) / sqrt(count)
        return value - half, value + half
    return value, value


def distance(low: float, high: float, ours: tuple[float, float]) -> float:
    """Signed gap from a published range to our interval, 0 where they touch."""
    if ours[0] > high:
        return ours[0] - high
    return min(0.0, ours[1] - low)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: int = 1) -> str:
    """A Markdown table; columns from `right` on are numbers."""
    rule = ["---"] * right + ["---:"] * (len(header) - right)
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def number(value: float, column: str = "") -> str:
    """Shares with three digits, the rest with two at most."""
    if column.endswith("_rate"):
        return f"{value:.3f}"
    return f"{value:.1f}" if column.startswith("length") else f"{value:.2f}"


def with_interval(row: pd.Series[Any], column: str) -> str:
    value, (low, high) = float(row[column]), interval(row, column)
    if low == high:
        return number(value, column)
    return f"{number(value, column)} [{number(low, column)}, {number(high, column)}]"


def page(tables: Path, facts: dict[str, Any], curves: Path) -> str:
    """The whole page. `tables`: folder of the measured CSVs; `curves`: folder of the paper's curves."""
    data = {
        name: pd.read_csv(tables / f"{name}.csv")
        for name in ("encoding", "motion", "scripted", "shields", "choices")
    }
    published, verdicts = _published(data, facts)
    ippo, ippo_line = _ippo(tables, facts, curves)
    shields, shield_line = _shields(data["shields"], facts)
    choices, choice_line = _choices(data["choices"])
    lines = [_encoding_line(data["encoding"]), *verdicts, shield_line, choice_line, ippo_line]
    parts = [
        text.INTRO + "\n" + "".join(f"- {line}\n" for line in lines),
        _exact(data["encoding"], data["motion"]),
        published,
        ippo,
        _scripts(data["scripted"], facts),
        shields,
        choices,
        _departures(),
        _regenerate(data),
    ]
    return "\n".join(parts)


def _encoding_line(found: pd.DataFrame) -> str:
    worst = found[["obs", "state", "reward"]].to_numpy().max()
    wrong = int(found[["avail", "visibility", "flags"]].to_numpy().sum())
    return (
        f"The encoding is exact: {found['frames'].sum():,} recorded frames on {len(found)} maps, largest error "
        f"{worst:g}, {wrong} mismatches (section 1)."
    )


def _exact(found: pd.DataFrame, motion: pd.DataFrame) -> str:
    names = ("obs", "state", "reward", "avail", "visibility", "flags")
    rows = [
        [row["map"], f"{row['frames']:,}", *(f"{row[name]:g}" for name in names)]
        for _, row in found.iterrows()
    ]
    header = [
        "map",
        "frames",
        "largest error: obs",
        "state",
        "reward",
        "mismatches: availability",
        "visibility",
        "ends",
    ]
    units = list(unit_types().values())
    damage = [
        f"{u.damage:g}"
        + "".join(f" (+{v:g} {k})" for k, v in u.bonus.items())
        + (f" x {u.hits}" if u.hits > 1 else "")
        for u in units
    ]
    properties: list[tuple[str, list[str]]] = [
        ("health / shield / armor", [f"{u.health:g} / {u.shield:g} / {u.armor:g}" for u in units]),
        ("damage", damage),
        ("weapon period, loops", [f"{u.period:g} (-1 to +2)" for u in units]),
        ("wind-up / backswing, loops", [f"{u.damage_point:.3g} / {u.backswing:g}" for u in units]),
        ("range, edge to edge", [f"{u.range:g}" for u in units]),
        ("missile, cells a loop", [f"{u.missile_speed:.3f}" if u.missile_speed else "none" for u in units]),
        ("cells a step", [f"{8 * u.speed:.3f}" for u in units]),
        ("radius / separation radius", [f"{u.radius:g} / {u.separation_radius:g}" for u in units]),
    ]
    seen = [
        [row["quantity"], row["of"], f"{row['value']:.3f}".rstrip("0").rstrip(".")]
        for _, row in motion.iterrows()
    ]
    return "\n".join(
        [
            text.EXACT,
            table(header, rows),
            text.UNITS,
            table(["", *(u.name for u in units)], [[name, *values] for name, values in properties]),
            text.PLACES,
            table(["measured", "of", "value"], seen, right=2),
        ]
    )


def _published(data: dict[str, pd.DataFrame], facts: dict[str, Any]) -> tuple[str, list[str]]:
    scripted, shields, choices = data["scripted"], data["shields"], data["choices"]
    everything = pd.concat([scripted, shields, choices[choices["choice"] == -1]], ignore_index=True)
    rows = []
    for fact in facts["facts"]:
        column, low, high = fact["column"], float(fact["low"]), float(fact["high"])
        if fact["script"] == "any":
            mine = everything[everything["map"] == fact["map"]]
            row = mine.loc[mine[column].idxmax()]
        else:
            row = scripted[(scripted["map"] == fact["map"]) & (scripted["script"] == fact["script"])].iloc[0]
        gap = distance(low, high, interval(row, column))
        same = abs(gap) <= fact["slack"] + 1e-9
        verdict = "alike" if same else f"ours is {'higher' if gap > 0 else 'lower'}"
        source = facts["sources"][fact["source"]]["name"]
        said = fact.get("published", number(low, column))
        gap_text = "0" if abs(gap) < 0.005 else f"{gap:+.2f}"
        what = [fact["map"], fact["fact"], fact["tests"], source]
        rows.append([*what, said, with_interval(row, column), f"`{row['script']}`", gap_text, verdict])
    header = ["map", "fact", "tests", "source", "published", "ours [95 %]", "our script", "gap", "verdict"]
    sources = "".join(f"- {item['name']}: {item['text'].strip()}.\n" for item in facts["sources"].values())
    count = f"{int(scripted['battles'].iloc[0]):,} battles per row"
    lead = f"{count}; a largest return is over all scripted battles of the map, those of sections 5 and 6 among them.\n"
    lines = []
    for tests, about in (
        ("rules", "published numbers that test rules more than policies"),
        ("same script", "win rates of SMAC's own heuristic, as far as the published ones can be trusted"),
        ("other policy", "numbers of other people's trained policies, beside our scripts"),
    ):
        chosen = [row for row in rows if row[2] == tests]
        other = [f"{row[0]}, {row[1]} ({row[7]})" for row in chosen if row[8] != "alike"]
        gaps = f"; not alike: {'; '.join(other)}" if other else ""
        lines.append(f"{len(chosen) - len(other)} of {len(chosen)} {about}: alike (section 2){gaps}.")
    return "\n".join([text.PUBLISHED, lead, table(header, rows, 4), sources, text.PUBLISHED_READING]), lines


def _ippo(tables: Path, facts: dict[str, Any], curves: Path) -> tuple[str, str]:
    paper = pd.read_csv(curves / "summary.csv")
    paper = paper[paper["condition"] == "ippo baseline"].drop_duplicates("map").set_index("map")
    drawn = pd.read_csv(curves / "ippo_baseline.csv")
    rows, sentences, sides, run = [], [], [], 0
    for name, short in facts["paper_maps"].items():
        theirs = paper.loc[short]
        first = [theirs["first_step_ma5_ge_0.2"], theirs["first_step_ma5_ge_0.5"]]
        said = [_million(value) for value in first] + [f"{theirs['final_win_rate_last1M']:.2f}"]
        path = tables / f"ippo_{name}.csv"
        if not path.exists():
            rows.append([name, "paper", "5", "10.0M", *said, ""])
            rows.append([name, "ours", "0", "0", "not run yet", "not run yet", "not run yet", ""])
            sentences.append(f"- {name}: not run yet; nothing can be said.\n")
            continue
        run += 1
        ours = pd.read_csv(path)
        c = curve(ours)
        rows.append([name, "paper", "5", "10.0M", *said, ""])
        mine = [_million(value, c.env_steps) for value in (c.first_02, c.first_05)]
        rows.append(
            [
                name,
                "ours",
                str(c.seeds),
                f"{c.env_steps / 1e6:.1f}M",
                *mine,
                f"{c.final:.2f}",
                f"{c.timeouts:.2f}",
            ]
        )
        other = tables / f"ippo1024_{name}.csv"
        if other.exists():
            row, extra = _paper_buffer(name, pd.read_csv(other), first[1])
            rows.append(row)
        else:
            extra = ""
        seeds = "" if c.seeds > 1 else " One seed, so its spread is unknown."
        ends = _ends(ours, c.final, float(theirs["final_win_rate_last1M"])) if c.env_steps > 9.5e6 else ""
        sentences.append(f"- {name}: {_compared(c.first_05, first[1], c.env_steps)}{ends}{extra}{seeds}\n")
        curve_paper = drawn[drawn["map"] == short].set_index("env_steps")["win_rate_ma5"]
        for who, values in (
            ("paper", [float(curve_paper[mark]) for mark in MARKS]),
            ("ours", [at(ours, mark) for mark in MARKS]),
        ):
            sides.append([name, who, *("-" if value is None else f"{value:.2f}" for value in values)])
    header = ["map", "who", "seeds", "env steps", "first 0.2", "first 0.5", "final", "most time-outs"]
    parts = [text.IPPO, table(header, rows, 2), "".join(sentences)]
    if sides:
        marks = [f"{mark / 1e6:g}M" for mark in MARKS]
        parts += ["Win rate at env steps:\n", table(["map", "who", *marks], sides, 2)]
    parts.append(
        "A map is run by `snakemake results/reference/simulator/ippo_<map>.csv --configfile config/scale/paper.yaml "
        "--cores all`;\nthe page picks the table up when it is written again.\n"
    )
    total = len(facts["paper_maps"])
    return "\n".join(parts), f"IPPO beside the paper's IPPO: {run} of {total} maps run so far (section 3)."


def _paper_buffer(name: str, ours: pd.DataFrame, theirs: float) -> tuple[list[str], str]:
    """Row and sentence of our runs with 1,024 battles an iteration, as the paper's table has it (D19)."""
    c = curve(ours)
    mine = [_million(value, c.env_steps) for value in (c.first_02, c.first_05)]
    row = [name, "ours, 1,024 battles an iteration", str(c.seeds), f"{c.env_steps / 1e6:.1f}M", *mine]
    compared = _compared(c.first_05, theirs, c.env_steps)
    said = f" With the 1,024 battles an iteration of the paper's table (D19) {compared} It ends at {c.final:.2f}."
    return [*row, f"{c.final:.2f}", f"{c.timeouts:.2f}"], said


def _million(value: float | None, run: int | None = None) -> str:
    if value is None or isnan(value):
        return "not reached" if run is None else f"not reached: {run / 1e6:.1f}M env steps run"
    return f"{value / 1e6:.2f}M"


def _ends(ours: pd.DataFrame, mine: float, theirs: float) -> str:
    """A second sentence where the ends differ: falls from a learned policy, or how far apart."""
    if abs(mine - theirs) <= 0.2:
        return ""
    fell = int(
        ours.groupby("seed")["win_rate"]
        .agg(lambda w: w.cummax().max() >= 0.8 and w.iloc[-5:].max() < 0.5)
        .sum()
    )
    falls = f", and {fell} of {ours['seed'].nunique()} runs had won 0.8 before it fell" if fell else ""
    return f" It ends at {mine:.2f}, the paper's at {theirs:.2f}{falls}."


def _compared(mine: int | None, theirs: float, run: int) -> str:
    """One sentence on the win rate 0.5."""
    ran = f"{run / 1e6:.1f}M env steps"
    if isnan(theirs) and mine is None:
        return f"neither reaches a win rate of 0.5; ours ran {ran}."
    if isnan(theirs):
        return (
            f"ours reaches 0.5 after {_million(mine)}, the paper's never does: easier for IPPO than the game."
        )
    if mine is None:
        verdict = "harder for IPPO than the game" if run >= theirs else "too few to say"
        return f"ours has not reached 0.5 in {ran}, the paper's did after {_million(theirs)}: {verdict}."
    ratio = mine / theirs
    side = "easier" if ratio < 1 else "harder"
    verdict = "alike" if 0.67 <= ratio <= 1.5 else f"{side} for IPPO than the game"
    return f"ours reaches 0.5 in {ratio:.2f} times the paper's env steps: {verdict}."


def _scripts(scripted: pd.DataFrame, facts: dict[str, Any]) -> str:
    rates, means = ("win_rate", "timeout_rate", "above_20_rate"), ("regrown_mean", "length_mean")
    rows = []
    for _, row in scripted.iterrows():
        extremes = f"{number(row['return_min'])} to {number(row['return_max'])}"
        returns = [number(row["return_mean"]), extremes]
        cells = [*(number(row[c], c) for c in rates), *returns, *(number(row[c], c) for c in means)]
        rows.append([row["map"], f"`{row['script']}`", *cells])
    header = [
        "map",
        "script",
        "wins",
        "time-outs",
        "return > 20",
        "return",
        "least to most",
        "regrown",
        "length",
    ]
    count = int(scripted["battles"].iloc[0])
    lead = f"{count:,} battles each; a share of 0.5 is good to +-{Z * 0.5 / sqrt(count):.3f}.\n"
    reading = text.SCRIPTS_READING.format(**facts["random_play"])
    return "\n".join([text.SCRIPTS, lead, table(header, rows, 2), reading])


def _shields(shields: pd.DataFrame, facts: dict[str, Any]) -> tuple[str, str]:
    rates = ("win_rate", "timeout_rate", "above_20_rate")
    columns = (*rates, "return_mean", "return_max", "regrown_mean", "length_mean")
    header = ["map", "share", "wins", "time-outs", "return > 20", "return", "most", "regrown", "length"]
    farmed, noisy = (shields[shields["script"] == name] for name in ("farm_then_kite", "noisy_kite"))
    tables = []
    for rows in (farmed, noisy):
        cells = [
            [r["map"], f"{r['share']:g}", *(number(r[c], c) for c in columns)] for _, r in rows.iterrows()
        ]
        tables.append(table(header, cells))
    largest = _fact(facts, "3s_vs_5z", "largest return")
    length, mean = (_fact(facts, "3s_vs_5z", f"{what} of the medium set") for what in ("length", "return"))
    most = farmed.loc[farmed["map"] == "3s_vs_5z", "return_max"].max()
    farming = (
        f"- 3s_vs_5z: the largest return in the real game's data is {largest['high']:.2f} (CFCQL cards), the largest\n"
        f"  a farming script finds here {most:.2f}. Battles of the real medium set last {length['low']:.1f} of 250\n"
        f"  steps and return {mean['published']}: most use up the time, as farming scripts do.\n"
    )
    judged = [_weak(noisy[noisy["map"] == weak["map"]], weak) for weak in facts["weak"]]
    alike, sentences = sum(same for same, _ in judged), [said for _, said in judged]
    bonus = facts["shield_bonus"]
    losing = noisy[(noisy["map"] == bonus["map"]) & (noisy["win_rate"] < 0.1)]["regrown_mean"]
    sentences.append(
        f"- {bonus['map']}: regrowing shields add {bonus['low']:g} to {bonus['high']:g} to the return of such\n"
        f"  policies in the real game (user notes), and {losing.min():.2f} to {losing.max():.2f} to the script's\n"
        "  where it wins less than a tenth.\n"
    )
    lead = text.SHIELDS.format(share=FARM_SHARE)
    parts = [lead, tables[0], farming, text.WEAK, tables[1], "".join(sentences), text.SHIELDS_READING]
    line = (
        f"Farming shields pays up to {most:.1f} on 3s_vs_5z, and up to {largest['high']:.1f} in the real game's data; "
        f"time-outs of weak play are alike on {alike} of {len(judged)} maps with second-hand figures (section 5)."
    )
    return "\n".join(parts), line


def _fact(facts: dict[str, Any], map_name: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(f for f in facts["facts"] if (f["map"], f["fact"]) == (map_name, name))
    return found


def _weak(mine: pd.DataFrame, weak: dict[str, Any]) -> tuple[bool, str]:
    """Does some share of random actions put wins and time-outs into the published ranges at once?"""
    (w0, w1), (t0, t1) = weak["wins"], weak["timeouts"]
    near = mine[mine["win_rate"].between(w0, w1)]
    both = near[near["timeout_rate"].between(t0, t1)]
    said = (
        f"- {weak['map']}: weakly trained policies win {w0:.0%} to {w1:.0%} and time out in {t0:.0%} to {t1:.0%} of\n"
        "  real battles (user notes). "
    )
    if both.empty:
        outs = ", ".join(f"{value:.0%}" for value in near["timeout_rate"]) or "none"
        return False, said + f"Where the script's wins lie there, its time-outs are {outs}: not alike.\n"
    shares, outs = (", ".join(f"{value:.0%}" for value in both[name]) for name in ("share", "timeout_rate"))
    return (
        True,
        said + f"With {shares} random actions the script's wins lie there and {outs} time out: alike.\n",
    )


def _choices(measured: pd.DataFrame) -> tuple[str, str]:
    probes = list(measured[["map", "script"]].drop_duplicates().itertuples(index=False, name=None))
    by = {(r["choice"], r["map"]): r for _, r in measured.iterrows()}
    rows = [
        [
            "as it is: return (win rate)",
            "",
            *(f"{by[-1, m]['return_mean']:.2f} ({by[-1, m]['win_rate']:.2f})" for m, _ in probes),
            "",
        ]
    ]
    largest: list[tuple[float, str]] = []
    for k, choice in enumerate(CHOICES):
        cells, sizes = [], []
        for name, _ in probes:
            a, b = by[-1, name], by[k, name]
            change = b["return_mean"] - a["return_mean"]
            half = Z * sqrt(a["return_sd"] ** 2 / a["battles"] + b["return_sd"] ** 2 / b["battles"])
            cells.append(f"{change:+.2f}{'*' if abs(change) > half else ''}")
            sizes.append(abs(change))
        rows.append([choice.name, choice.flipped, *cells, choice.decided_by])
        largest.append((max(sizes), choice.name))
    header = ["choice", "flipped to", *(f"{name} `{script}`" for name, script in probes), "what decides it"]
    top = max(size for size, name in largest if name.startswith("start cluster"))
    rest = max(((size, name) for size, name in largest if not name.startswith("start cluster")))
    reading = f"The start cluster moves returns by up to {top:.1f}, the rest of these by {rest[0]:.1f} ({rest[1]}).\n"
    count = int(measured["battles"].iloc[0])
    parts = [
        text.CHOICES,
        f"{count:,} battles per entry.\n",
        table(header, rows, 2),
        reading + text.CLUSTER,
        text.NOT_FLIPPED,
    ]
    line = (
        f"Choices flipped one by one move mean returns by up to {top:.1f} (the start cluster) and up to {rest[0]:.1f} "
        "(any other that is data; section 6)."
    )
    return "\n".join(parts), line


def _departures() -> str:
    rows = [[what, effect] for what, effect in text.DEPARTURES]
    body = table(["departure or assumption", "expected effect"], rows, 2)
    return "\n".join(["## 7. Departures from the game\n", body, text.UNKNOWN])


def _regenerate(data: dict[str, pd.DataFrame]) -> str:
    scripted, other = (int(data[name]["battles"].iloc[0]) for name in ("scripted", "choices"))
    return (
        "## Writing this page again\n\n"
        f"    {COMMAND}\n\n"
        f"It plays {scripted:,} battles per script and map (sections 2, 4) and {other:,} per row (sections 5, 6), all\n"
        f"from seed {SEED}: a minute or two on one core. Tables: results/reference/simulator. Words:\n"
        "dm2core/analysis/simulator_text.py. Published facts: resources/smac_facts.yaml. A test compares this page\n"
        "with what the tables give, byte for byte.\n"
    )
