"""JaxMARL's IPPO, measured in its own environment: `.venv-bench/bin/python benchmarks/jaxmarl_child.py MAP CHECKOUT`.

Like smax.py: a line in, one line of JSON out. Their baselines/IPPO/ippo_rnn_smax.py with its own configuration; only
the map and the number of updates are ours. One repetition is one call of their compiled training function: new
networks and battles (milliseconds), then UPDATES times rollout and update. Needs nothing of dm2core.
"""

from __future__ import annotations

import json
import sys
import time
import types
from pathlib import Path

import jax
import yaml

UPDATES = 2  # of one repetition


def stand_ins() -> None:
    """Modules that their file imports for its command line and its logging, which nothing here uses."""
    for name in ("hydra", "omegaconf", "wandb"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["hydra"].main = lambda **_: lambda main: main  # type: ignore[attr-defined]
    sys.modules["omegaconf"].OmegaConf = None  # type: ignore[attr-defined]
    sys.modules["wandb"].log = lambda _: None  # type: ignore[attr-defined]  # what it does where it is disabled


def main(map_name: str, checkout: str) -> None:
    """Answer until the input ends."""
    folder = Path(checkout) / "baselines" / "IPPO"
    config = yaml.safe_load((folder / "config" / "ippo_rnn_smax.yaml").read_text())
    env_steps = UPDATES * config["NUM_ENVS"] * config["NUM_STEPS"]
    config |= {"MAP_NAME": map_name, "TOTAL_TIMESTEPS": env_steps}
    stand_ins()
    sys.path[:0] = [checkout, str(folder)]
    from ippo_rnn_smax import make_train

    train = jax.jit(make_train(config)).lower(jax.random.key(0)).compile()
    for k, _ in enumerate(sys.stdin):
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(train(jax.random.key(k)))
        took = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        print(json.dumps({"env_steps": env_steps, **took}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
