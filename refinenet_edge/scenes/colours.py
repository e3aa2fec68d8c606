"""Colours: drawn for walls, cars and clothes; mixed and lit."""

import math

from refinenet_edge.scenes.terms import Colour, Dice


def any_colour(dice: Dice, saturation: float, low: float = 40, high: float = 225) -> Colour:
    """A BGR colour of any hue; most saturations are well below the given one, so greys dominate."""
    value = dice.uniform(low, high)
    hue, strength = dice.uniform(0, 2 * math.pi), saturation * dice.uniform(0, 1) ** 1.5
    wheel = (math.cos(hue), math.cos(hue - 2.094), math.cos(hue + 2.094))
    blue, green, red = (min(max(value * (1 + strength * w), 8), 250) for w in wheel)
    return blue, green, red


def wall_colour(dice: Dice) -> Colour:
    """What houses are painted in: greys, creams, sand, brick, now and then anything."""
    draw, value = dice.random(), dice.uniform(60, 228)
    if draw < 0.35:
        return value * dice.uniform(0.92, 1.05), value, value * dice.uniform(0.95, 1.05)
    if draw < 0.7:
        return value * dice.uniform(0.62, 0.92), value * dice.uniform(0.88, 0.98), value
    if draw < 0.88:
        return value * dice.uniform(0.4, 0.6), value * dice.uniform(0.5, 0.68), value * 0.95
    return any_colour(dice, 0.4, 60, 215)


def car_colour(dice: Dice) -> Colour:
    """White, silver, greys and black mostly, then dark blue, red, green, brown, seldom something loud."""
    draw = dice.random()
    if draw < 0.58:
        value = dice.uniform(28, 238)
        return value * dice.uniform(0.97, 1.05), value, value * dice.uniform(0.96, 1.03)
    if draw < 0.90:
        base = (
            (120.0, 65.0, 35.0),
            (42.0, 38.0, 150.0),
            (60.0, 85.0, 50.0),
            (60.0, 85.0, 110.0),
            (150.0, 125.0, 85.0),
        )[dice.below(5)]
        return scaled(base, dice.uniform(0.5, 1.4))
    return any_colour(dice, 1.0, 70, 190)


def mix(a: Colour, b: Colour, weight: float) -> Colour:
    """From a at weight 0 to b at weight 1."""
    return (a[0] + (b[0] - a[0]) * weight, a[1] + (b[1] - a[1]) * weight, a[2] + (b[2] - a[2]) * weight)


def scaled(colour: Colour, gain: float) -> Colour:
    return colour[0] * gain, colour[1] * gain, colour[2] * gain


def times(colour: Colour, gain: Colour) -> Colour:
    return min(colour[0] * gain[0], 255), min(colour[1] * gain[1], 255), min(colour[2] * gain[2], 255)
