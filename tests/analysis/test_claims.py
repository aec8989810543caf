"""The committed claims are readable and their published numbers are the paper's; faulty files are one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dm2core.analysis.claims import load_claims
from dm2core.analysis.paper_numbers import paper_differences
from dm2core.config import load_config
from dm2core.errors import DataError
from dm2core.strict import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = ROOT / "claims" / "claims.yaml"
CURVES = ROOT / "resources" / "paper_curves"


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = CLAIMS.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "claims.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_published_numbers_are_differences_of_the_summary() -> None:
    paper = paper_differences(load_claims(CLAIMS), CURVES)
    assert paper["i", "3s_vs_3z"] == pytest.approx(0.8952 - 0.7086)
    assert paper["ii", "5m_vs_6m"] == pytest.approx(0.4262 - 0.310)
    assert paper["iii-team", "5m_vs_6m"] == pytest.approx((0.5124 + 0.5384 - 0.0255 - 0.1631) / 2)
    assert paper["i-limits", "8m_vs_9m"] < 0
    notebook = paper_differences(load_claims(CLAIMS.with_name("campaign.yaml")), CURVES)
    assert notebook["ix", "5m_vs_6m"] == pytest.approx(0.5124 - 0.274)
    assert set(paper) == {(c.id, k.map) for c in load_claims(CLAIMS).claims for k in c.contrasts}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metric: auc", "metric: mean", "metric"),
        ("smallest_effect: 0.05", "smallest_effect: 0", "smallest_effect"),
        ("b: [ippo]", "b: [ipo]", "did you mean 'ippo'"),
        ("b: [ippo]", "b: []", "empty list"),
        ("map: 5m_vs_6m", "map: 5m_vs_7m", "unknown map '5m_vs_7m'"),
        ("dm2@ippo-s5000k_joint-concurrent", "dm2", "needs demonstrations"),
        ("dm2@ippo-s5000k_joint-concurrent", "dm2@ippo_best", "not a demonstration set"),
        ("id: ii\n", "id: i\n", "stands twice"),
        ("direction: above", "directions: above", "direction: missing"),
    ],
)
def test_faults_are_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_claims(changed(tmp_path, old, new))
    assert message in str(error.value)
    assert "claims.yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("ippo+clip_epsilon=0.2", "unknown setting 'clip_epsilon'; did you mean 'clip_eps'?"),
        ("ippo+clip_eps=2", "map_params.clip_eps: input should be less than 1, got '2'"),
        ("ippo+cloning.epochs=9", "ippo does not read cloning.epochs"),
    ],
)
def test_a_setting_that_no_run_can_have_is_one_line(tmp_path: Path, run: str, message: str) -> None:
    path = changed(tmp_path, "b: [ippo]", f"b: [{run}]")
    load_claims(path)  # which settings there are is the configuration's to say
    with pytest.raises(ConfigError) as error:
        load_claims(path, load_config(ROOT / "config" / "config.yaml"))
    assert str(error.value).startswith(f"{path}: claim i: method: {run}: ")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_margin_needs_demonstrators(tmp_path: Path) -> None:
    data = yaml.safe_load(CLAIMS.read_text(encoding="utf-8"))
    data["claims"][0]["metric"] = "margin"
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(ConfigError, match="claim i: ippo has no demonstrators"):
        load_claims(path)


def test_unknown_published_curve_is_one_line(tmp_path: Path) -> None:
    claims = load_claims(changed(tmp_path, "b: [ippo baseline]", "b: [ippo base]"))
    with pytest.raises(DataError, match="no curve 'ippo base' of 5v6 in fig2_core"):
        paper_differences(claims, CURVES)
