"""JaxMARL's SMAX, measured in its own environment: `.venv-bench/bin/python benchmarks/smax.py`.

Reads a number of battles per line, answers with one line of JSON each: env steps, CPU seconds and wall seconds of one
repetition. Used the way JaxMARL's own training scripts use it: jit, vmap over battles, lax.scan over steps, automatic
reset. Compiling is not timed. Needs nothing of dm2core.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxmarl
from jaxmarl.environments.smax import map_name_to_scenario

SCAN = {64: 256, 256: 64, 1024: 16}  # env steps of every battle in one compiled call: a second or so


def make_run(map_name: str, battles: int, steps: int) -> tuple[Callable[..., Any], Any]:
    """A compiled function carry -> carry that plays `steps` env steps of every battle, and the first carry."""
    env = jaxmarl.make("HeuristicEnemySMAX", scenario=map_name_to_scenario(map_name))

    def act(key: jax.Array, avail: dict[str, jax.Array]) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(env.agents))
        logits = {agent: jnp.where(avail[agent] > 0, 0.0, -jnp.inf) for agent in env.agents}
        return {
            agent: jax.random.categorical(k, logits[agent]) for k, agent in zip(keys, env.agents, strict=True)
        }

    def one(carry: Any, _: None) -> tuple[Any, None]:
        key, state, _, paid = carry
        key, act_key, step_key = jax.random.split(key, 3)
        actions = jax.vmap(act)(jax.random.split(act_key, battles), jax.vmap(env.get_avail_actions)(state))
        obs, state, reward, _, _ = jax.vmap(env.step)(jax.random.split(step_key, battles), state, actions)
        return (key, state, obs, paid + reward[env.agents[0]]), None

    key = jax.random.key(0)
    obs, state = jax.jit(jax.vmap(env.reset))(jax.random.split(key, battles))
    run = jax.jit(lambda carry: jax.lax.scan(one, carry, None, length=steps)[0])
    return run, (key, state, obs, jnp.zeros(battles))


def main(map_name: str) -> None:
    """Answer until the input ends."""
    runs: dict[int, tuple[Callable[..., Any], Any]] = {}
    for line in sys.stdin:
        battles = int(line)
        if battles not in runs:
            run, carry = make_run(map_name, battles, SCAN[battles])
            runs[battles] = (
                run,
                jax.block_until_ready(run(run(carry))),
            )  # the second call compiles anew, for weak types
        run, carry = runs[battles]
        wall, cpu = time.perf_counter(), time.process_time()
        carry = jax.block_until_ready(run(carry))
        took = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        runs[battles] = run, carry
        print(json.dumps({"env_steps": battles * SCAN[battles], **took}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
