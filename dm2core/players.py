"""Who a battle can be played by: a script, or the policy in a file or cell folder. Read without torch."""

from __future__ import annotations

from pathlib import Path

from dm2core.env import scripted
from dm2core.strict import ConfigError

SCRIPTS: dict[str, scripted.Policy] = {
    "attack_nearest": scripted.attack_nearest,
    "focus_fire": scripted.focus_fire,
    "hide": scripted.hide,
    "kite": scripted.kite,
}


def check_player(who: str) -> None:
    """ConfigError unless it is a script, or a file or cell folder that is there."""
    if who in SCRIPTS or who == "random":
        return
    path = policy_file(who)
    if not Path(who).exists():
        known = ", ".join(sorted([*SCRIPTS, "random"]))
        raise ConfigError(f"--who {who}: neither a script ({known}) nor a policy file or cell folder")
    if not path.is_file():
        raise ConfigError(f"--who {who}: there is no {path.name} in it")


def policy_file(who: str) -> Path:
    """The file itself, or the one in a cell folder."""
    path = Path(who)
    return path / "policy.safetensors" if path.is_dir() else path
