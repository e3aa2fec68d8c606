"""Vehicles: cars, vans, buses and trucks out of tapered boxes, from behind or from the front."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from refinenet_edge.scenes.canvas import NEAR, Canvas
from refinenet_edge.scenes.colours import car_colour, mix, scaled, times
from refinenet_edge.scenes.terms import Colour, Dice, Label, Point3, rectangle

Face = list[Point3]


@dataclass(frozen=True)
class Vehicle:
    """A car, van, bus or truck at u (its middle) and s (its near end), seen from behind (away) or from the front."""

    kind: str
    colour: Colour
    length: float
    width: float
    height: float
    away: bool
    shape: tuple[float, float, float, float]  # how the cabin tapers: near bottom, near top, far top, far bottom


def any_vehicle(dice: Dice, away: bool) -> Vehicle:
    kind = ("car", "car", "car", "car", "suv", "suv", "van", "bus", "truck")[dice.below(9)]
    colour = car_colour(dice)
    size = {
        "car": (4.2, 1.78, 1.46),
        "suv": (4.6, 1.88, 1.72),
        "van": (5.2, 2.0, 2.2),
        "bus": (10.5, 2.5, 3.0),
        "truck": (7.5, 2.4, 3.2),
    }
    length, width, height = (side * dice.uniform(0.93, 1.07) for side in size[kind])
    tail, nose = dice.uniform(0.02, 0.16), dice.uniform(0.24, 0.34)
    if kind == "suv":
        tail = 0.01
    shape = (tail, tail + 0.1, 1 - nose - 0.17, 1 - nose)
    if kind in ("van", "bus", "truck"):
        shape = (0.0, 0.01, 0.84, 0.98) if kind == "van" else (0.0, 0.0, 0.99, 1.0)
    if not away:
        a, b, c, d = shape
        shape = (1 - d, 1 - c, 1 - b, 1 - a)
    return Vehicle(kind, colour, length, width, height, away, shape)


def _inset(quad: Sequence[Point3], x0: float, x1: float, y0: float, y1: float) -> Face:
    """The part x0..x1 (along the first edge), y0..y1 (up) of a quad given as bottom a, bottom b, top b, top a."""
    a, b, c, d = quad

    def at(x: float, y: float) -> Point3:
        low = [a[i] + (b[i] - a[i]) * x for i in range(3)]
        high = [d[i] + (c[i] - d[i]) * x for i in range(3)]
        return (low[0] + (high[0] - low[0]) * y, low[1] + (high[1] - low[1]) * y, low[2] + (high[2] - low[2]) * y)

    return [at(x0, y0), at(x1, y0), at(x1, y1), at(x0, y1)]


def paint_vehicle(canvas: Canvas, car: Vehicle, u: float, z: float) -> None:
    weather = canvas.world.weather
    if z + car.length < NEAR + 0.3 or car.height * canvas.focal < 0.02 * canvas.unit * z:
        return
    fine = z < 40  # metres: beyond, small parts are below a pixel
    seen = canvas.u - (u + canvas.bend(max(z, 1.0)))  # which flank the camera sees
    flank = 1 if seen > 0 else -1
    half, long = car.width / 2, car.length
    back_light, flank_light, top_light = weather.light(0, 0, -1), weather.light(flank, 0, 0), weather.light(0, 1, 0)
    belt = {"car": 0.60, "suv": 0.57, "van": 0.48, "bus": 0.38, "truck": 0.0}[car.kind] * car.height
    sill, ahead = 0.26, z > NEAR
    glass = mix((62.0, 55.0, 48.0), weather.haze, 0.22)
    black = (28.0, 27.0, 26.0)

    def put(corners: Sequence[Point3], colour: Colour, gain: Colour) -> None:
        canvas.face(corners, times(colour, gain), Label.VEHICLE)

    def block(low: float, high: float, shape: Sequence[float], narrow: float) -> tuple[Face, Face, Face]:
        """The faces near, flank and top of a tapered box."""
        a, b, c, d = (z + x * long for x in shape)
        w = half * narrow
        near = [(u - half, low, a), (u + half, low, a), (u + w, high, b), (u - w, high, b)]
        side = [(u + flank * x, v, s) for x, v, s in ((half, low, a), (half, low, d), (w, high, c), (w, high, b))]
        top = [(u - w, high, b), (u + w, high, b), (u + w, high, c), (u - w, high, c)]
        return near, side, top

    def plate(u0: float, u1: float, v0: float, v1: float) -> None:
        """A dark upright rectangle at the near end."""
        put([(x, y, z) for x, y in rectangle(u0, u1, v0, v1)], black, back_light)

    # the dark underneath and the tyres, then the body, then the cabin
    edge, a, b = u + flank * half * 0.9, z + 0.1 * long, z + 0.9 * long
    put([(edge, 0.1, a), (edge, 0.1, b), (edge, sill + 0.1, b), (edge, sill + 0.1, a)], black, back_light)
    if ahead:
        below = ((-0.92, 0.13), (0.92, 0.13), (1, sill + 0.06), (-1, sill + 0.06))
        put([(u + x * half, y, z) for x, y in below], black, back_light)
        for x in (-0.8, 0.8):
            plate(u + x * half - 0.12, u + x * half + 0.12, 0.0, sill + 0.05)
    if car.kind == "truck":
        cab = (0.72, 0.72, 0.97, 1.0) if car.away else (0.0, 0.03, 0.28, 0.28)
        load = (0.0, 0.0, 0.70, 0.70) if car.away else (0.3, 0.3, 1.0, 1.0)
        parts = [
            (cab, 0.8, car.colour),
            (load, 1.0, scaled(car.colour, 0.9) if half * 100 % 2 < 1 else (205.0, 205.0, 200.0)),
        ]
        for shape, share, colour in parts if car.away else parts[::-1]:
            near, side, top = block(sill + 0.1, share * car.height, shape, 0.98)
            if share * car.height < canvas.v:
                put(top, colour, top_light)
            put(side, colour, flank_light)
            if z + shape[0] * long > NEAR:
                put(near, colour, back_light)
            if share < 1:
                put(_inset(side, 0.15, 0.75, 0.5, 0.88), glass, flank_light)
                if z + shape[0] * long > NEAR:
                    put(_inset(near, 0.08, 0.92, 0.5, 0.9), glass, back_light)
            elif z + shape[0] * long > NEAR:
                put(_inset(near, 0.49, 0.51, 0.05, 0.95), scaled(colour, 0.6), back_light)
        body = block(sill, sill + 0.55, (0.0, 0.0, 1.0, 1.0), 1.0)[0]
    else:
        near, side, top = block(sill, belt, (0.0, 0.005, 0.995, 1.0), 0.97)
        put(top, car.colour, top_light)
        put(side, scaled(car.colour, 0.92), flank_light)
        if fine:
            put(_inset(side, 0.0, 1.0, 0.72, 1.0), scaled(car.colour, 1.12), flank_light)
        if ahead:
            put(near, car.colour, back_light)
        body = near
        near, side, top = block(belt, car.height, car.shape, 0.80 if car.kind in ("car", "suv") else 0.95)
        if car.height < canvas.v:
            put(top, car.colour, top_light)
        put(side, car.colour, flank_light)
        panes = {"car": 2, "suv": 3, "van": 3, "bus": 7}[car.kind]
        for pane in range(panes):
            if car.kind == "van" and (pane < 2) == car.away:
                continue  # vans have windows only at the driver's
            put(_inset(side, (pane + 0.1) / panes, (pane + 0.92) / panes, 0.12, 0.84), glass, flank_light)
        if z + car.shape[0] * long > NEAR:
            put(near, car.colour, back_light)
            put(_inset(near, 0.08, 0.92, 0.14, 0.86), glass, back_light)
    for at in (0.18, 0.8) if fine else ():  # wheels
        radius = 0.33 if car.kind in ("car", "suv", "van") else 0.48
        middle = z + at * long
        if middle - radius > NEAR:
            for size, colour in ((1.0, black), (0.55, (120.0, 120.0, 122.0))):
                ring = [
                    (u + flank * half, radius * (1 + size * math.sin(a)), middle + radius * size * math.cos(a))
                    for a in (i * 0.5236 for i in range(12))
                ]
                put(ring, colour, flank_light)
    if ahead and fine:
        lamp = (40.0, 35.0, 190.0) if car.away else (225.0, 232.0, 235.0)
        glow = (1.0, 1.0, 1.0) if weather.dark else back_light
        for x0, x1 in ((0.03, 0.2), (0.8, 0.97)):
            put(_inset(body, x0, x1, 0.5, 0.8), lamp, glow)
        put(_inset(body, 0.36, 0.64, 0.22, 0.45), (200.0, 215.0, 220.0) if car.away else black, back_light)
        put(_inset(body, 0.0, 1.0, 0.0, 0.16), scaled(car.colour, 0.5), back_light)
