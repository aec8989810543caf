"""QMIX in training: battle, update, battle, update (PyMARL run.py, episode_runner.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from dm2core.config import CellConfig
from dm2core.env.smac.vector import SmacEnv, take_counts
from dm2core.env.vector import make_env
from dm2core.finite import require_finite
from dm2core.fused.qnet import Episodes, Player
from dm2core.qmix.loss import EpisodeBatch, agent_values, inputs, td_loss
from dm2core.qmix.mixer import Mixer
from dm2core.qmix.net import QNet
from dm2core.qmix.play import TorchPlayer
from dm2core.qmix.replay import Replay
from dm2core.rng import battle_keys, stream
from dm2core.torch_rng import torch_stream

EPISODES = 8  # battles, and as many updates, between two checkpoints
GAME_EPISODES = 64  # the same in the real game, whose checkpoints hold the replay's observations


class QmixLearner:
    """Agents' network and mixer, their lagging copies, RMSprop, and the replay."""

    def __init__(self, cell: CellConfig, map_name: str) -> None:
        if cell.qmix is None:
            raise ValueError(f"method {cell.method} has no QMIX settings")
        self.cell, self.cfg, self.env = cell, cell.qmix, make_env(map_name, 1, cell.smac)
        self.episodes = EPISODES if cell.smac is None else GAME_EPISODES
        self.iteration, self.env_steps, self.target_updated = 0, 0, 0
        spec, cfg = self.env.spec, self.cfg
        size_in = spec.obs_size + spec.n_actions + spec.n_agents
        extra = cell.method == "qmix_fc3"
        dtype = torch.float64 if cell.dtype == "float64" else torch.float32

        def nets() -> tuple[QNet, Mixer]:
            net = QNet(spec.n_agents, size_in, spec.n_actions, cfg.hidden_size, extra_layer=extra)
            mixer = Mixer(spec.n_agents, spec.state_size, cfg.mixing_embed, cfg.hypernet_embed)
            net.init(torch_stream(cell.seed, "qmix/agent"))
            mixer.init(torch_stream(cell.seed, "qmix/mixer"))
            return net.to(dtype), mixer.to(dtype)

        self.net, self.mixer = nets()
        self.target_net, self.target_mixer = nets()
        self.parameters = [*self.net.parameters(), *self.mixer.parameters()]
        self.optimizer = torch.optim.RMSprop(
            self.parameters, lr=cfg.lr, alpha=cfg.optim_alpha, eps=cfg.optim_eps
        )
        self.replay = Replay(spec, cfg.replay_episodes, repeatable=cell.smac is None)
        self.dtype = dtype
        self.compiled = (
            Episodes(self.net, cfg.batch_episodes, spec.episode_limit) if cell.form == "fused" else None
        )

    @property
    def policy(self) -> QNet:
        return self.net

    def start(self, poll: Callable[[], None] = lambda: None) -> None:
        """Nothing comes before the first battle."""

    def epsilon(self) -> float:
        """Share of random actions: linear in env steps, then flat."""
        cfg = self.cfg
        done = min(self.env_steps / cfg.epsilon_anneal_env_steps, 1.0)
        return cfg.epsilon_start + done * (cfg.epsilon_finish - cfg.epsilon_start)

    def iterate(self, poll: Callable[[], None] = lambda: None) -> dict[str, float]:
        """`episodes` battles, each followed by an update once there are enough; metrics are means."""
        totals: dict[str, list[float]] = {}
        if isinstance(self.env, SmacEnv):
            self.env.wait_with(poll)
        for _ in range(self.episodes):
            poll()
            while (metrics := self._play(poll)) is None:
                poll()
            if len(self.replay) >= self.cfg.batch_episodes:
                metrics |= self._update()
            for key, value in metrics.items():
                totals.setdefault(f"train/{key}", []).append(value)
        self.iteration += 1
        counts = {f"train/{key}": value for key, value in take_counts(self.env).items()}
        return {key: sum(values) / len(values) for key, values in totals.items()} | counts

    @torch.no_grad()
    def _play(self, poll: Callable[[], None]) -> dict[str, float] | None:
        """One battle into the replay; None if its game failed, and nothing has happened."""
        env, replay, spec, episode = self.env, self.replay, self.env.spec, self.replay.inserted
        keys = battle_keys(self.cell.seed, "qmix/rollout", episode, 1)
        env.reset(keys)
        place, here = replay.begin(keys[0]), np.zeros(1, dtype=np.int64)
        player = TorchPlayer(self.net) if self.compiled is None else Player(self.net)
        epsilon, episode_return, over = self.epsilon(), 0.0, False
        for t in range(spec.episode_limit + 1):
            replay.obs[place, t] = torch.from_numpy(env.obs[0])
            replay.avail_actions[place, t] = torch.from_numpy(env.avail_actions[0])
            replay.state[place, t] = torch.from_numpy(env.state()[0])
            if over:
                break
            actions = player.act(env.obs[0], env.avail_actions[0], keys, t, epsilon)
            step = env.step(actions[None], here)
            if step.discarded is not None:
                poll()
                if step.discarded[0]:
                    return None
            replay.actions[place, t] = torch.from_numpy(actions)
            replay.rewards[place, t] = float(step.reward[0])
            episode_return += float(step.reward[0])
            over = bool(step.terminated[0] or step.truncated[0])
        bootstraps = self.cfg.bootstrap_at_time_limit and bool(step.truncated[0])
        replay.end(place, t, bootstraps=bootstraps)
        self.env_steps += t
        return {
            "episode_return": episode_return,
            "episode_length": float(t),
            "win_rate": float(step.won[0]),
            "epsilon": epsilon,
        }

    def _update(self) -> dict[str, float]:
        """One RMSprop step on episodes drawn without replacement; every so many episodes the copies catch up."""
        cfg, episode = self.cfg, self.replay.inserted - 1
        draws = stream(self.cell.seed, "qmix/sample", episode)
        places = draws.choice(len(self.replay), cfg.batch_episodes, replace=False)
        batch = self.replay.batch(places).to(self.dtype)
        q_target, q = self._values(batch)
        loss, metrics = td_loss(q, q_target, self.mixer, self.target_mixer, batch, cfg.gamma)
        require_finite("QMIX loss", loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.compiled is not None:
            assert q.grad is not None
            self.compiled.write_gradients(self.net, q.grad)
        norm = nn.utils.clip_grad_norm_(self.parameters, cfg.grad_norm_clip)
        require_finite("gradient norm", norm)
        self.optimizer.step()
        if episode - self.target_updated >= cfg.target_update_episodes:
            self.target_net.load_state_dict(self.net.state_dict())
            self.target_mixer.load_state_dict(self.mixer.state_dict())
            self.target_updated = episode
        return {"loss": float(loss.detach()), "grad_norm": float(norm)} | {
            key: float(value) for key, value in metrics.items()
        }

    def _values(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """The agents' values by the lagging copy, and by the network, with gradients."""
        if self.compiled is not None:
            episodes = (batch.obs, batch.actions, batch.lengths)
            q_target = self.compiled.values(self.target_net, *episodes)
            return q_target, self.compiled.values(
                self.net, *episodes
            ).requires_grad_()  # last, as gradients are its
        x = inputs(batch)
        with torch.no_grad():
            q_target = agent_values(self.target_net, x, batch)
        return q_target, agent_values(self.net, x, batch)

    def tensors(self) -> dict[str, Tensor]:
        """Weights of both pairs, RMSprop's moments, the replay."""
        out = {"target_updated": torch.tensor(self.target_updated)}
        for name, net in self._nets().items():
            out |= {f"{name}/{key}": value.detach() for key, value in net.state_dict().items()}
        for k, p in enumerate(self.parameters):
            out |= {f"optimizer/{k}/{key}": value for key, value in self.optimizer.state.get(p, {}).items()}
        return out | {f"replay/{key}": value for key, value in self.replay.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`; KeyError if one is missing."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {
                key[len(prefix) :]: value.clone() for key, value in tensors.items() if key.startswith(prefix)
            }

        self.target_updated = int(tensors["target_updated"])
        for name, net in self._nets().items():
            net.load_state_dict(under(f"{name}/"))
        for k, p in enumerate(self.parameters):
            moments = under(f"optimizer/{k}/")
            if moments:
                self.optimizer.state[p] = moments
        self.replay.load_tensors(under("replay/"))

    def _nets(self) -> dict[str, nn.Module]:
        return {
            "agent": self.net,
            "mixer": self.mixer,
            "target_agent": self.target_net,
            "target_mixer": self.target_mixer,
        }
