"""Adam against torch's own class, and what a process that trains does not import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dm2core.adam import Adam


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_torchs_to_the_bit(dtype: torch.dtype) -> None:
    """With a parameter that gets its first gradient late, and one that never does."""
    g = torch.Generator().manual_seed(0)
    drawn = [torch.randn(7, 5, generator=g, dtype=dtype) for _ in range(3)]
    ours, theirs = ([nn.Parameter(p.clone()) for p in drawn] for _ in range(2))
    adam = Adam(ours, lr=3e-3, eps=1e-5)
    torchs = torch.optim.Adam(theirs, lr=3e-3, eps=1e-5, fused=True)
    for k in range(20):
        for p, q in list(zip(ours, theirs, strict=True))[: 1 if k < 4 else 2]:
            p.grad = torch.randn(7, 5, generator=g, dtype=dtype)
            q.grad = p.grad.clone()
        adam.step()
        torchs.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)
        assert adam.state.get(p, {}).keys() == torchs.state.get(q, {}).keys()
        for key, value in adam.state.get(p, {}).items():
            assert torch.equal(value, torchs.state[q][key]) and value.dtype == torchs.state[q][key].dtype
    assert ours[2] not in adam.state and torch.equal(ours[2], drawn[2])


def test_a_cell_imports_nothing_that_takes_seconds_and_is_not_used(tmp_path: Path) -> None:
    """torch.optim.Adam would bring torch's compiler, pyarrow.array would bring pandas."""
    arguments = ["--config", "config/config.yaml", "--set", "scale=smoke", "--map", "3m", "--method", "ippo"]
    code = (
        "import sys; from dm2core.cli import main\n"
        f"code = main(['train', *{arguments!r}, '--seed', '1', '--out', {str(tmp_path / 'out')!r}])\n"
        "unused = {'torch._dynamo', 'pandas', 'matplotlib', 'scipy.stats'} & set(sys.modules)\n"
        "print(unused, file=sys.stderr)\n"
        "raise SystemExit(code or 10 * bool(unused))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=dict(os.environ), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
