"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dm2core.env import scenario


@pytest.fixture
def own_maps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Maps that a test adds are gone after it."""
    monkeypatch.setattr(scenario, "_own", {"units": {}, "terrains": {}, "maps": {}})
    yield
    monkeypatch.undo()
    scenario._forget()
