"""The same bits whether a process compiled the kernels or loaded them, all or some, for this processor or for any."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher

import dm2core.env
import dm2core.fused
import dm2core.rmappo

UPDATE = """
import hashlib
import torch
from dm2core.adam import Adam
from dm2core import discriminator, pairs
from dm2core.config import Discriminator
from dm2core.nets import DiscriminatorNet
from tests.learning.cases import AUTHORS, LIMIT, N_AGENTS, OBS, networks, rollout
from tests.learning.test_fused import _single, _step
from tests.qmix import test_compiled as qmix

torch.set_num_threads(1)
actor, critic = (net.float() for net in networks())
_step("fused", _single(rollout(1)), (actor, critic), AUTHORS)
g = torch.Generator().manual_seed(0)
net = DiscriminatorNet(N_AGENTS, OBS, 64).init(g)
sides = [pairs.policy_episodes(_single(rollout(s)), torch.float32, terminal_row=True) for s in (1, 2)]
cfg = Discriminator(lr=1e-3, hidden_size=64, steps=3, episodes_per_step=3, gp_coef=10.0)
adam = Adam(net.parameters(), lr=1e-3)
discriminator.update_discriminators(net, adam, *sides, LIMIT + 1, cfg, AUTHORS, generator=g, compute="fused")
digest = hashlib.sha256()
for module in (actor, critic, net):
    for p in module.parameters():
        digest.update(p.detach().numpy().tobytes())
agent, batch = qmix.single(qmix.networks(1, extra_layer=True)[0]), qmix.random_batch(4).to(torch.float32)
values, room = qmix.compiled(agent, batch)
room.write_gradients(agent, values)
for p in agent.parameters():
    digest.update(p.grad.numpy().tobytes())
print(digest.hexdigest())
"""


def test_no_kernel_may_reorder_or_contract_arithmetic() -> None:
    kernels = 0
    for package in (dm2core.fused, dm2core.env, dm2core.rmappo):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, Dispatcher):
                    kernels += 1
                    assert not value.targetoptions.get("fastmath"), f"{module.name}.{name}"
    assert kernels > 80


def _digest(cache: Path, **env: str) -> str:
    out = subprocess.run(
        [sys.executable, "-c", UPDATE], env={**os.environ, "NUMBA_CACHE_DIR": str(cache), **env},
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return out.stdout


@pytest.mark.slow
def test_bits_do_not_depend_on_who_compiled_what_and_for_which_processor(tmp_path: Path) -> None:
    compiled = _digest(tmp_path / "a")
    assert _digest(tmp_path / "a") == compiled, "all kernels from the cache"
    for stem in ("body", "losses", "discriminator", "qnet"):
        gone = list((tmp_path / "a").rglob(f"{stem}.*.nb?"))
        assert gone
        for path in gone:
            path.unlink()
        assert _digest(tmp_path / "a") == compiled, f"{stem} compiled, the rest from the cache"
    assert _digest(tmp_path / "b", NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == compiled, (
        "any processor"
    )
