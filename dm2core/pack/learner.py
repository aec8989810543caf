"""A pack: iterations of many cells at once, cells joining and leaving as learners of their own (dm2.py: Dm2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from dm2core.adam import Adam
from dm2core.config import Discriminator
from dm2core.discriminator import METRICS
from dm2core.dm2 import Dm2, Part, load_parts, saved_parts
from dm2core.nets import Actor, Critic, DiscriminatorNet
from dm2core.pack.collect import Played, collect_pack
from dm2core.pack.imitate import Experts, pack_judged, pack_logits, update_pack_discriminators
from dm2core.pack.params import stack, unstack
from dm2core.pack.rows import PackRows, pack_rows
from dm2core.pack.update import PackBatch, make_pack_batch, update_pack
from dm2core.pairs import Episodes
from dm2core.ppo import make_learners
from dm2core.reward import imitation_reward
from dm2core.rng import battle_keys
from dm2core.torch_rng import torch_stream
from dm2core.types import BattleEnv


class PackLearner:
    """C cells in step, their tensors stacked on the device. The cells given are the cells' state between packs:
    `put_back` writes to them, and a pack of other cells is a new object."""

    def __init__(
        self,
        cells: Sequence[Dm2],
        device: torch.device,
        open_env: Callable[[int], BattleEnv],
        threads: int = 1,
    ) -> None:
        """`open_env` makes an environment of so many battles. ValueError if the cells do not fit one pack."""
        self.cells, self.device = list(cells), device
        first = self.cells[0]
        for dm2 in self.cells:
            if not dm2.method.packs:
                raise ValueError(f"method {dm2.cell.method} is not trained in packs")
            if _shared(dm2) != _shared(first):
                raise ValueError(
                    "cells of one pack differ only in method, demonstrations, coefficient and seed"
                )
        spec, cell, dtype = first.env.spec, first.cell, first.dtype
        self.n_agents, self.battles = spec.n_agents, first.env.num_battles
        self.env = open_env(len(self.cells) * self.battles)
        self._threads = ThreadPoolExecutor(threads) if threads > 1 else None
        slices, size = len(self.cells) * spec.n_agents, cell.ppo.hidden_size
        size_in = spec.obs_size + spec.n_actions + spec.n_agents
        self.learners = make_learners(
            Actor(slices, size_in, spec.n_actions, size).to(device, dtype),
            Critic(slices, size_in, size).to(device, dtype),
            cell.ppo,
            cell.switches,
        )
        self._parts: list[Part] = [
            ("actor", self.learners.actor, self.learners.actor_opt),
            ("critic", self.learners.critic, self.learners.critic_opt),
        ]
        saved = [dm2.tensors() for dm2 in self.cells]
        # Discriminators have a stack of their own: not every cell has one.
        played = [{k: v for k, v in tensors.items() if not _disc(k)} for tensors in saved]
        load_parts(self._parts, self.learners.value_norm, stack(played, device))
        self.imitating = [c for c, dm2 in enumerate(self.cells) if dm2.disc is not None]
        self._disc_parts: list[Part] = []
        if self.imitating:
            cfg = self._disc_cfg
            self.disc = DiscriminatorNet(
                len(self.imitating) * spec.n_agents, spec.obs_size, cfg.hidden_size
            ).to(device, dtype)
            self.disc_opt = Adam(self.disc.parameters(), lr=cfg.lr)
            self._disc_parts = [("disc", self.disc, self.disc_opt)]
            own = [{k: v for k, v in saved[c].items() if _disc(k)} for c in self.imitating]
            load_parts(self._disc_parts, None, stack(own, device))
            files: dict[str, Episodes] = {}
            sets = [
                files.setdefault(dm2.cell.demos_sha256 or str(c), dm2.expert)
                for c, dm2 in enumerate(self.cells)
                if isinstance(dm2.expert, Episodes)
            ]
            self.experts = Experts(sets, device)
        kinds = [dm2.method.reward for dm2 in self.cells]
        coefs = [dm2.cell.map_params.imitation_coef for dm2 in self.cells]
        shares = [{"task": 0.0, "mixed": c, "imitation": 1.0}[k] for k, c in zip(kinds, coefs, strict=True)]
        self._task = torch.tensor([float(k != "imitation") for k in kinds], dtype=dtype, device=device)
        self._share = torch.tensor(shares, dtype=dtype, device=device)

    def iterate(self, poll: Callable[[], None] = lambda: None) -> list[dict[str, float]]:
        """One iteration of every cell, in place; each cell's metrics. What is not finite is found there."""
        first, cell = self.cells[0], self.cells[0].cell
        draws = [torch_stream(dm2.cell.seed, "update", dm2.iteration) for dm2 in self.cells]
        keys = [
            battle_keys(dm2.cell.seed, "rollout", dm2.iteration * self.battles, self.battles)
            for dm2 in self.cells
        ]
        played = collect_pack(
            self.env,
            self.learners.actor,
            self.learners.critic,
            np.stack(keys),
            threads=self._threads,
            poll=poll,
        )
        task = played.rewards.to(first.dtype).unsqueeze(-1)
        reward = (self._task.view(-1, 1, 1, 1) * task).expand(-1, -1, -1, self.n_agents)
        metrics: list[dict[str, float]] = [{} for _ in self.cells]
        if self.imitating:
            imitation, found = self._imitate(played, draws, poll)
            reward = reward.clone()
            reward[self.imitating] += self._share[self.imitating].view(-1, 1, 1, 1) * imitation
            for c, values in zip(self.imitating, found, strict=True):
                metrics[c] |= values
        lengths = played.lengths.cpu()
        rollout = _rollout_metrics(played)
        rows = pack_rows(played, cell.switches, first.dtype)
        del played  # half of the device's memory
        batch = make_pack_batch(self.learners, rows, reward.transpose(0, 1), cell.ppo, cell.switches)
        totals = update_pack(
            self.learners,
            rows,
            batch,
            cell.ppo,
            cell.switches,
            epochs=cell.map_params.ppo_epochs,
            clip_eps=cell.map_params.clip_eps,
            generators=draws,
            poll=poll,
        )
        rollout["explained_variance"] = _explained(batch, rows)
        per_cell = rollout | {k: v.view(-1, self.n_agents).mean(1) for k, v in totals.items()}
        for c, dm2 in enumerate(self.cells):
            dm2.iteration += 1
            dm2.env_steps += int(lengths[c].sum())
        for key, value in per_cell.items():
            for c, number in enumerate(value.tolist()):
                metrics[c][f"train/{key}"] = number
        return metrics

    @property
    def _disc_cfg(self) -> Discriminator:
        found = self.cells[self.imitating[0]].cell.discriminator
        assert found is not None
        return found

    def put_back(self) -> None:
        """Write every cell's weights and moments to the cell itself."""
        saved = saved_parts(self._parts, self.learners.value_norm)
        disc = saved_parts(self._disc_parts, None)
        for c, dm2 in enumerate(self.cells):
            tensors = unstack(saved, c, self.n_agents)
            if c in self.imitating:
                tensors |= unstack(disc, self.imitating.index(c), self.n_agents)
            dm2.load_tensors(tensors)

    def _imitate(
        self, played: Played, draws: list[torch.Generator], poll: Callable[[], None]
    ) -> tuple[Tensor, list[dict[str, float]]]:
        """Imitation reward [D, L, B, N] of the updated discriminators, and the metrics of the D cells."""
        switches, cfg = self.cells[0].cell.switches, self._disc_cfg
        found = update_pack_discriminators(
            self.disc,
            self.disc_opt,
            self.experts,
            played,
            self.imitating,
            cfg,
            switches,
            generators=[draws[c] for c in self.imitating],
            poll=poll,
        )
        logits = pack_logits(self.disc, played, self.imitating, switches)
        judged = pack_judged(played, self.imitating, switches)
        reward = imitation_reward(logits, switches.imitation_reward, judged)
        t = torch.arange(logits.shape[1], device=self.device).view(1, -1, 1)
        on = (t < played.lengths[self.imitating].unsqueeze(1)).unsqueeze(-1)
        count = on.sum((1, 2, 3)) * self.n_agents
        means = {f"disc/{k}": found[k].view(-1, self.n_agents).mean(1) for k in ("loss", *METRICS)}
        means["disc/logit_policy"] = (logits * on).sum((1, 2, 3)) / count
        means["train/imitation_reward"] = (reward * on).sum((1, 2, 3)) / count
        numbers = {key: value.tolist() for key, value in means.items()}
        return reward, [{k: v[d] for k, v in numbers.items()} for d in range(len(self.imitating))]


def _shared(dm2: Dm2) -> tuple[object, ...]:
    """What cells of one pack have in common."""
    cell = dm2.cell
    params = cell.map_params.model_copy(update={"imitation_coef": 0.0})
    return (
        cell.map_name,
        cell.map_sha256,
        cell.dtype,
        cell.switches,
        cell.ppo,
        params,
        dm2.env.spec,
        dm2.iteration,
    )


def _disc(key: str) -> bool:
    return key.startswith(("disc/", "disc_opt/"))


def _rollout_metrics(played: Played) -> dict[str, Tensor]:
    """[C] each."""
    return {
        "episode_return": played.rewards.sum(1).mean(1),
        "episode_length": played.lengths.double().mean(1),
        "win_rate": played.won.double().mean(1),
    }


def _explained(batch: PackBatch, rows: PackRows) -> Tensor:
    """returns.py: explained_variance of each cell."""
    inside = rows.inside.flatten(1)  # [C, G]
    sides = (x.unflatten(0, (len(inside), -1)) for x in (batch.raw_advantages, batch.value_targets))
    cells = zip(*sides, inside, strict=True)
    return torch.stack([1 - a[:, here].var() / v[:, here].var().clamp(min=1e-12) for a, v, here in cells])
