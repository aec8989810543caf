"""QMIX's mixing network: team value from agents' values, monotone in each (Rashid et al. 2018, Sec. 4; PyMARL qmix.py).

hidden = elu(q |W1(s)| + b1(s)),   Q_tot = hidden |w2(s)| + V(s)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn


class Mixer(nn.Module):
    """q [R, N], state [R, S] -> Q_tot [R]. Weights and biases come from networks of the state, hence hyper-networks."""

    def __init__(self, n_agents: int, state_size: int, embed: int, hyper: int) -> None:
        super().__init__()
        self.n_agents, self.embed = n_agents, embed
        self.w1 = _two_layers(state_size, hyper, embed * n_agents)
        self.w2 = _two_layers(state_size, hyper, embed)
        self.b1 = nn.Linear(state_size, embed)
        self.value = _two_layers(state_size, embed, 1)

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        w1 = self.w1(state).abs().view(-1, self.n_agents, self.embed)
        hidden = fn.elu(torch.bmm(q.unsqueeze(1), w1).squeeze(1) + self.b1(state))
        return (hidden * self.w2(state).abs()).sum(-1) + self.value(state).squeeze(-1)

    def init(self, generator: torch.Generator) -> Mixer:
        """torch's default for Linear."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                with torch.no_grad():
                    module.weight.uniform_(-bound, bound, generator=generator)
                    module.bias.uniform_(-bound, bound, generator=generator)
        return self


def _two_layers(size_in: int, hidden: int, size_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size_in, hidden), nn.ReLU(), nn.Linear(hidden, size_out))
