"""A QMIX team in one battle, in torch, in any precision; its compiled twin is fused/qnet.py's."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as fn

from dm2core.nets import net_input
from dm2core.policy import choose_actions, masked_log_softmax
from dm2core.qmix.net import QNet


class TorchPlayer:
    """A team from a battle's first step to its last."""

    def __init__(self, net: QNet) -> None:
        self._net, self._dtype = net, net.head.weight.dtype
        self._h = torch.zeros(net.n_agents, 1, net.hidden_size, dtype=self._dtype)
        self._last = torch.zeros(net.n_agents, 1, net.n_actions, dtype=self._dtype)

    @torch.no_grad()
    def act(
        self,
        obs: NDArray[np.float32],
        avail_actions: NDArray[np.bool_],
        keys: NDArray[np.uint64],
        t: int,
        epsilon: float,
    ) -> NDArray[np.int64]:
        """Actions [N] from obs [N, O] and avail_actions [N, A]; epsilon: share of actions that are uniform draws.

        Draws are decided by the battle's key, `keys` [1], the step and the agent.
        """
        x = net_input(torch.from_numpy(obs).unsqueeze(1).to(self._dtype), self._last)
        q, self._h = self._net(x, self._h)
        log_pi = masked_log_softmax(q, torch.from_numpy(avail_actions).unsqueeze(1))
        actions = choose_actions(log_pi, keys, t, greedy=True, epsilon=epsilon)
        self._last = fn.one_hot(actions, self._net.n_actions).to(self._dtype)
        return actions[:, 0].numpy()
