"""Posts: lamps, traffic lights, signs and masts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from refinenet_edge.scenes.canvas import Canvas
from refinenet_edge.scenes.colours import any_colour, mix, scaled, times
from refinenet_edge.scenes.terms import Colour, Dice, Label, Point, rectangle


@dataclass(frozen=True)
class Post:
    """A lamp, a traffic light, a sign or a plain mast."""

    kind: str
    height: float
    thick: float  # diameter, metres
    colour: Colour
    plate: Colour
    shape: int  # of the sign
    size: float  # of the sign, metres


def any_post(dice: Dice) -> Post:
    kind = ("lamp", "lamp", "sign", "sign", "light", "mast")[dice.below(6)]
    tall = {"lamp": (5.0, 8.0), "sign": (2.6, 3.4), "light": (3.2, 4.2), "mast": (6.0, 9.0)}[kind]
    thick = {"lamp": (0.20, 0.30), "sign": (0.13, 0.19), "light": (0.19, 0.27), "mast": (0.24, 0.36)}[kind]
    colour = any_colour(dice, 0.25, 35, 200)
    plates = (
        (50.0, 40.0, 200.0),
        (190.0, 100.0, 40.0),
        (60.0, 200.0, 235.0),
        (225.0, 225.0, 225.0),
        (80.0, 140.0, 60.0),
    )
    return Post(
        kind=kind,
        height=dice.uniform(*tall),
        thick=dice.uniform(*thick),
        colour=mix(colour, (70.0, 95.0, 115.0), 0.8) if kind == "mast" else colour,
        plate=plates[dice.below(5)],
        shape=dice.below(4),
        size=dice.uniform(0.75, 1.1),
    )


def paint_post(canvas: Canvas, post: Post, u: float, z: float, side: int) -> None:
    if z < 1.5 or post.thick * canvas.focal / z < max(0.0055 * canvas.unit, 1.0):
        return
    gain = canvas.world.weather.light(0, 0, -1)
    thick, tall = post.thick / 2, post.height
    bright = (1.0, 1.0, 1.0) if canvas.world.weather.dark else gain

    def put(points: Sequence[Point], colour: Colour, light: Colour = gain) -> None:
        canvas.face([(u + x, y, z) for x, y in points], times(colour, light), Label.POLE)

    top = thick * (0.7 if post.kind in ("lamp", "mast") else 1.0)
    put([(-thick, 0), (thick, 0), (top, tall), (-top, tall)], post.colour)
    put([(thick * 0.2, 0), (thick, 0), (top, tall), (top * 0.2, tall)], scaled(post.colour, 0.75))
    if post.kind == "lamp":
        put(rectangle(-thick * 1.5, thick * 1.5, 0, 0.7), scaled(post.colour, 0.9))
        arm = -side * post.size * 1.8
        put([(0, tall - 0.1), (arm, tall + 0.25), (arm, tall + 0.42), (0, tall + 0.12)], post.colour)
        put(
            [(arm * 0.75, tall + 0.14), (arm * 1.35, tall + 0.28), (arm * 1.3, tall + 0.5), (arm * 0.75, tall + 0.36)],
            (200.0, 235.0, 245.0),
            bright,
        )
    elif post.kind == "mast":
        put(rectangle(-0.9, 0.9, tall - 0.6, tall - 0.4), scaled(post.colour, 0.8))
    elif post.kind == "light":
        put(rectangle(-0.24, 0.24, tall - 0.3, tall + 0.85), (30.0, 32.0, 30.0))
        for number, lamp in enumerate(((70.0, 200.0, 60.0), (40.0, 180.0, 230.0), (50.0, 50.0, 220.0))):
            y = tall - 0.08 + 0.36 * number
            ring = [(0.14 * math.cos(i * 0.785), y + 0.14 * math.sin(i * 0.785)) for i in range(8)]
            on = number == post.shape % 3
            put(ring, lamp if on else scaled(lamp, 0.3), (1.0, 1.0, 1.0) if on else gain)
    else:
        r, count = post.size / 2, (3, 4, 12, 12)[post.shape]
        turn = (math.pi / 2, math.pi / 4, 0.0, 0.0)[post.shape]
        y = tall + r * 0.3
        angles = [turn + i * 2 * math.pi / count for i in range(count)]
        inner = scaled(post.plate, 0.8) if post.shape == 3 else (215.0, 215.0, 215.0)
        for size, colour in ((r, post.plate), (r * 0.72, inner)):
            put([(size * math.cos(a), y + size * math.sin(a)) for a in angles], colour)
        put(rectangle(-r * 0.4, r * 0.4, y - r * 0.12, y + r * 0.12), scaled(post.plate, 0.45))
