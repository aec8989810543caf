"""QMIX's agent: linear, ReLU, GRU, linear; one set of weights for all agents (PyMARL rnn_agent.py).

Shapes: N agents, R rows, T time, F inputs, H hidden, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from dm2core.nets import Policy, StackedLinear


class QNet(Policy):
    """Action values. The paper's Fig. 8 variant has one more layer before the GRU."""

    agents: Tensor

    def __init__(self, n_agents: int, size_in: int, n_actions: int, size: int, *, extra_layer: bool) -> None:
        super().__init__()
        self.register_buffer("agents", torch.tensor(n_agents))
        self.fc1 = StackedLinear(1, size_in, size)
        self.fc2 = StackedLinear(1, size, size) if extra_layer else None
        self.gru = nn.GRU(size, size)
        self.head = StackedLinear(1, size, n_actions)

    @property
    def size_in(self) -> int:
        return self.fc1.weight.shape[2]

    @property
    def n_agents(self) -> int:
        return int(self.agents)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """One step: x [N, R, F], h [N, R, H] -> values [N, R, A] and the next h."""
        n_agents, rows, _ = x.shape
        y = self._below(x.reshape(n_agents * rows, -1))
        y, h_next = self.gru(y.unsqueeze(0), h.reshape(1, n_agents * rows, -1))
        return self.head(y).view(n_agents, rows, -1), h_next.view(n_agents, rows, -1)

    def unroll(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Whole episodes from a zero hidden state: x [T, R, F], of which row r has lengths[r] -> values [T, R, A].

        What lies behind a row's end costs nothing; its values are zero. The steps are those of nn.GRU on a packed
        sequence, to the bit. That takes each step as a slice, whose gradient is as large as all of them together.
        """
        longest_first = lengths.argsort(descending=True)
        here = torch.arange(int(lengths.max())).unsqueeze(-1) < lengths[longest_first]
        t, place = here.nonzero(as_tuple=True)
        row = longest_first[place]
        weight, weight_h, bias, bias_h = self.gru.all_weights[0]
        gates = fn.linear(self._below(x[t, row]), weight, bias)
        h, hidden = gates.new_zeros(x.shape[1], self.hidden_size), []
        for step in gates.split(here.sum(-1).tolist()):
            h = h[: len(step)] if len(step) < len(h) else h
            h = _gru(step, fn.linear(h, weight_h, bias_h), h)
            hidden.append(h)
        values = self.head(torch.cat(hidden).unsqueeze(0)).squeeze(0)
        return values.new_zeros(*x.shape[:2], self.n_actions).index_put((t, row), values)

    def _below(self, x: Tensor) -> Tensor:
        y = torch.relu(self.fc1(x.unsqueeze(0)))
        if self.fc2 is not None:
            y = torch.relu(self.fc2(y))
        return y.squeeze(0)

    def init(self, generator: torch.Generator) -> QNet:
        """torch's defaults: uniform in +-1/sqrt(inputs), the GRU in +-1/sqrt(H)."""
        for name, p in self.named_parameters():
            fan_in = self.fc1.weight.shape[2] if name.startswith("fc1") else self.hidden_size
            with torch.no_grad():
                p.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
        return self


def _gru(of_x: Tensor, of_h: Tensor, h: Tensor) -> Tensor:
    """The next hidden state [R, H] from the shares of input and hidden state in the gates [R, 3H], which it uses up."""
    x_reset, x_update, x_new = of_x.unsafe_chunk(3, 1)
    h_reset, h_update, h_new = of_h.unsafe_chunk(3, 1)
    reset, update = h_reset.add_(x_reset).sigmoid_(), h_update.add_(x_update).sigmoid_()
    new = x_new.add(h_new.mul_(reset)).tanh_()
    return (h - new).mul_(update).add_(new)


def load_qnet(tensors: Mapping[str, Tensor]) -> QNet:
    """A network from its state dict; sizes are read off the tensors."""
    _, size, size_in = tensors["fc1.weight"].shape
    n_actions, n_agents = tensors["head.weight"].shape[1], int(tensors["agents"])
    net = QNet(n_agents, size_in, n_actions, size, extra_layer="fc2.weight" in tensors)
    net = net.to(tensors["head.weight"].dtype)
    net.load_state_dict(dict(tensors))
    return net
