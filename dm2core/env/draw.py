"""Pictures of battles: one frame from the state of all units. Pillow only, no torch.

Allies are blue, enemies orange (Okabe and Ito's colour-blind safe palette); marines are circles, stalkers diamonds,
zealots triangles. Above every unit its life (green), below it its shields (light blue) if it has any.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dm2core.env.scenario import Scenario

SCALE = 3  # drawn this much larger, then reduced: smooth edges
HEAD, FOOT = 44, 18  # pixels above and below the arena
WHITE, INK, GREY, GROUND = (255, 255, 255), (30, 30, 30), (150, 150, 150), (243, 241, 235)
ALLY, ENEMY = (0, 114, 178), (213, 94, 0)
LIFE, SHIELDS, BACK = (0, 158, 115), (86, 180, 233), (205, 205, 205)


@dataclass(frozen=True)
class Scene:
    """Everything one frame shows; arrays over U units, allies first."""

    xy: NDArray[np.floating]  # [U, 2] cells
    health: NDArray[np.floating]  # [U]
    shield: NDArray[np.floating]  # [U]
    shots: tuple[tuple[int, int, float], ...] = ()  # from, at, 0..1 of the way
    title: str = ""
    clock: str = ""
    banner: str = ""
    died: dict[int, float] = field(default_factory=dict)  # unit -> how long ago, 0..1


class Painter:
    """Frames of one map, [H, W, 3] uint8, `width` pixels wide, showing `view` = (x, y, width, height) in cells."""

    def __init__(
        self, scenario: Scenario, view: tuple[float, float, float, float] | None = None, width: int = 400
    ) -> None:
        self.scenario, self.units = scenario, scenario.allies + scenario.enemies
        low, high = scenario.rows
        self.view = view or (0.0, low, scenario.size[0], high - low)
        self.width = width
        self.cell = width / self.view[2]
        self.height = HEAD + round(self.view[3] * self.cell) + FOOT

    def frame(self, scene: Scene) -> NDArray[np.uint8]:
        """One picture."""
        image = Image.new("RGB", (self.width * SCALE, self.height * SCALE), WHITE)
        pen = ImageDraw.Draw(image)
        box = (0, HEAD, self.width, self.height - FOOT)
        pen.rectangle([v * SCALE for v in box], fill=GROUND)
        alive = [int(u) for u in np.flatnonzero(scene.health > 0)]
        for u in alive:
            self._reach(pen, scene, u)
        for dead, age in scene.died.items():
            self._cross(pen, scene, dead, age)
        for u in alive:
            self._unit(pen, scene, u)
        for shooter, victim, way in scene.shots:
            self._shot(pen, scene, shooter, victim, way)
        self._head(pen, scene)
        self._foot(pen)
        if scene.banner:
            self._banner(pen, scene.banner)
        return np.asarray(image.resize((self.width, self.height), Image.Resampling.LANCZOS))

    def _at(self, xy: NDArray[np.floating]) -> tuple[float, float]:
        """Pixel of a place; north is up."""
        x, y, _, height = self.view
        return (xy[0] - x) * self.cell * SCALE, (HEAD + (y + height - xy[1]) * self.cell) * SCALE

    def _colour(self, u: int) -> tuple[int, int, int]:
        return ALLY if u < self.scenario.n_agents else ENEMY

    def _reach(self, pen: ImageDraw.ImageDraw, scene: Scene, u: int) -> None:
        """Weapon range, faint; melee's is not worth a circle."""
        unit = self.units[u]
        if unit.range < 1:
            return
        x, y = self._at(scene.xy[u])
        r = (unit.range + unit.radius) * self.cell * SCALE
        pen.ellipse([x - r, y - r, x + r, y + r], outline=_mix(self._colour(u), GROUND, 0.8), width=SCALE)

    def _unit(self, pen: ImageDraw.ImageDraw, scene: Scene, u: int) -> None:
        unit, (x, y) = self.units[u], self._at(scene.xy[u])
        r = max(unit.radius * self.cell, 7) * SCALE
        colour, line = self._colour(u), SCALE
        if unit.name == "marine":
            pen.ellipse([x - r, y - r, x + r, y + r], fill=colour, outline=INK, width=line)
        elif unit.name == "stalker":
            pen.polygon(
                [(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill=colour, outline=INK, width=line
            )
        else:
            pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour, outline=INK, width=line)
        font = _font(round(r * 0.95))
        pen.text((x, y + (r * 0.25 if unit.name not in ("marine", "stalker") else 0)), str(self._number(u)),
                 font=font, fill=WHITE, anchor="mm")  # fmt: skip
        bar = 2.2 * r
        self._bar(pen, x, y - r - 4 * SCALE, bar, scene.health[u] / unit.health, LIFE)
        if unit.shield > 0:
            self._bar(pen, x, y - r - 7 * SCALE, bar, scene.shield[u] / unit.shield, SHIELDS)

    def _number(self, u: int) -> int:
        return u + 1 if u < self.scenario.n_agents else u + 1 - self.scenario.n_agents

    def _bar(
        self, pen: ImageDraw.ImageDraw, x: float, y: float, width: float, share: float, colour: Any
    ) -> None:
        left, height = x - width / 2, 2.2 * SCALE
        pen.rectangle([left, y, left + width, y + height], fill=BACK)
        if share > 0:
            pen.rectangle([left, y, left + width * min(share, 1.0), y + height], fill=colour)

    def _cross(self, pen: ImageDraw.ImageDraw, scene: Scene, u: int, age: float) -> None:
        x, y = self._at(scene.xy[u])
        r, colour = 5 * SCALE, _mix(self._colour(u), GROUND, 0.2 + 0.6 * age)
        for sign in (1, -1):
            pen.line([x - r, y - sign * r, x + r, y + sign * r], fill=colour, width=2 * SCALE)

    def _shot(self, pen: ImageDraw.ImageDraw, scene: Scene, u: int, v: int, way: float) -> None:
        """A line for instant weapons, a ball under way for missiles, a thick dash for melee."""
        (x, y), (vx, vy) = self._at(scene.xy[u]), self._at(scene.xy[v])
        unit, colour = self.units[u], _mix(self._colour(u), INK, 0.15)
        if unit.missile_speed > 0:
            r, px, py = 2.5 * SCALE, x + way * (vx - x), y + way * (vy - y)
            pen.line([x, y, px, py], fill=_mix(colour, GROUND, 0.6), width=SCALE)
            pen.ellipse([px - r, py - r, px + r, py + r], fill=colour, outline=INK, width=1)
        elif unit.range >= 1:
            pen.line([x, y, vx, vy], fill=colour, width=2 * SCALE)
        else:
            pen.line([x + 0.4 * (vx - x), y + 0.4 * (vy - y), vx, vy], fill=colour, width=4 * SCALE)

    def _head(self, pen: ImageDraw.ImageDraw, scene: Scene) -> None:
        n = self.scenario.n_agents
        pen.rectangle([0, 0, self.width * SCALE, HEAD * SCALE], fill=WHITE)  # over rings that leave the arena
        pen.rectangle([0, (self.height - FOOT) * SCALE, self.width * SCALE, self.height * SCALE], fill=WHITE)
        small, wide = _font(11 * SCALE), self.width * SCALE
        room = wide - 24 * SCALE - pen.textlength(scene.clock, font=small)
        sizes = range(12 * SCALE, 6 * SCALE, -1)  # a long title is written smaller, not over the clock
        fit = (size for size in sizes if pen.textlength(scene.title, font=_font(size, bold=True)) <= room)
        pen.text((6 * SCALE, 4 * SCALE), scene.title, font=_font(next(fit, 6 * SCALE), bold=True), fill=INK)
        pen.text((wide - 6 * SCALE, 4 * SCALE), scene.clock, font=small, fill=INK, anchor="ra")
        points = scene.health + scene.shield
        full = np.array([unit.health + unit.shield for unit in self.units])
        half = wide / 2
        for part, left, colour in (
            (slice(None, n), 6 * SCALE, ALLY),
            (slice(n, None), half + 3 * SCALE, ENEMY),
        ):
            width, y = half - 9 * SCALE, 22 * SCALE
            pen.rectangle([left, y, left + width, y + 16 * SCALE], fill=BACK)
            share = float(points[part].sum() / full[part].sum())
            if share > 0:
                pen.rectangle([left, y, left + width * share, y + 16 * SCALE], fill=_mix(colour, WHITE, 0.35))
            name = "agents" if colour == ALLY else "enemies"
            text = f"{name}: {int((scene.health[part] > 0).sum())} alive, {share:.0%} life"
            pen.text((left + 4 * SCALE, y + 8 * SCALE), text, font=_font(10 * SCALE), fill=INK, anchor="lm")

    def _foot(self, pen: ImageDraw.ImageDraw) -> None:
        """What the signs mean, for the kinds of units on the map."""
        kinds = dict.fromkeys(unit.name for unit in self.units)
        signs = {"marine": "circle marine", "stalker": "diamond stalker"}
        text = ", ".join(signs.get(kind, f"triangle {kind}") for kind in kinds)
        shields = ", light blue shields" if any(unit.shield > 0 for unit in self.units) else ""
        text += f"; green life{shields}; ring weapon range"
        y = (self.height - FOOT / 2) * SCALE
        pen.text((6 * SCALE, y), text, font=_font(9 * SCALE), fill=(90, 90, 90), anchor="lm")

    def _banner(self, pen: ImageDraw.ImageDraw, text: str) -> None:
        font = _font(20 * SCALE, bold=True)
        x, y = self.width * SCALE / 2, (HEAD + 30) * SCALE
        w = pen.textlength(text, font=font) / 2 + 12 * SCALE
        pen.rectangle([x - w, y - 20 * SCALE, x + w, y + 20 * SCALE], fill=WHITE, outline=INK, width=SCALE)
        pen.text((x, y), text, font=font, fill=INK, anchor="mm")


def _mix(a: tuple[int, ...], b: tuple[int, ...], share: float) -> tuple[int, ...]:
    """a moved towards b."""
    return tuple(round(p + share * (q - p)) for p, q in zip(a, b, strict=True))


@cache
def _font(size: int, bold: bool = False) -> Any:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), max(size, 6))
