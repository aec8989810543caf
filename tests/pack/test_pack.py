"""A cell trained in a pack against the same cell trained alone, on the CPU and in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dm2core.config import CellConfig, Switches, cell_config, load_config
from dm2core.demonstrations import Demonstrations, of_rollout
from dm2core.dm2 import Dm2
from dm2core.env.vector import make_env
from dm2core.methods import METHODS
from dm2core.pack.learner import PackLearner
from dm2core.pairs import Episodes
from dm2core.rng import battle_keys
from dm2core.rollout import collect
from tests.learning.cases import AUTHORS, PAPER

CONFIG = load_config(
    Path(__file__).parents[2] / "config" / "config.yaml", {"scale": "smoke", "compute": "torch"}
)
CPU = torch.device("cpu")
BATTLES = 6


def cell(
    method: str,
    seed: int = 5,
    switches: Switches = AUTHORS,
    coef: float = 0.3,
    dtype: str = "float64",
    parts: int = 1,
) -> CellConfig:
    demos = "toy" if METHODS[method].needs_demos else "none"
    base = cell_config(CONFIG, map_name="3m", method=method, seed=seed, demos=demos)
    params = base.map_params.model_copy(update={"imitation_coef": coef, "episodes_per_update": BATTLES})
    ppo = base.ppo.model_copy(update={"hidden_size": 16, "minibatches": parts})
    disc = base.discriminator and base.discriminator.model_copy(update={"episodes_per_step": 4})
    update = {"switches": switches, "map_params": params, "ppo": ppo, "dtype": dtype, "discriminator": disc}
    return base.model_copy(update=update)


def demonstrations(seed: int) -> Demonstrations:
    env = make_env("3m", 10)
    played = collect(env, Dm2(cell("ippo", seed), env).policy, None, battle_keys(seed, "e", 0, 10))
    return of_rollout(played, "3m")


DEMOS = [demonstrations(1), demonstrations(2)]


def alone(config: CellConfig, which: int = 0) -> Dm2:
    demos = DEMOS[which] if METHODS[config.method].needs_demos else None
    made = Dm2(config, make_env("3m", BATTLES), demos)
    made.start()
    return made


def pack(cells: list[Dm2], threads: int = 1) -> PackLearner:
    return PackLearner(cells, CPU, lambda count: make_env("3m", count), threads)


def train(cells: list[Dm2], iterations: int) -> list[list[dict[str, float]]]:
    learner = pack(cells)
    metrics = [learner.iterate() for _ in range(iterations)]
    learner.put_back()
    return metrics


def assert_same(found: Dm2, expected: Dm2, rtol: float = 1e-9) -> None:
    assert (found.iteration, found.env_steps) == (expected.iteration, expected.env_steps)
    a, b = found.tensors(), expected.tensors()
    assert a.keys() == b.keys()
    for key, value in b.items():
        assert a[key].dtype == value.dtype
        scale = float(value.abs().max()) + 1e-12
        torch.testing.assert_close(
            a[key], value, rtol=rtol, atol=rtol * scale, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.parametrize(
    ("switches", "parts"),
    [(AUTHORS, 1), (PAPER, 2), (PAPER.model_copy(update={"imitation_reward": "neglog_agent"}), 1)],
    ids=["authors", "paper", "neglog"],
)
def test_a_packed_cell_is_the_single_cell(switches: Switches, parts: int) -> None:
    """Methods, coefficients, demonstrations and seeds side by side; metrics too."""
    kinds = [
        ("ippo", 5, 0.0, 0),
        ("dm2", 5, 0.3, 0),
        ("dm2", 6, 0.05, 1),
        ("gail_only", 7, 0.3, 0),
        ("bc_ippo", 8, 0.0, 1),
    ]
    cells = [(cell(m, s, switches, c, parts=parts), which) for m, s, c, which in kinds]
    packed = [alone(*c) for c in cells]
    found = train(packed, 3)
    for n, c in enumerate(cells):
        single = alone(*c)
        expected = [single.iterate() for _ in range(3)]
        assert_same(packed[n], single)
        for mine, its in zip((row[n] for row in found), expected, strict=True):
            assert mine == pytest.approx(its, rel=1e-5, abs=1e-6)


def test_float32_stays_within_its_tolerance() -> None:
    config = cell("dm2", dtype="float32")
    packed, single = alone(config), alone(config)
    train([alone(cell("ippo", 9, dtype="float32")), packed], 3)
    for _ in range(3):
        single.iterate()
    weights = [torch.cat([p.detach().flatten() for p in dm2.policy.parameters()]) for dm2 in (packed, single)]
    assert float((weights[0] - weights[1]).norm() / weights[1].norm()) < 1e-4


def test_a_cell_does_not_see_its_mates() -> None:
    one, other = alone(cell("dm2")), alone(cell("dm2"))
    train([one, alone(cell("ippo", 1))], 2)
    train([alone(cell("gail_only", 2), 1), alone(cell("dm2", 3, coef=0.9), 1), other], 2)
    assert_same(one, other)


def test_cells_leave_and_go_on_alone_or_in_another_pack() -> None:
    left, stayed, expected = (
        alone(cell("dm2", 1)),
        alone(cell("dm2", 2)),
        [alone(cell("dm2", s)) for s in (1, 2)],
    )
    train([left, stayed], 1)
    train([stayed], 1)
    left.iterate()
    train([stayed, left], 1)
    for dm2 in expected:
        for _ in range(3):
            dm2.iterate()
    assert_same(left, expected[0])
    assert_same(stayed, expected[1])


def test_a_resumed_pack_goes_on_with_the_same_bits() -> None:
    straight, halves = ([alone(cell(m, dtype="float32")) for m in ("ippo", "dm2")] for _ in range(2))
    train(straight, 3)
    train(halves, 2)
    fresh = [alone(dm2.cell) for dm2 in halves]
    for new, old in zip(fresh, halves, strict=True):
        new.load_tensors({k: v.clone() for k, v in old.tensors().items()})
        new.iteration, new.env_steps = old.iteration, old.env_steps
    train(fresh, 1)
    for new, old in zip(fresh, straight, strict=True):
        for key, value in old.tensors().items():
            assert torch.equal(value, new.tensors()[key]), key


def test_cells_of_one_file_share_its_rows() -> None:
    def imitator(sha256: str, which: int) -> Dm2:
        return alone(cell("dm2").model_copy(update={"demos_sha256": sha256}), which)

    shared = pack([imitator("a", 0), imitator("a", 0), imitator("b", 1)]).experts
    rows = [alone(cell("dm2"), which).expert for which in (0, 1)]
    assert len(shared.obs) == sum(len(r.obs) for r in rows if isinstance(r, Episodes))
    assert torch.equal(shared.start[:3], shared.start[3:6]) and not torch.equal(
        shared.start[:3], shared.start[6:]
    )


def test_threads_change_no_bit() -> None:
    one, two = [alone(cell("ippo", s)) for s in (1, 2)], [alone(cell("ippo", s)) for s in (1, 2)]
    for cells, threads in ((one, 1), (two, 3)):
        learner = pack(cells, threads)
        learner.iterate()
        learner.put_back()
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(v, b.tensors()[k]) for k, v in a.tensors().items())


def test_cells_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="differ only in method"):
        pack([alone(cell("ippo")), alone(cell("ippo", switches=PAPER))])
    ahead = alone(cell("ippo"))
    ahead.iterate()
    with pytest.raises(ValueError, match="differ only in method"):
        pack([ahead, alone(cell("ippo", 6))])
    with pytest.raises(ValueError, match="dm2_sil is not trained in packs"):
        pack([alone(cell("dm2_sil"))])
