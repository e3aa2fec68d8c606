"""People: walking, standing and crossing, out of limbs that swing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from refinenet_edge.scenes.canvas import Canvas
from refinenet_edge.scenes.colours import any_colour, mix, scaled, times
from refinenet_edge.scenes.terms import Colour, Dice, Label, Point, rectangle


@dataclass(frozen=True)
class Person:
    """Somebody walking or standing."""

    height: float
    stout: float
    pace: float  # steps a second, 0: standing
    phase: float
    sideways: bool  # walks across the view
    coat: Colour
    legs: Colour
    skin: Colour
    hair: Colour
    skirt: bool
    bag: int  # -1, 0 none, 1


def any_person(dice: Dice, sideways: bool, standing: bool) -> Person:
    return Person(
        height=dice.uniform(1.55, 1.92) if dice.random() < 0.85 else dice.uniform(1.05, 1.4),
        stout=dice.uniform(0.9, 1.3),
        pace=0.0 if standing else dice.uniform(0.8, 1.1),
        phase=dice.uniform(0, 6.28),
        sideways=sideways,
        coat=any_colour(dice, 1.3, 25, 220),
        legs=any_colour(dice, 0.7, 22, 160),
        skin=mix((150.0, 180.0, 225.0), (45.0, 65.0, 100.0), dice.random()),
        hair=mix((20.0, 25.0, 35.0), (110.0, 150.0, 175.0), dice.random() ** 2),
        skirt=dice.random() < 0.2,
        bag=dice.below(3) - 1,
    )


def paint_person(canvas: Canvas, who: Person, u: float, z: float) -> None:
    if z < 2.0:
        return
    x, y = canvas.project((u, 0.0, z))
    scale = who.height * canvas.focal / z
    if scale < 0.038 * canvas.unit or scale < 5 or not -scale < x < canvas.size[1] + scale:
        return
    gain = canvas.world.weather.light(0, 0, -1)
    coat, legs, skin, hair = (canvas.air(times(c, gain), z) for c in (who.coat, who.legs, who.skin, who.hair))
    wide = who.stout * (0.8 if who.sideways else 1.0)
    swing = math.sin(2 * math.pi * who.pace * canvas.t + who.phase) if who.pace else 0.25
    reach = swing * (0.13 if who.sideways else 0.03)

    def put(points: Sequence[Point], colour: Colour) -> None:
        canvas.fill([(x + px * scale, y - py * scale) for px, py in points], colour, Label.PERSON)

    def limb(a: Point, b: Point, w0: float, w1: float, colour: Colour) -> None:
        put([(a[0] - w0, a[1]), (a[0] + w0, a[1]), (b[0] + w1, b[1]), (b[0] - w1, b[1])], colour)

    near = scale > 0.08 * canvas.unit
    hip, gap = 0.48, 0.045 * wide
    for sign, shade in ((-1, 0.8), (1, 1.0)):
        lift = max(0.0, sign * swing) * 0.03
        foot = (sign * (gap + reach), lift)
        knee = (sign * (gap + 0.45 * reach), 0.26)
        limb((sign * gap, hip + 0.03), knee, 0.058 * wide, 0.048 * wide, scaled(legs, shade))
        limb(knee, foot, 0.046 * wide, 0.036 * wide, scaled(legs, shade))
        if near:
            shoe = ((-0.04, 0.0), (0.05, 0.0), (0.035, 0.035), (-0.035, 0.035))
            put([(foot[0] + dx, lift + dy) for dx, dy in shoe], scaled(hair, 0.6))
    if who.skirt:
        limb((0.0, 0.55), (0.0, 0.27), 0.08 * wide, 0.125 * wide, coat)
    shoulder = 0.115 * wide
    for sign in (-1, 1):
        hand = (sign * (shoulder + 0.035) - sign * reach * 0.9, 0.45)
        limb((sign * shoulder * 0.92, 0.80), hand, 0.036 * wide, 0.028 * wide, scaled(coat, 0.82))
        if near:
            put(rectangle(hand[0] - 0.024, hand[0] + 0.024, 0.43, 0.47), skin)
    half = [(0.085 * wide, hip - 0.02), (shoulder, 0.79), (0.05 * wide, 0.835)]  # of the coat
    put([(-0.085 * wide, hip - 0.02), *half, (-0.05 * wide, 0.835), (-shoulder, 0.79)], coat)
    put([(0.0, hip - 0.02), *half], scaled(coat, 0.88))
    if who.bag:
        b = who.bag * (shoulder + 0.03)
        put([(b - 0.06, 0.40), (b + 0.06, 0.40), (b + 0.05, 0.53), (b - 0.05, 0.53)], legs)
    limb((0.0, 0.86), (0.0, 0.82), 0.03, 0.035, skin)
    head = [(0.058 * math.cos(a), 0.925 + 0.075 * math.sin(a)) for a in (i * 0.5236 for i in range(12))]
    put(head, skin)
    put([*head[:7], (-0.05, 0.93 if who.sideways else 0.945)], hair)
