"""Placing: which things stand where, from cells that are drawn again each time they are seen."""

import functools
import math
from collections.abc import Callable
from typing import Any

from refinenet_edge.scenes.buildings import paint_plot, plot_at
from refinenet_edge.scenes.canvas import Canvas, Shadows
from refinenet_edge.scenes.people import Person, any_person, paint_person
from refinenet_edge.scenes.posts import Post, any_post, paint_post
from refinenet_edge.scenes.terms import Dice, Entropy, Kind, rectangle
from refinenet_edge.scenes.trees import paint_tree
from refinenet_edge.scenes.vehicles import Vehicle, any_vehicle, paint_vehicle

_FAR = 100.0  # metres: nothing is placed beyond
Thing = tuple[float, Callable[[], None]]  # how far away it counts as (metres), and its brush


def _cells(here: float, length: float, back: float = 0.0, far: float = _FAR) -> range:
    """The cells of this length that reach into the visible stretch."""
    return range(math.floor((here - back) / length), math.ceil((here + far) / length))


@functools.lru_cache(maxsize=4096)
def _standing(entropy: Entropy, kind: Kind, side: int, number: int, share: float) -> tuple[float, float, Any] | None:
    """What one cell holds, if its draw is below share: two uniform numbers and the thing (a tree has no more)."""
    dice = Dice(entropy, kind, side, number)
    if dice.random() >= share:
        return None
    first, second = dice.random(), dice.random()
    thing: Post | Vehicle | Person | None = None
    if kind == Kind.POST:
        thing = any_post(dice)
    elif kind == Kind.PARKED:
        thing = any_vehicle(dice, dice.random() < (0.85 if side > 0 else 0.15))
    elif kind == Kind.TRAFFIC:
        thing = any_vehicle(dice, side > 0)
    elif kind == Kind.PERSON:
        thing = any_person(dice, dice.random() < 0.25, abs(side) == 3)
    elif kind == Kind.CROSSING:
        thing = any_person(dice, True, False)
    return first, second, thing


def place_things(canvas: Canvas, shadows: Shadows) -> list[Thing]:
    """Everything that stands on the ground, with its shadow dropped."""
    world, here, t = canvas.world, canvas.here, canvas.t
    sun_cast = world.weather.shadow < 0.8
    things: list[Thing] = []

    for side in (-1, 1):
        lines = world.sides[(side + 1) // 2]
        for number in _cells(here, world.pitch, world.pitch):
            plot = plot_at(world, side, number)
            z0 = plot.near - here
            if plot.kind == "house" and sun_cast:
                shadows.box(side * plot.line, side * (plot.line + 9), z0, z0 + plot.length, plot.height)
            things.append((z0 + plot.length, functools.partial(paint_plot, canvas, plot)))

        for number in _cells(here, 9.0):
            if cell := _standing(world.entropy, Kind.TREE, side, number, lines.trees):
                z, u = (number + 0.2 + 0.3 * cell[0]) * 9.0 - here, side * ((lines.kerb + lines.walk) / 2 + 0.6)
                tall = 4.2 + 5.5 * cell[1]
                if sun_cast:
                    shadows.disc(u, z, 0.3 * tall, 0.65 * tall)
                things.append((z, functools.partial(paint_tree, canvas, u, z, tall, int(cell[0] * 240), cell[1])))

        for number in _cells(here, 9.0):
            if cell := _standing(world.entropy, Kind.POST, side, number, 0.85):
                z, u = (number + 0.65 + 0.3 * cell[0]) * 9.0 - here, side * (lines.kerb + 0.35 + 0.2 * cell[1])
                things.append(_post(canvas, shadows, cell[2], u, z, side))

        for number in _cells(here, 6.2, 6.2) if lines.parking else ():
            cell = _standing(world.entropy, Kind.PARKED, side, number, lines.parked)
            if cell and cell[2].length < 6:  # the bay's length
                z, u = (number + 0.12 * cell[0]) * 6.2 - here, side * (lines.kerb - 1.1 + 0.15 * cell[1])
                things.append(_vehicle(canvas, shadows, cell[2], u, z))

        for stream, speed, length in ((1, 1.25, 4.5), (2, -1.15, 4.5), (3, 0.0, 7.0)):
            moved = here - speed * t
            for number in _cells(moved, length, far=60):
                if cell := _standing(world.entropy, Kind.PERSON, side * stream, number, 0.8 * world.crowd):
                    u = side * (lines.walk + 0.5 + (lines.plot - lines.walk - 0.9) * cell[1])
                    things.append(_person(canvas, shadows, cell[2], u, (number + cell[0]) * length - moved))

    for lane in range(world.oncoming + world.along):
        away, u = lane >= world.oncoming, (lane + 0.5) * world.lane - world.half
        if abs(u - world.place) < world.lane / 2:
            continue  # the camera's own lane has nobody but the leader
        speed = world.speed * 1.25 if away else -world.speed * (1.0 + 0.2 * lane)
        moved = here - speed * t
        for number in _cells(moved, 17.0, 17.0):
            if cell := _standing(world.entropy, Kind.TRAFFIC, lane + 1 if away else -lane - 1, number, world.flow):
                z = (number + 0.3 * cell[0]) * 17.0 - moved
                things.append(_vehicle(canvas, shadows, cell[2], u + 0.3 * (cell[1] - 0.5), z))
    if world.leader and (cell := _standing(world.entropy, Kind.TRAFFIC, 99, 0, 1.0)):
        z = world.leader + 2.5 * math.sin(0.21 * t + 6 * cell[0])
        things.append(_vehicle(canvas, shadows, cell[2], world.place + 0.2 * math.sin(0.17 * t), z))

    for number in _cells(here, 26.0):
        cell = _standing(world.entropy, Kind.CROSSING, 0, number, 0.8 * world.crowd)
        if not cell:
            continue
        z = (number + cell[0]) * 26.0 - here
        if not world.leader or z < world.leader - 3 or z > world.leader + 14:  # not through the leader
            # from kerb to kerb while the camera comes from 44 to 7 metres: done before it is there
            way = min(max((44 - z) / 37, -0.05), 1.05) * 2 - 1
            things.append(_person(canvas, shadows, cell[2], way * (world.half + 2.6) * (1 if cell[1] < 0.5 else -1), z))
    return things


def _vehicle(canvas: Canvas, shadows: Shadows, car: Vehicle, u: float, z: float) -> Thing:
    half = car.width / 2
    if canvas.world.weather.shadow < 0.8:
        shadows.box(u - half, u + half, z, z + car.length, car.height * 0.8)
    wide = half * 1.06  # the dark below it, in any weather
    shadows.drop(rectangle(u - wide, u + wide, z - 0.1, z + car.length), 90)
    return z, functools.partial(paint_vehicle, canvas, car, u, z)


def _post(canvas: Canvas, shadows: Shadows, post: Post, u: float, z: float, side: int) -> Thing:
    if canvas.world.weather.shadow < 0.8 and z > 0:
        du, ds = canvas.world.weather.cast[0] * post.height, canvas.world.weather.cast[1] * post.height
        w = post.thick / 2
        shadows.drop([(u - w, z - w), (u + w, z + w), (u + w + du, z + w + ds), (u - w + du, z - w + ds)])
    return z, functools.partial(paint_post, canvas, post, u, z, side)


def _person(canvas: Canvas, shadows: Shadows, who: Person, u: float, z: float) -> Thing:
    if canvas.world.weather.shadow < 0.8 and z > 1:
        du, ds = canvas.world.weather.cast[0] * who.height, canvas.world.weather.cast[1] * who.height
        shadows.drop([(u - 0.2, z - 0.05), (u + 0.2, z + 0.05), (u + 0.2 + du, z + ds), (u - 0.2 + du, z + ds)])
    else:
        shadows.disc(u, z, 0.3, 0.0)
    return z, functools.partial(paint_person, canvas, who, u, z)
