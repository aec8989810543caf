"""Grid quantities of one PPO update."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Grid quantities of one update, agent-major and flat: G = L * B slots, slot t * B + b."""

    row: Tensor  # [G] row of the slot
    old_log_probs: Tensor  # [N, G]
    advantages: Tensor  # [N, G] standardised
    raw_advantages: Tensor  # [N, G]
    value_targets: Tensor  # [N, G] in units of the return
    old_values: Tensor  # [N, G] in units of the critic's output
    policy_mask: Tensor  # [N, G] slots that count in the policy loss
    trained: Tensor  # [T] flat slots that enter gradients
