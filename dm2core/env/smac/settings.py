"""How the real game is run; none of it is part of a cell's identity."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dm2core.strict import Strict

Seconds = Annotated[float, Field(gt=0)]


class Smac(Strict):
    """Games and limits; config/config.yaml holds the values."""

    games: Annotated[int, Field(gt=0)]  # side by side; each is taken to need a core and 1.5 GB
    start_gap_s: Annotated[float, Field(ge=0)]  # between the starts of two games
    start_limit_s: Seconds  # a game that takes longer to start is killed
    hang_limit_s: Seconds  # a game that takes longer to answer is killed
    max_restarts: Annotated[int, Field(ge=0)]  # in 100 episodes; one more ends the program


DEFAULTS = Smac(games=8, start_gap_s=1.0, start_limit_s=180.0, hang_limit_s=55.0, max_restarts=5)
