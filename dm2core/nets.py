"""Networks of N separate agents, the agent axis stacked in front of every parameter.

One batched product serves all agents; agent i's outputs touch only slice i of each parameter, so no gradient
crosses agents. Architecture and initialisation: the released code's on-policy modules (mlp.py, rnn.py, act.py,
gail_learner.py): LayerNorm, two Linear-ReLU-LayerNorm blocks, GRU, LayerNorm, head.
Shapes: N agents, R rows, F inputs, H hidden, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

SQRT2 = 2.0**0.5


class StackedLinear(nn.Module):
    """y = x W^T + b per agent; x [N, R, in] -> [N, R, out]."""

    def __init__(self, n_agents: int, size_in: int, size_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_agents, size_out, size_in))
        self.bias = nn.Parameter(torch.zeros(n_agents, size_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))


class StackedLayerNorm(nn.Module):
    """Layer normalisation over the last axis with an affine map per agent."""

    def __init__(self, n_agents: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_agents, size))
        self.bias = nn.Parameter(torch.zeros(n_agents, size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias.unsqueeze(1), fn.layer_norm(x, x.shape[-1:]), self.weight.unsqueeze(1))


class StackedGRUCell(nn.Module):
    """One GRU step per agent (gates in torch's order: reset, update, new)."""

    def __init__(self, n_agents: int, size: int) -> None:
        super().__init__()
        self.input = StackedLinear(n_agents, size, 3 * size)
        self.hidden = StackedLinear(n_agents, size, 3 * size)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        x_r, x_z, x_n = self.input(x).chunk(3, dim=-1)
        h_r, h_z, h_n = self.hidden(h).chunk(3, dim=-1)
        new = torch.tanh(torch.addcmul(x_n, torch.sigmoid(x_r + h_r), h_n))
        return torch.lerp(new, h, torch.sigmoid(x_z + h_z))


class RecurrentBody(nn.Module):
    """Features of one step: x [N, R, F], hidden state h [N, R, H] -> features and next hidden state [N, R, H]."""

    def __init__(self, n_agents: int, size_in: int, size: int) -> None:
        super().__init__()
        self.norm_in = StackedLayerNorm(n_agents, size_in)
        self.fc1 = StackedLinear(n_agents, size_in, size)
        self.norm1 = StackedLayerNorm(n_agents, size)
        self.fc2 = StackedLinear(n_agents, size, size)
        self.norm2 = StackedLayerNorm(n_agents, size)
        self.gru = StackedGRUCell(n_agents, size)
        self.norm_out = StackedLayerNorm(n_agents, size)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm1(torch.relu(self.fc1(self.norm_in(x))))
        x = self.norm2(torch.relu(self.fc2(x)))
        h_next = self.gru(x, h)
        return self.norm_out(h_next), h_next

    def init(self, generator: torch.Generator) -> None:
        for linear, gain in (
            (self.fc1, SQRT2),
            (self.fc2, SQRT2),
            (self.gru.input, 1.0),
            (self.gru.hidden, 1.0),
        ):
            _orthogonal(linear, gain, generator)


class Policy(nn.Module):
    """A network that plays: x [N, R, F], h [N, R, H] -> scores [N, R, A] before masking, and the next h.

    Greedy play takes the available action of highest score; an actor's scores are logits and can be sampled from.
    """

    head: StackedLinear

    @property
    def size_in(self) -> int:
        """F."""
        raise NotImplementedError

    @property
    def n_agents(self) -> int:
        return self.head.weight.shape[0]

    @property
    def hidden_size(self) -> int:
        return self.head.weight.shape[-1]

    @property
    def n_actions(self) -> int:
        return self.head.weight.shape[1]

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class Actor(Policy):
    """Policy logits [N, R, A] (before masking) and the next hidden state."""

    def __init__(self, n_agents: int, size_in: int, n_actions: int, size: int) -> None:
        super().__init__()
        self.body = RecurrentBody(n_agents, size_in, size)
        self.head = StackedLinear(n_agents, size, n_actions)

    @property
    def size_in(self) -> int:
        return self.body.fc1.weight.shape[2]

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        features, h_next = self.body(x, h)
        return self.head(features), h_next

    def init(self, generator: torch.Generator) -> Actor:
        self.body.init(generator)
        _orthogonal(self.head, 0.01, generator)
        return self


class Critic(nn.Module):
    """Value [N, R] of an agent's own local input, and the next hidden state."""

    def __init__(self, n_agents: int, size_in: int, size: int) -> None:
        super().__init__()
        self.body = RecurrentBody(n_agents, size_in, size)
        self.head = StackedLinear(n_agents, size, 1)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        features, h_next = self.body(x, h)
        return self.head(features).squeeze(-1), h_next

    def init(self, generator: torch.Generator) -> Critic:
        self.body.init(generator)
        _orthogonal(self.head, 1.0, generator)
        return self


class DiscriminatorNet(nn.Module):
    """Logit f(o) [N, R], high for expert observations; two tanh layers (gail_learner.py line 25)."""

    def __init__(self, n_agents: int, obs_size: int, size: int) -> None:
        super().__init__()
        self.fc1 = StackedLinear(n_agents, obs_size, size)
        self.fc2 = StackedLinear(n_agents, size, size)
        self.head = StackedLinear(n_agents, size, 1)

    def forward(self, obs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc2(torch.tanh(self.fc1(obs))))).squeeze(-1)

    def input_gradient(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """f(o) [N, R] and its gradient with respect to o [N, R, O], both differentiable in the parameters.

        Written out, d f/d o = W1^T (1-h1^2) W2^T (1-h2^2) w3, it needs one backward pass instead of two.
        """
        h1 = torch.tanh(self.fc1(obs))
        h2 = torch.tanh(self.fc2(h1))
        g2 = self.head.weight * (1 - h2.square())
        g1 = torch.bmm(g2, self.fc2.weight) * (1 - h1.square())
        return self.head(h2).squeeze(-1), torch.bmm(g1, self.fc1.weight)

    def init(self, generator: torch.Generator) -> DiscriminatorNet:
        """torch's default for Linear: uniform in +-1/sqrt(inputs), weights and biases."""
        for linear in (self.fc1, self.fc2, self.head):
            bound = linear.weight.shape[-1] ** -0.5
            with torch.no_grad():
                linear.weight.uniform_(-bound, bound, generator=generator)
                linear.bias.uniform_(-bound, bound, generator=generator)
        return self


def load_actor(tensors: Mapping[str, Tensor]) -> Actor:
    """Actor from its state dict; every size is read off the tensors."""
    n_agents, size, size_in = tensors["body.fc1.weight"].shape
    actor = Actor(n_agents, size_in, tensors["head.weight"].shape[1], size).to(tensors["head.weight"].dtype)
    actor.load_state_dict(dict(tensors))
    return actor


def mix_agents(teams: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Team of strangers: agent i is agent i of teams[i]."""
    return {key: torch.stack([team[key][i] for i, team in enumerate(teams)]) for key in teams[0]}


def net_input(obs: Tensor, last_action: Tensor) -> Tensor:
    """Observation, one-hot last action and one-hot agent id: [N, R, O], [N, R, A] -> [N, R, F = O + A + N]."""
    n_agents, rows, _ = obs.shape
    agent_id = torch.eye(n_agents, dtype=obs.dtype).unsqueeze(1).expand(-1, rows, -1)
    return torch.cat([obs, last_action, agent_id], dim=-1)


def _orthogonal(linear: StackedLinear, gain: float, generator: torch.Generator) -> None:
    for weight in linear.weight.data:
        nn.init.orthogonal_(weight, gain, generator=generator)
