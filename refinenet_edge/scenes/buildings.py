"""Plots: the houses, parks and mouths of side streets along the pavement."""

import functools
from dataclasses import dataclass

import numpy as np

from refinenet_edge.scenes.canvas import NEAR, Canvas
from refinenet_edge.scenes.colours import any_colour, mix, scaled, times, wall_colour
from refinenet_edge.scenes.fronts import house_front
from refinenet_edge.scenes.materials import grey_tiles, tinted
from refinenet_edge.scenes.terms import Colour, Dice, Kind, Label, rectangle
from refinenet_edge.scenes.trees import paint_tree
from refinenet_edge.scenes.world import World


@dataclass(frozen=True)
class Plot:
    """What stands beside the pavement between two lateral lines: a house, a park or the mouth of a side street."""

    kind: str  # house, park, street
    near: float  # s where it begins, metres
    length: float
    side: int  # -1 left, 1 right
    line: float  # |u| of the house's front or the hedge
    height: float
    roof: float
    hedge: float  # height, 0: none
    trees: tuple[tuple[float, float, float, int, float], ...]  # along, behind the line, height, sprite, hue
    front: np.ndarray  # lit texture
    end: Colour  # lit
    tiles: Colour  # lit


@functools.lru_cache(maxsize=512)
def plot_at(world: World, side: int, number: int) -> Plot:
    dice = Dice(world.entropy, Kind.PLOT, side, number)
    lines, weather = world.sides[(side + 1) // 2], world.weather
    draw = dice.random()
    built = draw < lines.built
    kind = "house" if built else "park" if draw < lines.built + 0.8 * (1 - lines.built) else "street"
    back = 0.0 if dice.random() < 0.7 else dice.uniform(2.0, 5.0)
    height = dice.uniform(4.5, 15.0) if dice.random() < 0.8 else dice.uniform(14.0, 24.0)
    length = world.pitch * (1.0 if dice.random() < 0.6 else dice.uniform(0.6, 0.95))
    wall = wall_colour(dice)
    side_light, face_light = weather.light(-side, 0, 0), weather.light(0, 0, -1)
    hedge = dice.uniform(0.8, 1.8) if dice.random() < (0.5 if back or kind == "park" else 0.0) else 0.0
    trees = []
    if kind == "park" or back > 3:
        for _ in range(1 + dice.below(3)):
            trees.append(
                (
                    dice.uniform(0.1, 0.9) * length,
                    dice.uniform(0.8, 6.0) if kind == "park" else back / 2,
                    dice.uniform(4.0, 10.0) if kind == "park" else dice.uniform(1.5, 4.0),
                    dice.below(24),
                    dice.random(),
                )
            )
    front = (
        house_front(dice, length, height, wall, side_light, weather.dark) if built else np.zeros((1, 1, 3), np.uint8)
    )
    return Plot(
        kind=kind,
        near=number * world.pitch,
        length=length,
        side=side,
        line=lines.plot + back,
        height=height,
        roof=dice.uniform(1.5, 4.0) if height < 13 and dice.random() < 0.6 else 0.0,
        hedge=hedge,
        trees=tuple(sorted(trees, key=lambda tree: -tree[1])),
        front=front,
        end=times(scaled(wall, dice.uniform(0.8, 1.1)), face_light),
        tiles=times(any_colour(dice, 0.5, 40, 150), weather.light(-side * 0.6, 0.8, 0)),
    )


def paint_plot(canvas: Canvas, plot: Plot) -> None:
    z0, z1 = plot.near - canvas.here, plot.near - canvas.here + plot.length
    side, line, world = plot.side, plot.line, canvas.world
    inner = world.sides[(side + 1) // 2].plot
    if plot.kind == "house":
        u, back, tall = side * line, side * (line + 9.0), plot.height
        if plot.roof:
            ridge = (side * (line + 4.5), tall + plot.roof)
            if z0 > NEAR:
                canvas.face([(u, tall, z0), (ridge[0], ridge[1], z0), (back, tall, z0)], plot.end, Label.BUILDING)
            slope = [(u, tall, z0), (ridge[0], ridge[1], z0), (ridge[0], ridge[1], z1), (u, tall, z1)]
            canvas.face(slope, plot.tiles, Label.BUILDING)
        if z0 > NEAR:
            canvas.face([(x, y, z0) for x, y in rectangle(u, back, 0, tall)], plot.end, Label.BUILDING)
        canvas.wall(plot.front, z0, z1, lambda x, y: (u, y * tall, z0 + x * (z1 - z0)), Label.BUILDING)
    for along, behind, tall, sprite, hue in plot.trees:
        paint_tree(canvas, side * (inner + behind), z0 + along, tall, sprite, hue)
    if plot.hedge:
        u, back, tall = side * (inner + 0.2), side * (inner + 1.1), plot.hedge
        gain = world.weather.light(-side, 0, 0)
        leaves = mix(*world.hues, plot.height % 1.0)
        if z0 > NEAR:
            end = [(x, y, z0) for x, y in rectangle(u, back, 0, tall)]
            canvas.face(end, times(scaled(leaves, 0.75), gain), Label.VEGETATION)
        if tall < canvas.v:
            top = [(u, tall, z0), (back, tall, z0), (back, tall, z1), (u, tall, z1)]
            canvas.face(top, times(leaves, world.weather.light(0, 1, 0)), Label.VEGETATION)
        rows, columns = int(tall * 20), int(plot.length * 20)
        texture = tinted(grey_tiles()["leaves"][:rows, :columns], times(leaves, gain))
        canvas.wall(texture, z0, z1, lambda x, y: (u, y * tall, z0 + x * (z1 - z0)), Label.VEGETATION)
