"""JaxMARL's recurrent IPPO on our simulator: its algorithm and settings, so that speeds can be compared.

One network of all agents, policy and value on one GRU: Dense-ReLU-GRU, and a hidden layer and an output for each. A
fixed number of battles goes on from iteration to iteration; backpropagation through time runs over the whole stretch.
Minibatches are of whole actors (an agent of a battle). Source: JaxMARL, baselines/IPPO/ippo_rnn_smax.py.

Two things make it fast. The agent's life in one battle is a sequence of its own, for hidden states start anew with
each battle: lives of a minibatch are sorted by length and stepped side by side without gaps, in groups that stay in
cache. And a dead agent sees zeros, remembers nothing and has no choice: its steps have one value in common and no
gradient but the value's, so they are computed once. Both are exact up to rounding.
Shapes: T steps, B battles, N agents, R = B N actors (b N + n), O observation, A actions, H hidden, K outputs padded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from dm2core.compiler import KERNEL, njit
from dm2core.env.vector import BattleSim
from dm2core.fused.body import add_rows, copy_row, gate, gate_back, padded, rectify, rectify_back
from dm2core.fused.draw import pick, uniform
from dm2core.fused.formula import exp32
from dm2core.fused.lanes import dot
from dm2core.fused.losses import _value_gradient, softmax
from dm2core.fused.tiles import accumulate, affine, product_address
from dm2core.memory import aligned_zeros
from dm2core.rmappo.update import buffer_gae
from dm2core.rng import battle_keys, stream
from dm2core.torch_rng import torch_stream

F32 = NDArray[np.float32]
GROUP = 48  # lives side by side
REWARD_SCALE = 0.1  # a won battle pays 20 in SMAC, 2 in SMAX; clipping values is in these units
UPDATES = 4  # of one repetition
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@dataclass(frozen=True)
class Settings:
    """JaxMARL's names in lower case."""

    lr: float
    anneal_lr: bool
    num_envs: int
    num_steps: int
    gru_hidden_dim: int
    fc_dim_size: int
    update_epochs: int
    num_minibatches: int
    gamma: float
    gae_lambda: float
    clip_eps: float
    scale_clip_eps: bool
    ent_coef: float
    vf_coef: float
    max_grad_norm: float

    def __post_init__(self) -> None:
        if self.fc_dim_size != self.gru_hidden_dim or self.scale_clip_eps:
            raise ValueError("only layers of one size and an unscaled clip_eps are implemented")

    @staticmethod
    def read(checkout: Path) -> Settings:
        """Of a checkout of JaxMARL."""
        found = yaml.safe_load((checkout / "baselines/IPPO/config/ippo_rnn_smax.yaml").read_text())
        return Settings(**{field.name: found[field.name.upper()] for field in fields(Settings)})


class Weights(NamedTuple):
    """Views of one flat array; their gradients are laid out alike."""

    w1: F32  # [O, H]
    b1: F32  # [H]
    wx: F32  # [H, 3H] GRU, from the layer below: reset, update, new
    bx: F32  # [3H]
    wh: F32  # [H, 3H] GRU, from the hidden state
    bh: F32  # [H] of the new gate; the other gates' biases are in bx
    w2: F32  # [H, 2H] hidden layers of policy and value
    b2: F32  # [2H]
    w3: F32  # [2H, K] their outputs: logits in the first A columns, the value in the next; zero where not connected
    b3: F32  # [K]


class Back(NamedTuple):
    """Transposed weights, for the gradients of the layers' inputs."""

    wx: F32  # [3H, H]
    wh: F32  # [3H, H]
    w2: F32  # [2H, H]
    w3: F32  # [K, 2H]
    zero: F32  # [2H] zeros


class Work(NamedTuple):
    """Activations of a group of lives, step after step [., .], and of one step [GROUP, .]."""

    x: F32  # [., O]
    y1: F32  # [., H] after the first layer
    gates: F32  # [., 3H]
    new_h: F32  # [., H] the hidden state's share in the new gate
    h: F32  # [., H] before the step
    d_h: F32  # [., H] gradient of the hidden state after the step
    h_next: F32  # [GROUP, H], and so on
    y2: F32
    out: F32
    d_out: F32
    d_y2: F32
    d_gates: F32
    d_new_h: F32
    d_y1: F32
    running: NDArray[np.int64]  # [T + 1] how many lives of the group reach each step
    n_actions: int
    product: int  # address of the matrix product


class Batch(NamedTuple):
    """What a stretch of play leaves; row T is there for its values alone."""

    obs: F32  # [T+1, R, O]
    avail: NDArray[np.bool_]  # [T+1, R, A]
    actions: NDArray[np.int64]  # [T+1, R]
    log_probs: F32  # [T+1, R]
    values: F32  # [T+1, R]
    alive: NDArray[np.bool_]  # [T+1, R] before acting
    begun: NDArray[np.bool_]  # [T+1, R] the battle starts with this step
    rewards: F32  # [T, R]
    h: F32  # [R, H] before the first step; zero where a battle starts
    advantages: F32  # [T, R]
    targets: F32  # [T, R]


def shapes(size_in: int, hidden: int, n_actions: int) -> list[tuple[int, ...]]:
    """Of Weights."""
    out = padded(n_actions + 1)
    return [
        (size_in, hidden), (hidden,), (hidden, 3 * hidden), (3 * hidden,), (hidden, 3 * hidden), (hidden,),
        (hidden, 2 * hidden), (2 * hidden,), (2 * hidden, out), (out,),
    ]  # fmt: skip


def views(flat: F32, sizes: list[tuple[int, ...]]) -> Weights:
    """The flat array cut into weights."""
    ends = np.cumsum([np.prod(size) for size in sizes])[:-1]
    return Weights(*(part.reshape(size) for part, size in zip(np.split(flat, ends), sizes, strict=True)))


def unconnected(w3: F32, n_actions: int) -> None:
    """Zeros where an output does not see a hidden layer, and in the padding."""
    hidden = len(w3) // 2
    w3[:hidden, n_actions:] = 0.0
    w3[hidden:, :n_actions] = 0.0
    w3[hidden:, n_actions + 1 :] = 0.0


def initialize(w: Weights, n_actions: int, generator: torch.Generator) -> None:
    """As ActorCriticRNN and flax's GRUCell: orthogonal but for the GRU's input (LeCun's normal); biases are zero."""

    def orthogonal(to: F32, gain: float) -> None:
        to[:] = torch.nn.init.orthogonal_(torch.empty(to.shape), gain, generator=generator).numpy()

    hidden = w.b1.size
    orthogonal(w.w1, sqrt(2))
    deviation = hidden**-0.5 / 0.87962566  # of a normal distribution cut at two deviations
    torch.nn.init.trunc_normal_(
        torch.from_numpy(w.wx), 0.0, deviation, -2 * deviation, 2 * deviation, generator=generator
    )
    for start in range(0, 3 * hidden, hidden):
        orthogonal(w.wh[:, start : start + hidden], 1.0)
    orthogonal(w.w2[:, :hidden], 2.0)
    orthogonal(w.w2[:, hidden:], 2.0)
    orthogonal(w.w3[:hidden, :n_actions], 0.01)
    orthogonal(w.w3[hidden:, n_actions : n_actions + 1], 1.0)


def make_back(w: Weights) -> Back:
    """Room for the transposed weights."""
    rooms = (np.empty(m.shape[::-1], np.float32) for m in (w.wx, w.wh, w.w2, w.w3))
    return Back(*rooms, np.zeros_like(w.b2))


def make_work(size_in: int, hidden: int, n_actions: int, steps: int) -> Work:
    """Room for a group of lives of at most `steps` steps."""
    out = padded(n_actions + 1)
    long = [aligned_zeros(GROUP * steps, n) for n in (size_in, hidden, 3 * hidden, *[hidden] * 3)]
    widths = (hidden, 2 * hidden, out, out, 2 * hidden, 3 * hidden, hidden, hidden)
    short = [aligned_zeros(GROUP, n) for n in widths]
    return Work(*long, *short, np.zeros(steps + 1, np.int64), n_actions, product_address())


@njit(**KERNEL)
def _forward(o, m, w, k):  # type: ignore[no-untyped-def]
    """From rows o.. of k.x and k.h to the first rows of k.h_next and k.out; m rows."""
    p, e, both = k.product, o + m, 2 * k.h.shape[1]
    affine(p, k.y1[o:e], w.b1, k.x[o:e], w.w1)
    rectify(m, k.y1[o:e])
    affine(p, k.gates[o:e], w.bx, k.y1[o:e], w.wx)
    accumulate(p, k.gates[o:e, :both], k.h[o:e], w.wh[:, :both])
    affine(p, k.new_h[o:e], w.bh, k.h[o:e], w.wh[:, both:])
    gate(m, k.gates[o:e], k.new_h[o:e], k.h[o:e], k.h_next)
    affine(p, k.y2[:m], w.b2, k.h_next[:m], w.w2)
    rectify(m, k.y2)
    affine(p, k.out[:m], w.b3, k.y2[:m], w.w3)


@njit(**KERNEL)
def _outputs_back(o, m, back, g, k):  # type: ignore[no-untyped-def]
    """From k.d_out to rows o.. of k.d_h, adding to the gradient of everything above the hidden state."""
    p = k.product
    add_rows(m, g.b3, k.d_out)
    accumulate(p, g.w3, k.y2[:m].T, k.d_out[:m])
    affine(p, k.d_y2[:m], back.zero, k.d_out[:m], back.w3)
    rectify_back(m, k.d_y2, k.y2)
    add_rows(m, g.b2, k.d_y2)
    accumulate(p, g.w2, k.h_next[:m].T, k.d_y2[:m])
    affine(p, k.d_h[o : o + m], back.zero[: k.h.shape[1]], k.d_y2[:m], back.w2)


@njit(**KERNEL)
def _step_back(o, m, before, back, g, k):  # type: ignore[no-untyped-def]
    """From rows o.. of k.d_h to rows `before`.. of it (the step before; below 0: none), adding to the gradient."""
    p, e, size = k.product, o + m, k.h.shape[1]
    both = 2 * size
    gate_back(m, k.d_h[o:e], k.gates[o:e], k.new_h[o:e], k.h[o:e], k.d_gates, k.d_new_h)
    add_rows(m, g.bx, k.d_gates)
    add_rows(m, g.bh, k.d_new_h)
    accumulate(p, g.wx, k.y1[o:e].T, k.d_gates[:m])
    accumulate(p, g.wh[:, :both], k.h[o:e].T, k.d_gates[:m, :both])
    accumulate(p, g.wh[:, both:], k.h[o:e].T, k.d_new_h[:m])
    affine(p, k.d_y1[:m], back.zero[:size], k.d_gates[:m], back.wx)
    rectify_back(m, k.d_y1, k.y1[o:e])
    add_rows(m, g.b1, k.d_y1)
    accumulate(p, g.w1, k.x[o:e].T, k.d_y1[:m])
    if before >= 0:
        for i in range(m):
            to, d, update = k.d_h[before + i], k.d_h[o + i], k.gates[o + i, size:both]
            for j in range(size):
                to[j] += d[j] * update[j]
        accumulate(p, k.d_h[before : before + m], k.d_gates[:m, :both], back.wh[:both])
        accumulate(p, k.d_h[before : before + m], k.d_new_h[:m], back.wh[both:])


@njit(**KERNEL)
def _loss(i, t, r, batch, advantages, share, clip, ent_coef, vf_coef, k, losses):  # type: ignore[no-untyped-def]
    """Gradient of the loss of actor r's step t, row i of the block; losses [3] += policy, value, entropy."""
    out, pi, n_actions = k.out[i], k.d_out[i], k.n_actions
    value, advantage, action = out[n_actions], advantages[t, r], batch.actions[t, r]
    softmax(batch.avail[t, r], out, pi)
    entropy = -dot(pi, out)
    ratio = exp32(out[action] - batch.log_probs[t, r])
    plain, clipped = ratio * advantage, min(max(ratio, _ONE - clip), _ONE + clip) * advantage
    d_log_prob = -share * plain if plain <= clipped else _ZERO
    for a in range(pi.size):
        pi[a] = pi[a] * (ent_coef * share * (out[a] + entropy) - d_log_prob)
    pi[action] += d_log_prob
    loss, slope = _value_gradient(
        value, batch.values[t, r], batch.targets[t, r], np.float32(np.inf), False, clip
    )
    pi[n_actions] = vf_coef * share * slope
    losses[0] -= share * min(plain, clipped)
    losses[1] += share * loss
    losses[2] += share * entropy


@njit(**KERNEL)
def _dead(actors, batch, advantages, share, clip, vf_coef, w, back, g, k, losses):  # type: ignore[no-untyped-def]
    """All steps of the listed actors in which they are dead, computed as one."""
    k.x[0, :] = _ZERO
    k.h[0, :] = _ZERO
    _forward(0, 1, w, k)
    value, slopes = k.out[0, k.n_actions], 0.0
    for t in range(batch.rewards.shape[0]):
        for r in actors:
            if not batch.alive[t, r]:
                loss, slope = _value_gradient(
                    value, batch.values[t, r], batch.targets[t, r], np.float32(np.inf), False, clip
                )
                slopes += slope
                losses[0] -= share * advantages[t, r]  # the only action's ratio is 1
                losses[1] += share * loss
    k.d_out[0, :] = _ZERO
    k.d_out[0, k.n_actions] = np.float32(vf_coef * share * slopes)
    _outputs_back(0, 1, back, g, k)
    _step_back(0, 1, -1, back, g, k)


@njit(**KERNEL)
def gradient(  # type: ignore[no-untyped-def]
    row, start, length, actors, batch, advantages, clip, ent_coef, vf_coef, w, back, g, k, losses
):
    """Add to g the gradient of the mean loss over all steps of the listed actors; losses [3] as in `_loss`.

    row, start, length: the actors' lives, longest first. advantages [T, R]: standardised.
    """
    share = np.float32(1.0 / (batch.rewards.shape[0] * actors.size))
    _dead(actors, batch, advantages, share, clip, vf_coef, w, back, g, k, losses)
    for first in range(0, row.size, GROUP):
        m, o, steps = min(GROUP, row.size - first), 0, length[first]
        for s in range(steps):
            while length[first + m - 1] <= s:
                m -= 1
            k.running[s] = m
            for i in range(m):
                t, r = start[first + i] + s, row[first + i]
                copy_row(k.x[o + i], batch.obs[t, r])
                if s > 0:
                    copy_row(k.h[o + i], k.h_next[i])
                elif t == 0:
                    copy_row(k.h[i], batch.h[r])
                else:
                    copy_row(k.h[i], back.zero[: k.h.shape[1]])
            _forward(o, m, w, k)
            for i in range(m):
                t, r = start[first + i] + s, row[first + i]
                _loss(i, t, r, batch, advantages, share, clip, ent_coef, vf_coef, k, losses)
            _outputs_back(o, m, back, g, k)
            o += m
        for s in range(steps - 1, -1, -1):
            o -= k.running[s]
            _step_back(o, k.running[s], o - k.running[s - 1] if s > 0 else -1, back, g, k)


@njit(**KERNEL)
def _act(t, obs, keys, n_agents, h, batch, w, k):  # type: ignore[no-untyped-def]
    """Row t of actions, log-probabilities and values, and the next hidden states h [R, H]."""
    k.x[0, :] = _ZERO
    k.h[0, :] = _ZERO
    _forward(0, 1, w, k)
    dead_value, n_actions, r = k.out[0, k.n_actions], k.n_actions, 0
    living = k.running  # [GROUP] actors of one block
    while r < h.shape[0]:
        m = 0
        while r < h.shape[0] and m < GROUP:
            if batch.alive[t, r]:
                living[m] = r
                copy_row(k.x[m], obs[r])
                copy_row(k.h[m], h[r])
                m += 1
            else:
                batch.actions[t, r] = 0
                batch.log_probs[t, r] = _ZERO
                batch.values[t, r] = dead_value
            r += 1
        _forward(0, m, w, k)
        for i in range(m):
            actor, out, pi = living[i], k.out[i], k.d_out[i]
            batch.values[t, actor] = out[n_actions]
            softmax(batch.avail[t, actor], out, pi)
            b, agent = actor // n_agents, actor % n_agents
            action = pick(pi[:n_actions], uniform(keys[b], t, n_agents, agent))
            batch.actions[t, actor] = action
            batch.log_probs[t, actor] = out[action]
            copy_row(h[actor], k.h_next[i])


def lives(batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Actor, first step and length of each life, longest first: steps in which an agent lives in one battle."""
    alive, begun = batch.alive[:-1].T, batch.begun[:-1].T  # [R, T]
    first = np.zeros_like(alive)
    first[:, 0] = True
    before = np.zeros_like(alive)
    before[:, 1:] = alive[:, :-1]
    start = alive & (first | begun | ~before)
    edges = np.append(np.flatnonzero(first | start | ~alive), alive.size)
    found = np.flatnonzero(start)
    length = edges[np.searchsorted(edges, found) + 1] - found
    order = np.argsort(-length, kind="stable")
    found = found[order]
    return found // alive.shape[1], found % alive.shape[1], length[order]


class SharedIppo:
    """A learner and its running battles."""

    def __init__(self, map_name: str, settings: Settings, seed: int = 0, updates: int = 1_000_000) -> None:
        """`updates`: over so many iterations the learning rate falls to zero, if the settings say so."""
        self.settings, self.seed, self.updates = settings, seed, updates
        self.env = BattleSim(map_name, settings.num_envs)
        spec, steps, hidden = self.env.spec, settings.num_steps, settings.gru_hidden_dim
        actors = settings.num_envs * spec.n_agents
        sizes = shapes(spec.obs_size, hidden, spec.n_actions)
        count = sum(int(np.prod(size)) for size in sizes)
        self.flat, self.slope, self.moments = (
            np.zeros(count, np.float32),
            np.zeros(count, np.float32),
            np.zeros((2, count), np.float32),
        )
        self.w, self.g = views(self.flat, sizes), views(self.slope, sizes)
        initialize(self.w, spec.n_actions, torch_stream(seed, "shared"))
        self.back, self.work = make_back(self.w), make_work(spec.obs_size, hidden, spec.n_actions, steps)
        self.h = np.zeros((actors, hidden), np.float32)
        grid = (steps + 1, actors)
        self.batch = Batch(
            obs=np.zeros((*grid, spec.obs_size), np.float32),
            avail=np.zeros((*grid, spec.n_actions), np.bool_),
            actions=np.zeros(grid, np.int64),
            log_probs=np.zeros(grid, np.float32),
            values=np.zeros(grid, np.float32),
            alive=np.zeros(grid, np.bool_),
            begun=np.ones(grid, np.bool_),
            rewards=np.zeros((steps, actors), np.float32),
            h=np.zeros_like(self.h),
            advantages=np.zeros((steps, actors), np.float32),
            targets=np.zeros((steps, actors), np.float32),
        )
        self.iteration = self.started = self.steps_of_adam = 0
        self._everyone = np.arange(settings.num_envs)
        self._restart(self._everyone)

    def iterate(self) -> float:
        """Play on, then learn from it; the share of battles won among those that ended, nan if none did."""
        won = self._play()
        batch, settings = self.batch, self.settings
        raw, targets = buffer_gae(
            torch.from_numpy(batch.rewards),
            torch.from_numpy(batch.values),
            torch.from_numpy(~batch.begun),
            settings.gamma,
            settings.gae_lambda,
        )
        batch.advantages[:], batch.targets[:] = raw.numpy(), targets.numpy()
        found = lives(batch)
        shuffled = stream(self.seed, "minibatches", self.iteration)
        for _ in range(settings.update_epochs):
            order = shuffled.permutation(batch.rewards.shape[1])
            for actors in np.split(order, settings.num_minibatches):
                self.learn(found, actors)
        self.iteration += 1
        return float(np.mean(won)) if won else float("nan")

    def learn(self, found: tuple[NDArray[np.int64], ...], actors: NDArray[np.int64]) -> NDArray[np.float64]:
        """One step of Adam on the listed actors; the losses."""
        losses = self.differentiate(found, actors)
        settings, slope = self.settings, self.slope
        norm = float(np.linalg.norm(slope))
        if norm > settings.max_grad_norm:
            slope *= np.float32(settings.max_grad_norm / norm)
        lr = settings.lr * (1.0 - self.iteration / self.updates if settings.anneal_lr else 1.0)
        self.steps_of_adam += 1
        first, second = self.moments
        first += np.float32(0.1) * (slope - first)
        second += np.float32(0.001) * (slope * slope - second)
        share = [1.0 - beta**self.steps_of_adam for beta in (0.9, 0.999)]
        deviation = np.sqrt(second / np.float32(share[1])) + np.float32(1e-5)
        self.flat -= np.float32(lr / share[0]) * first / deviation
        return losses

    def differentiate(
        self, found: tuple[NDArray[np.int64], ...], actors: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The gradient of the loss over the listed actors, into `slope`; losses [policy, value, entropy]."""
        batch, settings = self.batch, self.settings
        advantages = batch.advantages[:, actors]
        standard = (batch.advantages - advantages.mean()) / (advantages.std() + np.float32(1e-8))
        mine = np.isin(found[0], actors)
        losses = np.zeros(3)
        self.slope[:] = 0.0
        self._transpose()
        gradient(
            *(part[mine] for part in found),
            actors,
            batch,
            standard,
            np.float32(settings.clip_eps),
            np.float32(settings.ent_coef),
            np.float32(settings.vf_coef),
            *(self.w, self.back, self.g, self.work, losses),
        )
        unconnected(self.g.w3, self.work.n_actions)
        return losses

    def _play(self) -> list[bool]:
        """Fill the batch; whether each battle that ended was won."""
        env, batch, settings = self.env, self.batch, self.settings
        n_agents, won, steps = env.spec.n_agents, [], settings.num_steps
        keys = battle_keys(self.seed, "play", self.iteration * settings.num_envs, settings.num_envs)
        batch.h[:] = self.h
        batch.begun[0] = batch.begun[steps]
        for t in range(steps + 1):
            obs = env.obs.reshape(-1, env.spec.obs_size)
            batch.obs[t], batch.alive[t] = obs, env.alive.ravel()
            batch.avail[t] = env.avail_actions.reshape(-1, env.spec.n_actions)
            h = self.h if t < steps else self.h.copy()
            _act(t, obs, keys, n_agents, h, batch, self.w, self.work)
            if t == steps:
                break
            step = env.step(batch.actions[t].reshape(-1, n_agents), self._everyone)
            batch.rewards[t] = np.repeat(step.reward * REWARD_SCALE, n_agents)
            over = step.terminated | step.truncated
            batch.begun[t + 1] = np.repeat(over, n_agents)
            won += step.won[over].tolist()
            self._restart(np.flatnonzero(over))
        return won

    def _restart(self, battles: NDArray[np.int64]) -> None:
        """Start the next battles in these places."""
        if battles.size:
            self.env.reset_battles(battle_keys(self.seed, "battles", self.started, battles.size), battles)
            self.started += battles.size
            self.h.reshape(self.settings.num_envs, -1, self.h.shape[1])[battles] = 0.0

    def _transpose(self) -> None:
        for name in ("wx", "wh", "w2", "w3"):
            getattr(self.back, name)[:] = getattr(self.w, name).T


class Player:
    """Whole iterations, measured."""

    def __init__(self, map_name: str, checkout: Path) -> None:
        self.learner = SharedIppo(map_name, Settings.read(checkout))
        self.learner.iterate()  # compiles

    def measure(self) -> dict[str, float]:
        """Env steps, CPU and wall seconds of UPDATES iterations."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(UPDATES):
            self.learner.iterate()
        spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        settings = self.learner.settings
        return {"env_steps": UPDATES * settings.num_envs * settings.num_steps, **spent}
