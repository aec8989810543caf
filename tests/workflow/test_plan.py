"""What would run, without running it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dm2core.config import load_config

from .conftest import ROOT, SMOKE, snakemake


@pytest.mark.parametrize(
    ("scale", "experts", "cells"),
    [("smoke", 3, 10), ("quick", 3, 15), ("paper", 5, 25)],
    ids=["smoke", "quick", "paper"],
)
def test_figure_needs_experts_demonstrations_and_cells(
    tmp_path: Path, scale: str, experts: int, cells: int
) -> None:
    scale_file = str(ROOT / "config" / "scale" / f"{scale}.yaml")
    outcome = snakemake(tmp_path, "-n", "figures/demo_ablation.pdf", "--configfile", scale_file)
    assert outcome.plan == {
        "train_expert": experts,
        "sample_demos": 4,
        "train_cell": cells,
        "collect_scores": 1,
        "plot_demo_ablation": 1,
    }, outcome.text


def test_cells_under_a_filter_plan_those_cells_and_what_they_learn_from(tmp_path: Path) -> None:
    outcome = snakemake(tmp_path, "-n", "cells", *SMOKE, "--config", "only_method=ippo", "only_seed=112358")
    assert outcome.plan == {"train_cell": 1}
    assert outcome.cells == {"3m/ippo/none/seed112358"}


def test_a_configuration_that_was_edited_under_its_hash_is_written_again(tmp_path: Path) -> None:
    """Cells read it; with other values there they would be those values' cells under this one's name."""
    folder = tmp_path / "results" / "smoke" / "config"
    texts = []
    for _ in range(2):
        assert snakemake(tmp_path, "-n", "cells", *SMOKE).code == 0
        (path,) = folder.iterdir()
        texts.append(path.read_text())
        path.write_text(texts[0].replace("gamma: 0.99", "gamma: 0.5"))
    assert texts[0] == texts[1] != path.read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("only_map=3m_vs_3m", r"only_map: no cell has 3m_vs_3m; there are: 3m\n"),
        ("only_seed=7", r"only_seed: no cell has 7; there are: 112358, 1285842\n"),
        ("only_sed=7", r"unknown filter 'only_sed'; did you mean 'only_seed'?"),
        ("sead=1", r"smoke.yaml or --config: sead: unknown key 'sead'; did you mean 'seeds'"),
        ("eval_seed=-1", r"eval_seed: .*greater than or equal to 0"),
        ("scale=tiny", r"unknown scale 'tiny'"),
        ('mlflow={uri: "@x"}', r"--config: not valid YAML: .*'@'"),
    ],
)
def test_a_typo_is_one_line_and_not_nothing_to_be_done(tmp_path: Path, override: str, message: str) -> None:
    outcome = snakemake(tmp_path, "-n", "cells", *SMOKE, "--config", override)
    assert outcome.code != 0
    assert re.search(message, outcome.text), outcome.text
    assert "Traceback (most recent" not in outcome.text


def test_words_of_a_configfile_that_yaml_knows_stay_words(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("switches: {value_clip: 'off'}\nmlflow: {uri: '007'}\n")
    assert snakemake(tmp_path, "-n", "cells", *SMOKE, str(tmp_path / "mine.yaml")).code == 0
    (path,) = (tmp_path / "results" / "smoke" / "config").iterdir()
    made = load_config(path)
    assert (made.resolved_switches().value_clip, made.mlflow.uri) == ("off", "007")


@pytest.mark.parametrize("method", ["dm2", "dm2+lr=1.0e-4", "bc_ippo+cloning.epochs=3"])
def test_a_cell_nobody_configured_can_be_asked_for_by_path(tmp_path: Path, method: str) -> None:
    path = f"results/smoke/cells/3m/{method}/ippo-s1k_joint-concurrent/seed9/metrics.parquet"
    outcome = snakemake(tmp_path, "-n", path, *SMOKE)
    assert outcome.plan == {"train_expert": 1, "sample_demos": 1, "train_cell": 1}


def test_a_cell_on_an_unknown_map_is_refused(tmp_path: Path) -> None:
    outcome = snakemake(tmp_path, "-n", "results/smoke/cells/5m_v_6m/ippo/none/seed1/metrics.parquet", *SMOKE)
    assert outcome.code != 0
    assert "did you mean '5m_vs_6m'" in outcome.text
    assert "Traceback (most recent" not in outcome.text


def test_a_figure_that_does_not_exist_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    outcome = snakemake(tmp_path, "-n", "figures/gail_onli.pdf", *SMOKE)
    assert outcome.code != 0
    said = "unknown figure 'gail_onli'; did you mean 'gail_only'?"
    assert outcome.text.count(said) == 1, outcome.text
    assert "Traceback (most recent" not in outcome.text


def test_every_figure_has_one_rule(tmp_path: Path) -> None:
    names = ["demo_ablation.pdf", "theory.csv", "replay_3m.gif", "replay_3m.manifest.json", "gail_only.png"]
    outcome = snakemake(tmp_path, "-n", *(f"figures/{name}" for name in names), *SMOKE)
    assert outcome.code == 0, outcome.text
    drawn = {rule for rule in outcome.plan if rule.startswith(("plot_", "replay_"))}
    assert drawn == {"plot_demo_ablation", "plot_theory", "replay_pair", "plot_figure"}


def test_slurm_profile_is_found_by_name_and_holds_no_site(tmp_path: Path) -> None:
    text = (ROOT / "slurm" / "profile.yaml").read_text()
    assert "slurm_account" not in text and "slurm_partition" not in text
    outcome = snakemake(tmp_path, "-n", *SMOKE, "--profile", "slurm")
    assert outcome.code == 0, outcome.text


def test_readmes_commands_are_commands(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [command for command in re.findall(r"`snakemake ([^`]+)`", text) if "-n" not in command]
    commands = [command for command in commands if not re.search(r"--(unlock|report)", command)]
    assert len(commands) >= 5
    for command in commands:
        words = [word.replace("config/scale", str(ROOT / "config" / "scale")) for word in command.split()]
        outcome = snakemake(tmp_path, *words, "-n")
        assert outcome.code == 0, f"{command}: {outcome.text}"


def test_packs_take_the_place_of_single_cells(tmp_path: Path) -> None:
    packs = "packs={cells: 4, device: cpu, threads: 1}"
    outcome = snakemake(tmp_path, "-n", "cells", *SMOKE, "--config", packs)
    assert outcome.plan == {
        "train_expert": 3,
        "sample_demos": 4,
        "train_pack_0": 1,
        "train_pack_1": 1,
        "train_pack_2": 1,
    }
    told = re.findall(r"--cell (\S+)", outcome.text)
    assert len({cell.split("cells/")[1] for cell in told}) == 10


def test_methods_that_packs_cannot_train_stay_single(tmp_path: Path) -> None:
    chosen = ("packs={cells: 50, device: cpu, threads: 1}", "only_figure=core", "only_seed=112358")
    outcome = snakemake(tmp_path, "-n", "cells", *SMOKE, "--config", *chosen)
    single = {cell.split("/")[1] for cell in outcome.cells}
    assert single >= {"qmix", "rmappo", "dm2_sil"} and "ippo" not in single
