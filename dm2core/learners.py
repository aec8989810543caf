"""From a method's name to what trains it."""

from __future__ import annotations

from dm2core.config import CellConfig
from dm2core.demonstrations import Demonstrations
from dm2core.dm2 import Dm2
from dm2core.env.vector import make_env
from dm2core.learner import Learner
from dm2core.methods import METHODS
from dm2core.qmix.learner import QmixLearner
from dm2core.rmappo.learner import RmappoLearner


def open_learner(cell: CellConfig, demos: Demonstrations | None) -> Learner:
    """A fresh learner of the cell; `demos` where its method learns from demonstrations."""
    family = METHODS[cell.method].family
    if family == "ppo":
        return Dm2(cell, make_env(cell.map_name, cell.map_params.episodes_per_update, cell.smac), demos)
    if family == "qmix":
        return QmixLearner(cell, cell.map_name)
    assert cell.rmappo is not None
    return RmappoLearner(cell, cell.rmappo)
