"""Documentation that names keys, switches or claims names all of them, and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from dm2core.analysis.claims import load_claims
from dm2core.config import Config, Switches, load_config
from dm2core.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names of every key; `*` stands for the name of a map."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        values = [arg for arg in get_args(inner) if isinstance(arg, type) and issubclass(arg, BaseModel)]
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= keys(inner, f"{prefix}{name}.")
        elif values and name != "profiles":
            found |= {prefix + name} | keys(values[0], f"{prefix}{name}.*.")
        else:
            found.add(prefix + name)
    return found


def first_cells(text: str) -> list[str]:
    """Back-quoted names in the first column of every table."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def test_every_config_key_and_method_has_one_row_in_its_readme() -> None:
    settings, _, names = (ROOT / "config" / "README.md").read_text(encoding="utf-8").partition("## Names")
    assert sorted(first_cells(settings)) == sorted(keys(Config))
    methods = re.findall(
        r"`(\w+)`",
        "".join(re.findall(r"^\| (`.+?) \|", names.split("demonstration set is")[0], re.MULTILINE)),
    )
    assert sorted(methods) == sorted(METHODS)


def test_every_switch_has_one_row_with_both_values() -> None:
    text = (ROOT / "docs" / "deviations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (D\d+) \|.*\| `(\w+)` \| `(\w+)` \| `(\w+)` \|$", text, re.MULTILINE)
    assert sorted(name for _, name, _, _ in rows) == sorted(Switches.model_fields)
    profiles = load_config(ROOT / "config" / "config.yaml").profiles
    for _, name, *documented in rows:
        configured = [getattr(profiles[profile], name) for profile in ("authors", "paper")]
        assert documented == [str(value).lower() for value in configured], name


def test_ids_in_the_code_are_documented() -> None:
    documented = set(
        re.findall(r"^\| (D\d+) \|", (ROOT / "docs" / "deviations.md").read_text(), re.MULTILINE)
    )
    used = {
        found
        for path in (ROOT / "dm2core").rglob("*.py")
        for found in re.findall(r"\bD\d{2}\b", path.read_text(encoding="utf-8"))
    }
    assert used <= documented, sorted(used - documented)


def test_scales_page_states_the_configured_numbers() -> None:
    text = (ROOT / "docs" / "scales.md").read_text(encoding="utf-8")
    for scale in ("smoke", "quick", "paper"):  # the campaign's differ by map
        config = load_config(ROOT / "config" / "config.yaml", {"scale": scale})
        row = re.search(rf"^\| `{scale}`.*$", text, re.MULTILINE)
        assert row is not None
        assert f"| {config.budget.env_steps:,} env steps | {len(config.seeds)} |" in row[0]
        assert f"| {', '.join(config.demo_ablation.maps)} |" in row[0]


def test_the_speed_page_states_the_measured_numbers() -> None:
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    table = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    for column, machine in enumerate(("zen4", "emerald_rapids"), start=1):
        path = ROOT / "results" / "reference" / "benchmarks" / f"{machine}.json"
        run = json.loads(path.read_text(encoding="utf-8"))
        smax = [f"{run[f'sim_vs_smax_{battles}']:.1f}" for battles in (64, 256, 1024)]
        released = [f"{run[f'authors_{what}_env_steps_per_s']:.0f}" for what in ("rollout", "dm2", "ippo")]
        authors = [f"{run['rollout_vs_authors']:.0f}"]
        authors += [f"{run[f'{what}_vs_authors']:.1f}" for what in ("update", "dm2", "ippo")]
        shared = f"{run['shared_ippo_env_steps_per_s']:,.0f} env steps/s, {run['ippo_vs_jaxmarl']:.1f} times"
        assert [row[column].removesuffix(" |") for row in table[1:13]] == [
            f"{run['sim_env_steps_per_s']:,.0f} env steps/s",
            "{}, {} and {} times".format(*smax),
            f"{run['dm2_env_steps_per_s']:,.0f} env steps/s",
            f"{run['ippo_env_steps_per_s']:,.0f} env steps/s",
            "{}, {} and {} env steps/s".format(*released),
            "{}, {}, {} and {} times".format(*authors),
            f"{run['jaxmarl_ippo_env_steps_per_s']:,.0f} env steps/s",
            shared,
            f"{run['product_peak_gflops']:.0f} GFLOP/s",
            f"{run['update_share_of_peak']:.2f} and {run['disc_share_of_peak']:.2f}",
            f"{run['two_cells_speedup']:.2f} times",
            f"{run['cell_peak_memory_mb']:.0f} MB",
        ]
    run = json.loads(
        (ROOT / "results" / "reference" / "benchmarks" / "zen4.json").read_text(encoding="utf-8")
    )
    qmix, rmappo = (f"{run[f'{method}_env_steps_per_s']:,.0f}" for method in ("qmix", "rmappo"))
    gain = f"{run['qmix_compiled_vs_torch']:.1f}"
    said = f"{gain} times its form in torch and {run['qmix_vs_authors']:.1f} times the released code"
    assert f"QMIX {qmix} env steps, {said}" in " ".join(text.split())
    assert f"RMAPPO {rmappo}" in " ".join(text.split())


def test_claims_are_complete() -> None:
    claims = load_claims(ROOT / "claims" / "claims.yaml").claims
    assert {claim.id.split("-")[0] for claim in claims} == {"i", "ii", "iii", "iv", "v", "vi"}


def test_links_in_the_docs_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "config" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            if target != "docs/demo_ablation.png":  # drawn by `make demo`
                assert (page.parent / target).exists(), f"{page.name}: {target}"
