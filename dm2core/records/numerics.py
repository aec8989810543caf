"""The numerics key: results are promised bit for bit only where every part of it is equal.

The number of battles side by side decides bits too; it is part of a cell's configuration, and so of its digest.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform

import numpy as np
import torch

from dm2core.env.vector import BattleSim
from dm2core.records import provenance
from dm2core.rng import battle_keys, stream

PROBES = ("2s3z", "3m")  # every weapon, armour and shield of the shipped maps
PROBE_BATTLES, PROBE_STEPS = 4, 40


def numerics_key(device: str = "cpu", form: str = "") -> dict[str, str]:
    """What beside the configuration decides bits: libraries, simulator, threads, instruction set, device.

    form: torch or fused, where the configuration's digest does not say.
    """
    packages = provenance.package_versions()
    return {
        "torch": torch.__version__,
        "numpy": packages["numpy"],
        "numba": packages["numba"],
        "simulator": simulator(),
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processor": provenance.processor_maker(str(provenance.host_class()["cpu"])),
        "mkl_cbwr": os.environ.get("MKL_CBWR", ""),
        "machine": platform.machine(),
        "system": platform.system(),
        "device": device,
    } | ({"form": form} if form else {})


@functools.cache
def simulator() -> str:
    """Fingerprint of the embedded simulator as built here: a hash of all that is seen in a few battles of random play.

    Sources would say less: they change with every comment, and the same ones may compute other bits elsewhere.
    """
    seen = hashlib.sha256()
    for name in PROBES:
        env, draw = BattleSim(name, PROBE_BATTLES), stream(0, "fingerprint")
        env.reset(battle_keys(0, "fingerprint", 0, PROBE_BATTLES))
        everyone = np.arange(PROBE_BATTLES)
        for _ in range(PROBE_STEPS):
            weights = draw.random(env.avail_actions.shape) * env.avail_actions
            step = env.step(weights.argmax(-1), everyone)
            seen.update(env.obs.tobytes() + env.avail_actions.tobytes() + np.asarray(step.reward).tobytes())
    return seen.hexdigest()[:16]
