"""Weather: light and air, from clear noon to dusk."""

from __future__ import annotations

import math
from dataclasses import dataclass

from refinenet_edge.scenes.colours import scaled
from refinenet_edge.scenes.terms import Colour, Dice, Point, Point3


@dataclass(frozen=True)
class Weather:
    """Light and air.

    Gains are BGR factors; `sun` points to the sun in (u, v, s); shadows fall `cast` metres (u, s) per metre of height.
    """

    zenith: Colour
    haze: Colour
    cloud: Colour
    cover: float
    fog: float
    sun: Point3
    cast: Point
    shadow: float
    ambient: Colour
    direct: Colour
    dark: bool

    @classmethod
    def draw(cls, dice: Dice) -> Weather:
        """One of clear, overcast, sunset, fog, dusk, with everything about it varied."""
        draw = dice.random()
        kind = sum(draw >= edge for edge in (0.34, 0.59, 0.74, 0.85))  # clear, overcast, sunset, fog, dusk
        elevation = dice.uniform(0.45, 1.15) if kind != 2 else dice.uniform(0.3, 0.5)
        azimuth = dice.uniform(-math.pi, math.pi)
        sun = (math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth))
        level = dice.uniform(0.8, 1.1)
        grey = dice.uniform(125, 235)
        tint = [dice.uniform(0.93, 1.07) for _ in range(3)]
        cool = (grey * tint[0], grey * tint[1], grey * tint[2])
        if kind == 0:
            blue = dice.uniform(0.75, 1.1)
            zenith, haze, cloud = (225 * blue, 160 * blue, 95 * blue), (235.0, 222.0, 205.0), (240.0, 238.0, 235.0)
            ambient, direct, fog, shadow = (0.60, 0.53, 0.48), (0.52, 0.60, 0.64), 0.002, 0.52
        elif kind == 1:
            zenith, haze, cloud = scaled(cool, 0.85), cool, scaled(cool, 1.08)
            ambient, direct, fog, shadow = (0.82, 0.80, 0.78), (0.10, 0.10, 0.10), 0.004, 0.92
        elif kind == 2:
            zenith, haze, cloud = (165.0, 125.0, 120.0), (105.0, 165.0, 240.0), (135.0, 140.0, 215.0)
            ambient, direct, fog, shadow = (0.56, 0.48, 0.48), (0.30, 0.50, 0.72), 0.005, 0.58
        elif kind == 3:
            zenith, haze, cloud = cool, cool, cool
            ambient, direct, fog, shadow = (0.78, 0.77, 0.76), (0.04, 0.04, 0.04), dice.uniform(0.010, 0.024), 0.95
        else:
            zenith, haze, cloud = (88.0, 58.0, 46.0), (120.0, 95.0, 98.0), (80.0, 66.0, 70.0)
            ambient, direct, fog, shadow = (0.60, 0.52, 0.49), (0.07, 0.06, 0.06), 0.005, 0.85
        reach = min(1 / math.tan(elevation), 2.2) / math.cos(elevation)
        return cls(
            zenith=scaled(zenith, dice.uniform(0.85, 1.05)),
            haze=scaled(haze, dice.uniform(0.9, 1.03)),
            cloud=cloud,
            cover=dice.uniform(-0.6, 0.9),
            fog=fog * dice.uniform(0.6, 1.4),
            sun=sun,
            cast=(-sun[0] * reach, -sun[2] * reach),
            shadow=shadow,
            ambient=scaled(ambient, level),
            direct=scaled(direct, level),
            dark=bool(kind == 4),
        )

    def light(self, u: float, v: float, s: float) -> Colour:
        """The gain of a surface with this unit normal."""
        facing = max(0.0, u * self.sun[0] + v * self.sun[1] + s * self.sun[2])
        a, d = self.ambient, self.direct
        return a[0] + d[0] * facing, a[1] + d[1] * facing, a[2] + d[2] * facing
