"""What every training method offers to the cell that runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from dm2core.nets import Policy


class Learner(Protocol):
    """A method in training. Random draws are functions of (seed, iteration), so `tensors` is all there is to save."""

    iteration: int
    env_steps: int

    @property
    def policy(self) -> Policy: ...

    def start(self, poll: Callable[[], None] = ...) -> None:
        """What a fresh learner does once, before its policy is first evaluated."""

    def iterate(self, poll: Callable[[], None] = ...) -> dict[str, float]:
        """Collect and learn once, in place; metrics by name.

        `poll` is called often and may raise; the learner must then be thrown away.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes, by flat names; views, good until the learner goes on."""

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`; KeyError if one is missing. `iteration` and `env_steps` are set by the caller."""
