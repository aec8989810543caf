"""A NaN anywhere in an update ends the cell in that iteration, named, in both forms of the hot loops."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dm2core import dm2, ppo
from dm2core.config import PPO, CellConfig, cell_config, load_config
from dm2core.discriminator import BACKENDS as DISCRIMINATORS
from dm2core.dm2 import Dm2
from dm2core.errors import NumericError
from dm2core.fused import losses
from dm2core.gradients import value_loss
from dm2core.records.checkpoint import load_checkpoint
from dm2core.train import train_cell
from tests.learning.cases import AUTHORS

ROOT = Path(__file__).parents[2]
NAN = float("nan")
INFINITE = float("inf")


@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize(
    ("which", "value_clip"), [(0, "off"), (2, "off"), (0, "normalized"), (1, "normalized"), (2, "normalized")]
)
def test_no_nan_hides_in_the_value_loss(which: int, value_clip: str, one_sided: bool) -> None:
    """NaN in the value, in the old value (read only where values are clipped) or in the target: D08's dead zone."""
    cfg = load_config(ROOT / "config" / "config.yaml").ppo
    switches = AUTHORS.model_copy(update={"huber_one_sided": one_sided, "value_clip": value_clip})
    for others in ((0.0, 0.0), (50.0, -50.0), (-50.0, 50.0)):
        numbers = list(others)
        numbers.insert(which, NAN)
        value, old, target = (torch.tensor([x]) for x in numbers)
        assert value_loss(value, old, target, cfg, switches, 0.2).isnan().all(), numbers
        clip = np.float32(-1.0 if value_clip == "off" else 0.2)
        loss, _ = losses._value_gradient(
            *map(np.float32, numbers), np.float32(cfg.huber_delta), one_sided, clip
        )
        assert np.isnan(loss), numbers


def test_the_value_loss_of_finite_numbers_is_the_published_one() -> None:
    """delta = 10: quadratic within, linear above, and nothing at all below if one-sided (D08)."""
    cfg: PPO = load_config(ROOT / "config" / "config.yaml").ppo
    error = torch.tensor([-30.0, -10.0, -1.0, 0.0, 3.0, 10.0, 30.0])
    for one_sided, far_below in ((True, 0.0), (False, 250.0)):
        switches = AUTHORS.model_copy(update={"huber_one_sided": one_sided, "value_clip": "off"})
        found = value_loss(torch.zeros(7), torch.zeros(7), error, cfg, switches, 0.2)
        assert found.tolist() == [far_below, 50.0, 0.5, 0.0, 4.5, 50.0, 250.0]


def cell(compute: str) -> CellConfig:
    tiny = {
        "scale": "smoke",
        "compute": compute,
        "budget": {"env_steps": 5000, "eval_every": 5000, "eval_episodes": 1},
        "discriminator": {"steps": 2, "episodes_per_step": 2},
        "own_episodes": 4,
        "maps": {"3m": {"episodes_per_update": 4, "ppo_epochs": 2}},
    }
    config = load_config(ROOT / "config" / "config.yaml", tiny)
    return cell_config(config, map_name="3m", method="dm2_sil", seed=3)  # discriminators without a file


def spoil_rollout(
    name: str, at: tuple[int, ...]
) -> Callable[[pytest.MonkeyPatch, str, Callable[[], bool]], None]:
    def patch(monkeypatch: pytest.MonkeyPatch, _: str, now: Callable[[], bool]) -> None:
        real = dm2.collect

        def spoilt(*args: Any, **named: Any) -> Any:
            out = real(*args, **named)
            if now():
                getattr(out, name)[at] = NAN
            return out

        monkeypatch.setattr(dm2, "collect", spoilt)

    return patch


def spoil_batch(name: str) -> Callable[[pytest.MonkeyPatch, str, Callable[[], bool]], None]:
    def patch(monkeypatch: pytest.MonkeyPatch, _: str, now: Callable[[], bool]) -> None:
        real = dm2.make_batch

        def spoilt(*args: Any) -> Any:
            batch = real(*args)
            if not now():
                return batch
            values = getattr(batch, name).clone()
            values[2, batch.trained[0]] = NAN
            return dataclasses.replace(batch, **{name: values})

        monkeypatch.setattr(dm2, "make_batch", spoilt)

    return patch


def spoil_gradient(monkeypatch: pytest.MonkeyPatch, compute: str, now: Callable[[], bool]) -> None:
    backend = ppo.BACKENDS[compute]
    real = backend.critic_backward

    def spoilt(critic: Any, *args: Any) -> Any:
        loss = real(critic, *args)
        if now():
            critic.body.fc1.weight.grad[1, 0, 0] = INFINITE
        return loss

    monkeypatch.setattr(backend, "critic_backward", spoilt)


def spoil_discriminator(monkeypatch: pytest.MonkeyPatch, compute: str, now: Callable[[], bool]) -> None:
    real = DISCRIMINATORS[compute]

    def spoilt(net: Any, pairs: Any, *args: Any) -> Any:
        if now():
            with torch.no_grad():
                net.head.weight[1] = NAN
        return real(net, pairs, *args)

    monkeypatch.setitem(DISCRIMINATORS, compute, spoilt)


@pytest.mark.parametrize("compute", ["fused", "torch"])
@pytest.mark.parametrize(
    ("spoil", "quantity", "agents"),
    [
        (spoil_rollout("obs", (1, 0, 2, 3)), "obs", [2]),
        (spoil_rollout("rewards", (2, 1)), "task reward", []),
        (spoil_discriminator, "discriminator loss", [1]),
        (spoil_batch("advantages"), "policy_loss", [2]),
        (spoil_batch("value_targets"), "value_loss", [2]),
        (spoil_gradient, "gradient norm", [1]),
    ],
    ids=["obs", "reward", "discriminator", "actor", "critic", "gradient"],
)
def test_a_nan_ends_the_cell_in_its_iteration_and_is_named(
    spoil: Any,
    quantity: str,
    agents: list[int],
    compute: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the third iteration; what the second one saved stays, and the report says what, whose, when."""
    running: list[Dm2] = []
    iterate = Dm2.iterate

    def noted(self: Dm2, *args: Any) -> dict[str, float]:
        running[:] = [self]
        return iterate(self, *args)

    monkeypatch.setattr(Dm2, "iterate", noted)
    spoil(monkeypatch, compute, lambda: running[0].iteration == 2)
    config = cell(compute)
    with pytest.raises(NumericError, match=r"is (nan|inf)") as error:
        train_cell(config, tmp_path / "out", tmp_path / "state", None)
    assert "failure.json" in str(error.value) and "\n" not in str(error.value)
    report = json.loads((tmp_path / "state" / "failure.json").read_text())
    allowed = {quantity, "gradient norm"} if quantity in ("policy_loss", "value_loss") else {quantity}
    assert report["quantity"] in allowed  # a loss that is NaN has gradients that are
    assert report["agents"] == agents
    assert report["iteration"] == 2
    assert {row[0] for row in report["last_rows"]} == {1, 2}
    assert np.isfinite(list(report["last_values"].values())).all()
    saved = load_checkpoint(tmp_path / "state", config.digest())
    assert saved is not None and saved[0].iteration == 2 and saved[0].env_steps == report["env_steps"]
    assert all(torch.isfinite(value).all() for value in saved[1].values())
    assert not (tmp_path / "out" / "manifest.json").exists()
