"""Replay recorded updates of the released code and say how far ours is (`dm2 check-update`).

A recording (tests/data/golden_authors/README.md) holds a batch of episodes, initial weights, random draws and what
the released learner and discriminator made of them; sizes and what was recorded are read off the file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dm2core import discriminator as disc
from dm2core import pairs as pairing
from dm2core.adam import Adam
from dm2core.batch import Batch
from dm2core.config import PPO, Switches
from dm2core.errors import EXIT_DATA, NO_NPZ
from dm2core.gradients import value_loss
from dm2core.nets import Actor, Critic, DiscriminatorNet
from dm2core.policy import masked_log_softmax
from dm2core.ppo import BACKENDS, Learners, make_batch, make_learners, minibatch_step
from dm2core.reward import imitation_reward, mix
from dm2core.rollout import Rollout
from dm2core.rows import Rows, training_rows

# What the recording was made with (its README); the value head is trained, as the released code does on a CPU.
CFG = PPO(
    gamma=0.99,
    gae_lambda=0.95,
    lr=5e-4,
    adam_eps=1e-5,
    entropy_coef=0.01,
    value_coef=0.5,
    huber_delta=10.0,
    max_grad_norm=10.0,
    hidden_size=64,
    minibatches=1,
)
AUTHORS = Switches(
    absorbing_padding=True,
    terminal_row=True,
    t0_last_action_leak=True,
    drop_last_episode=True,
    freeze_value_head=False,
    value_norm="none",
    value_clip="raw",
    huber_one_sided=True,
    imitation_reward="logit",
)
CLIP_EPS, COEF, GP_COEF, DISC_LR = 0.05, 0.3, 10.0, 1e-3
NAMES = {
    "base.feature_norm": "body.norm_in",
    "base.mlp.fc1.0": "body.fc1",
    "base.mlp.fc1.2": "body.norm1",
    "base.mlp.fc2.0.0": "body.fc2",
    "base.mlp.fc2.0.2": "body.norm2",
    "rnn.rnn.weight_ih_l0": "body.gru.input.weight",
    "rnn.rnn.weight_hh_l0": "body.gru.hidden.weight",
    "rnn.rnn.bias_ih_l0": "body.gru.input.bias",
    "rnn.rnn.bias_hh_l0": "body.gru.hidden.bias",
    "rnn.norm": "body.norm_out",
    "act.action_out.linear": "head",
    "v_out": "head",
    "0": "fc1",
    "2": "fc2",
    "4": "head",
}
Arrays = Mapping[str, NDArray[np.generic]]


@dataclass
class Report:
    """Largest relative error per quantity, and the largest tolerance used there."""

    tolerance: float
    errors: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def compare(
        self, name: str, ours: Tensor, recorded: NDArray[np.generic], tolerance: float | None = None
    ) -> None:
        """Largest absolute difference over the recorded array's largest magnitude."""
        expected = torch.as_tensor(np.asarray(recorded, dtype=np.float64))
        got = ours.detach().double().reshape(-1)
        expected = expected.reshape(-1)
        if got.shape != expected.shape:
            self.failures.append(f"{name}: {len(expected)} numbers recorded, {len(got)} recomputed")
            return
        if not len(got):
            return
        error = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
        self.errors[name] = max(self.errors.get(name, 0.0), error)
        if not error <= max(tolerance or 0.0, self.tolerance):
            self.failures.append(f"{name} {error:.1e}")


@dataclass(frozen=True)
class Recording:
    """A file's arrays with its sizes; network inputs are cast to `dtype`."""

    arrays: Arrays
    dtype: torch.dtype
    compute: Literal["torch", "fused"]

    def __getitem__(self, key: str) -> NDArray[np.generic]:
        return self.arrays[key]

    def grid(self, key: str) -> Tensor:
        """(E, L+1, ...) of the file as time-major [L+1, E, ...]."""
        return torch.as_tensor(self.arrays[key]).transpose(0, 1).contiguous()

    @property
    def n_agents(self) -> int:
        return int(self.arrays["batch/obs"].shape[2])

    def rollout(self) -> Rollout:
        """The recorded batch as our collector would have returned it."""
        dtype = self.dtype
        zeros = torch.zeros(self.grid("batch/actions").shape, dtype=dtype)
        lengths = torch.as_tensor(self["batch/lengths"]).long()
        return Rollout(
            obs=self.grid("batch/obs").float(),
            avail_actions=self.grid("batch/avail_actions") > 0,
            actions=self.grid("batch/actions").long(),
            alive=self.grid("batch/alive") > 0,
            rewards=self.grid("batch/reward")[:-1].to(dtype),
            log_probs=zeros,
            values=zeros,
            h_actor=self.grid("batch/rnn_states_actor").to(dtype),
            h_critic=self.grid("batch/rnn_states_critic").to(dtype),
            lengths=lengths,
            won=torch.zeros_like(lengths, dtype=torch.bool),
            truncated=lengths == len(zeros) - 1,
        )

    def load(self, net: nn.Module, part: str) -> None:
        """Initial weights of every agent into our stacked parameters."""
        own = dict(net.named_parameters())
        for i in range(self.n_agents):
            prefix = f"agent{i}/{part}/init/"
            for key in (k for k in self.arrays if k.startswith(prefix)):
                name = our_name(key[len(prefix) :])
                if name is not None:
                    own[name].data[i] = torch.as_tensor(self.arrays[key]).to(self.dtype)


def our_name(theirs: str) -> str | None:
    """Our parameter's name for one of the released code's; None for layers it never uses."""
    if theirs in NAMES:
        return NAMES[theirs]
    layer, _, leaf = theirs.rpartition(".")
    return f"{NAMES[layer]}.{leaf}" if layer in NAMES and leaf in ("weight", "bias") else None


def check_file(path: Path, dtype: torch.dtype, compute: Literal["torch", "fused"] = "torch") -> Report:
    """Replay everything recorded in one file in one precision and one form of the hot loops."""
    with np.load(path, allow_pickle=False) as data:
        rec = Recording({key: data[key] for key in data.files}, dtype, compute)
    report = Report(1e-9 if dtype == torch.float64 else 2e-5)
    _check_value_loss_table(rec, report)
    _check_rollout(rec, report)
    imitation = _check_discriminators(rec, report)
    rewards = rec.rollout().rewards
    task = rewards.unsqueeze(-1).expand(-1, -1, rec.n_agents)
    frozen = AUTHORS.model_copy(update={"freeze_value_head": True})
    for tag, reward, switches in (
        ("env", task, AUTHORS),
        ("mixed", mix(rewards, imitation, COEF), AUTHORS),
        ("env_frozenhead", task, frozen),
        ("env_negrew", -3 * task, AUTHORS),
    ):
        if f"{tag}/agent0/scalars" in rec.arrays:
            _check_update(rec, report, tag, reward, switches)
    return report


def _check_value_loss_table(rec: Recording, report: Report) -> None:
    if "unit/value_loss" not in rec.arrays:
        return
    table = torch.as_tensor(rec["unit/value_loss"]).double()
    v = table[:, 0].clone().requires_grad_(True)
    losses = value_loss(v, table[:, 1], table[:, 2], CFG, AUTHORS, CLIP_EPS)
    (gradient,) = torch.autograd.grad(losses.sum(), v)
    report.compare("value loss table", losses, table[:, 3].numpy())
    report.compare("value loss table", gradient, table[:, 4].numpy())


def _nets(rec: Recording) -> tuple[Actor, Critic]:
    obs_size, n_actions = rec["batch/obs"].shape[-1], rec["batch/avail_actions"].shape[-1]
    size, size_in = rec["batch/rnn_states_actor"].shape[-1], obs_size + n_actions + rec.n_agents
    actor = Actor(rec.n_agents, size_in, n_actions, size).to(rec.dtype)
    critic = Critic(rec.n_agents, size_in, size).to(rec.dtype)
    rec.load(actor, "actor")
    rec.load(critic, "critic")
    return actor, critic


def _check_rollout(rec: Recording, report: Report) -> None:
    """Networks as played: without the leak, next hidden states included."""
    actor, critic = _nets(rec)
    rollout = rec.rollout()
    rows = training_rows(rollout, AUTHORS.model_copy(update={"t0_last_action_leak": False}))
    with torch.no_grad():
        logits, h_actor = actor(rows.x, rows.h_actor)
        values, h_critic = critic(rows.x, rows.h_critic)
    log_pi = masked_log_softmax(logits, rows.avail_actions)
    log_probs = log_pi.gather(-1, rows.actions.unsqueeze(-1)).squeeze(-1)
    if rec.compute == "fused":
        log_probs, values = BACKENDS["fused"].score(actor, critic, rows)
    slots = torch.arange(len(rollout.obs)).unsqueeze(-1)
    filled = slots <= rollout.lengths
    for name, ours, key in (
        ("rollout values", values, "values"),
        ("rollout log-probs", log_probs, "log_probs"),
    ):
        report.compare(
            name, ours[:, rows.index].permute(1, 2, 0)[filled], rec.grid(f"rollout/{key}")[filled].numpy()
        )
    last = slots == rollout.lengths
    for part, ours in (("actor", h_actor), ("critic", h_critic)):
        grid = ours[:, rows.index].permute(1, 2, 0, 3)
        key = f"rollout/last_next_rnn_{part}"
        if key in rec.arrays:
            episodes = grid.transpose(0, 1)[last.T]
            report.compare("rollout hidden", episodes, rec[key])
        stored = rec.grid(f"batch/rnn_states_{part}")[1:]
        inner = (slots < rollout.lengths)[:-1]
        report.compare("rollout hidden", grid[:-1][inner], stored[inner].numpy())


def _check_discriminators(rec: Recording, report: Report) -> Tensor:
    """Recorded discriminator steps; our imitation reward [L, B, N] after the last."""
    rollout = rec.rollout()
    n_agents, slots = rec.n_agents, len(rollout.obs)
    net = DiscriminatorNet(n_agents, rollout.obs.shape[-1], rec["agent0/disc/init/0.weight"].shape[0]).to(
        rec.dtype
    )
    rec.load(net, "disc")
    optimizer = Adam(net.parameters(), lr=DISC_LR)
    expert = _expert_episodes(rec)
    policy = pairing.policy_episodes(rollout, rec.dtype, terminal_row=True)
    steps = sum(f"agent0/disc/step{k}/alpha" in rec.arrays for k in range(1, 100))
    for k in range(1, steps + 1):
        pairs = _recorded_pairs(rec, expert, policy, k, slots)
        sigmoid = _check_logits(rec, report, net, expert, policy, k, slots)
        metrics = disc.step(net, optimizer, pairs, GP_COEF, rec.compute)
        columns = torch.stack(
            [
                metrics["loss"],
                metrics["bce_expert"],
                metrics["bce_policy"],
                GP_COEF * metrics["gradient_penalty"],
                metrics["gradient_penalty"],
                *sigmoid,
            ],
            dim=1,
        )
        for i in range(n_agents):
            scalars = (
                rec[f"agent{i}/disc/scalars"] if rec.dtype == torch.float64 else _f32_disc_scalars(rec, i)
            )
            report.compare("disc losses", columns[i], scalars[k - 1])
            _compare_tensors(
                report, "disc gradients", rec, net, i, f"agent{i}/disc/step{k}/grad", gradient=True
            )
            _compare_tensors(report, "disc weights", rec, net, i, f"agent{i}/disc/after_step{k}")
            _compare_fingerprint(
                report, "disc weights", rec, net, i, "disc", f"agent{i}/disc/fingerprint/after_step{k}"
            )
    logits = disc.policy_logits(net, rollout, AUTHORS)
    reward = imitation_reward(logits, AUTHORS.imitation_reward, disc.judged(rollout, AUTHORS))
    for i in range(n_agents):
        report.compare(
            "predicted reward", reward[..., i].T, rec[f"agent{i}/disc/pred_reward"][:, : slots - 1]
        )
    return reward


def _f32_disc_scalars(rec: Recording, agent: int) -> NDArray[np.generic]:
    key = f"mixed_f32/agent{agent}/disc_scalars"
    return rec[key] if key in rec.arrays else rec[f"agent{agent}/disc/scalars"]


def _expert_episodes(rec: Recording) -> pairing.Episodes:
    obs = torch.as_tensor(rec["expert/obs"])  # (K, L+1, N, O)
    episodes, slots, n_agents, size = obs.shape
    flat = obs.permute(2, 0, 1, 3).reshape(-1, size).to(rec.dtype)
    start = np.arange(n_agents * episodes).reshape(n_agents, episodes) * slots
    length = np.broadcast_to(rec["expert/lengths"].astype(np.int64) + 1, (n_agents, episodes))
    return pairing.Episodes(torch.cat([flat, flat.new_zeros(1, size)]), start, length)


def _recorded_draw(rec: Recording, agent: int, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Tensor]:
    prefix = f"agent{agent}/disc/step{k}"
    e, p = (rec[f"{prefix}/{side}_eps"].astype(np.int64) for side in ("expert", "agent"))
    return e, p, torch.as_tensor(rec[f"{prefix}/alpha"]).to(rec.dtype).reshape(len(e), -1)


def _recorded_pairs(
    rec: Recording, expert: pairing.Episodes, policy: pairing.Episodes, k: int, slots: int
) -> pairing.Pairs:
    draws = [_recorded_draw(rec, i, k) for i in range(rec.n_agents)]
    e, p = (np.stack([draw[side] for draw in draws]) for side in (0, 1))
    alphas = []
    for i, (_, _, alpha) in enumerate(draws):
        pair, t = pairing.pair_slots(expert, policy, e, p, i)
        alphas.append(alpha[torch.from_numpy(pair), torch.from_numpy(t)])
    width = max(map(len, alphas)) + 1
    stacked = torch.stack([torch.nn.functional.pad(a, (0, width - len(a))) for a in alphas])
    return pairing.make_pairs(expert, policy, e, p, stacked, e.shape[1] * slots, AUTHORS)


@torch.no_grad()
def _check_logits(
    rec: Recording,
    report: Report,
    net: DiscriminatorNet,
    expert: pairing.Episodes,
    policy: pairing.Episodes,
    k: int,
    slots: int,
) -> tuple[Tensor, Tensor]:
    """Logits on every slot before step k; mean P(expert) on the policy's and the expert's side, [N] each."""
    sides: dict[str, list[Tensor]] = {"expert": [], "agent": [], "mix": []}
    for i in range(rec.n_agents):
        e, p, alpha = _recorded_draw(rec, i, k)
        t = np.arange(slots)
        x_e = expert.obs[torch.from_numpy(expert.slots(i, e[:, None], t))].flatten(0, 1)
        x_p = policy.obs[torch.from_numpy(policy.slots(i, p[:, None], t))].flatten(0, 1)
        x_m = torch.lerp(x_p, x_e, alpha.reshape(-1, 1))
        for side, x in (("expert", x_e), ("agent", x_p), ("mix", x_m)):
            f = net(x.unsqueeze(0).expand(rec.n_agents, -1, -1))[i]
            report.compare("disc logits", f, rec[f"agent{i}/disc/step{k}/logits_{side}"])
            sides[side].append(torch.sigmoid(f).mean())
    return torch.stack(sides["agent"]), torch.stack(sides["expert"])


def _check_update(rec: Recording, report: Report, tag: str, rewards: Tensor, switches: Switches) -> None:
    """All epochs of one recorded update, every agent."""
    learners = make_learners(*_nets(rec), CFG, switches, rec.compute)
    rollout = rec.rollout()
    rows = training_rows(rollout, switches)
    batch = make_batch(learners, rows, rewards, CFG, switches)
    _check_batch(rec, report, tag, rewards, rows, batch, rollout)
    epochs = len(rec[f"{tag}/agent0/scalars"])
    for epoch in range(1, epochs + 1):
        ratio = _ratios(learners, rows, batch)
        metrics = minibatch_step(learners, rows, batch, batch.trained, CFG, switches, CLIP_EPS)
        for i in range(rec.n_agents):
            _check_epoch(
                rec,
                report,
                tag,
                i,
                epoch,
                learners,
                {k: v[i] for k, v in metrics.items()},
                ratio[i],
                rows,
                batch,
            )


def _check_batch(
    rec: Recording, report: Report, tag: str, rewards: Tensor, rows: Rows, batch: Batch, rollout: Rollout
) -> None:
    limit, battles, _ = rewards.shape
    filled = torch.arange(limit).unsqueeze(-1) <= rollout.lengths

    def grid(flat: Tensor) -> Tensor:
        return flat.view(rec.n_agents, limit, battles).transpose(1, 2)  # [N, E, L] as recorded

    for i in range(rec.n_agents):
        prefix = f"{tag}/agent{i}"
        if f"{prefix}/inputs" in rec.arrays:
            report.compare("inputs", rows.x[i][rows.index].transpose(0, 1), rec[f"{prefix}/inputs"])
        if f"{prefix}/returns" not in rec.arrays:
            continue
        report.compare(
            "mixed reward" if tag == "mixed" else "reward", rewards[..., i].T, rec[f"{prefix}/rewards"]
        )
        report.compare("returns", grid(batch.value_targets)[i], rec[f"{prefix}/returns"])
        report.compare("values", grid(batch.old_values)[i], rec[f"{prefix}/value_preds"][:, :limit])
        report.compare("advantages", grid(batch.raw_advantages)[i], rec[f"{prefix}/advantages_raw"])
        report.compare("advantages", grid(batch.advantages)[i], rec[f"{prefix}/advantages"])
        log_probs = torch.as_tensor(rec[f"{prefix}/old_log_probs"])
        report.compare("old log-probs", grid(batch.old_log_probs)[i][filled.T], log_probs[filled.T].numpy())


@torch.no_grad()
def _ratios(learners: Learners, rows: Rows, batch: Batch) -> Tensor:
    """Probability ratios [N, M] of the trained slots, 1 where there is no choice."""
    log_pi = masked_log_softmax(learners.actor(rows.x, rows.h_actor)[0], rows.avail_actions)
    log_probs = log_pi.gather(-1, rows.actions.unsqueeze(-1)).squeeze(-1)
    log_probs[~rows.choice] = 0.0
    return (log_probs[:, batch.row] - batch.old_log_probs).exp()[:, batch.trained]


def _check_epoch(
    rec: Recording,
    report: Report,
    tag: str,
    agent: int,
    epoch: int,
    learners: Learners,
    metrics: Mapping[str, Tensor],
    ratio: Tensor,
    rows: Rows,
    batch: Batch,
) -> None:
    prefix = f"{tag}/agent{agent}"
    scalars = rec[f"{prefix}/scalars"][epoch - 1].astype(np.float64)
    f32_key = f"{tag}_f32/agent{agent}/scalars"
    f32 = rec[f32_key][epoch - 1].astype(np.float64) if f32_key in rec.arrays else None
    if rec.dtype == torch.float32 and f32 is not None:
        scalars = f32
    # Slots without any legal action: float64 logits of -1e10 make their recorded entropy log A, float32's make it 0.
    padded = float((rows.avail_actions[agent][batch.row[batch.trained]].sum(-1) == 0).double().mean())
    entropy = float(metrics["entropy"])
    if scalars is not f32:
        entropy += padded * float(np.log(rows.avail_actions.shape[-1]))
    ours = {
        "policy loss": (metrics["policy_loss"], 0),
        "value loss": (metrics["value_loss"], 2),
        "gradient norms": (metrics["grad_norm_actor"], 3),
        "gradient norms ": (metrics["grad_norm_critic"], 4),
        "ratios": (ratio.mean(), 5),
        "ratios ": (ratio.min(), 6),
        "ratios  ": (ratio.max(), 7),
    }
    for name, (value, column) in ours.items():
        report.compare(name.strip(), value, scalars[column : column + 1])
    report.compare("entropy", torch.tensor(entropy), scalars[1:2], tolerance=1e-6)
    outside = float(scalars[8])
    if abs(float(((ratio - 1).abs() > CLIP_EPS).double().mean()) - outside) > 1e-6:
        report.failures.append(f"share of ratios outside the clip, epoch {epoch}")
    if f"{prefix}/epoch{epoch}/imp_weights" in rec.arrays:
        limit = len(rows.inside)
        recorded = torch.as_tensor(rec[f"{prefix}/epoch{epoch}/imp_weights"]).reshape(-1, limit).T.flatten()
        report.compare("ratios", ratio, recorded.numpy())
    for part, net in (("actor", learners.actor), ("critic", learners.critic)):
        base = f"{prefix}/{part}"
        _compare_tensors(report, "gradients", rec, net, agent, f"{base}/grad_epoch{epoch}", gradient=True)
        grad_print = f"{base}/fingerprint/grad_epoch{epoch}"
        _compare_fingerprint(report, "gradients", rec, net, agent, part, grad_print, gradient=True)
        _compare_tensors(report, f"weights, epoch {epoch}", rec, net, agent, f"{base}/after_epoch{epoch}")
        weight_print = f"{base}/fingerprint/after_epoch{epoch}"
        _compare_fingerprint(report, f"weights, epoch {epoch}", rec, net, agent, part, weight_print)


def _compare_tensors(
    report: Report,
    name: str,
    rec: Recording,
    net: nn.Module,
    agent: int,
    prefix: str,
    *,
    gradient: bool = False,
) -> None:
    """All recorded tensors under a prefix, against the largest magnitude among them."""
    own = dict(net.named_parameters())
    ours, theirs = [], []
    for key in (k for k in rec.arrays if k.startswith(prefix + "/")):
        parameter = our_name(key[len(prefix) + 1 :])
        if parameter is None or (gradient and own[parameter].grad is None):
            continue
        value = own[parameter].grad if gradient else own[parameter]
        assert value is not None
        ours.append(value[agent].detach().flatten())
        theirs.append(np.asarray(rec[key], dtype=np.float64).ravel())
    if ours:
        stored_f32 = any(rec[k].dtype == np.float32 for k in rec.arrays if k.startswith(prefix + "/"))
        report.compare(name, torch.cat(ours), np.concatenate(theirs), tolerance=1e-6 if stored_f32 else None)


def _compare_fingerprint(
    report: Report,
    name: str,
    rec: Recording,
    net: nn.Module,
    agent: int,
    part: str,
    key: str,
    *,
    gradient: bool = False,
) -> None:
    """Per tensor (sum, L2 norm, sum of p cos(0, 1, ...)), each column against its largest magnitude."""
    if key not in rec.arrays:
        return
    own = dict(net.named_parameters())
    if part == "disc":
        names = [k.rpartition("/")[2] for k in rec.arrays if k.startswith(f"agent{agent}/disc/init/")]
    else:
        names = [str(n) for n in rec[f"agent{agent}/{part}/fingerprint/names"]]
    mapped = [our_name(n) for n in names]
    prints = []
    for parameter in mapped:
        assert parameter is not None
        tensor = own[parameter]
        if not tensor.requires_grad:  # a frozen head is not among the recorded tensors
            continue
        value = tensor.grad if gradient else tensor
        assert value is not None
        flat = value[agent].detach().double().flatten()
        cosine = torch.arange(len(flat), dtype=torch.float64).cos()
        prints.append(torch.stack([flat.sum(), flat.norm(), (flat * cosine).sum()]))
    ours, recorded = torch.stack(prints), rec[key]
    for column in range(3):
        report.compare(name, ours[:, column], recorded[:, column])


WAYS: tuple[tuple[torch.dtype, Literal["torch", "fused"]], ...] = (
    (torch.float64, "torch"),
    (torch.float32, "torch"),
    (torch.float32, "fused"),
)


def main(paths: Sequence[str]) -> int:
    """Check files in all ways, print a block each; 0 all within tolerance, 1 not, 65 unreadable."""
    worst = 0
    for path in map(Path, paths):
        for dtype, compute in WAYS:
            try:
                report = check_file(path, dtype, compute)
            except NO_NPZ as error:
                print(f"{path}: not a recorded update ({' '.join(str(error).split())})", file=sys.stderr)
                return EXIT_DATA
            verdict = "FAILED" if report.failures else "ok"
            print(f"{path} {str(dtype)[6:]} {compute}, tolerance {report.tolerance:g}: {verdict}")
            for name, size in report.errors.items():
                print(f"  {name:<18} {size:.1e}")
            for failure in report.failures[:10]:
                print(f"  beyond tolerance: {failure}")
            worst = max(worst, int(bool(report.failures)))
    return worst
