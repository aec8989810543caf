"""The `authors` update equals the released code's, and the check notices when it does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dm2core import golden_update
from dm2core.errors import EXIT_DATA

DATA = Path(__file__).parents[1] / "data" / "golden_authors"
FILES = sorted(DATA.glob("case_*.npz"))


def test_both_recordings_pass_in_both_precisions_and_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(FILES) == 2
    assert golden_update.main([str(f) for f in FILES]) == 0
    assert capsys.readouterr().out.count(": ok") == 6


@pytest.mark.parametrize(
    ("switch", "value"),
    [
        ("absorbing_padding", False),
        ("terminal_row", False),
        ("t0_last_action_leak", False),
        ("drop_last_episode", False),
        ("value_clip", "off"),
        ("huber_one_sided", False),
        ("imitation_reward", "neglog_agent"),
    ],
)
def test_every_switch_is_noticed(switch: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_update, "AUTHORS", golden_update.AUTHORS.model_copy(update={switch: value}))
    assert golden_update.main([str(FILES[0])]) == 1


def test_damaged_recording_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(FILES[0].read_bytes()[:5000])
    assert golden_update.main([str(broken)]) == EXIT_DATA
    shutil.copy(FILES[0], tmp_path / "other.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    assert golden_update.main([str(tmp_path / "other.npz")]) == EXIT_DATA
    assert len(capsys.readouterr().err.splitlines()) == 2
