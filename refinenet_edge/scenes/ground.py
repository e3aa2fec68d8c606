"""The ground: road, pavement and grass with their relief, marks and shadows."""

import functools
import math

import numpy as np

from refinenet_edge.opencv import cv2
from refinenet_edge.scenes.buildings import plot_at
from refinenet_edge.scenes.canvas import SHIFT, Canvas, Shadows, fixed_point
from refinenet_edge.scenes.colours import mix, scaled, times
from refinenet_edge.scenes.materials import TILE, grey_tiles
from refinenet_edge.scenes.terms import Colour, Dice, Kind, Label
from refinenet_edge.scenes.world import World

_HALF = 24.0  # metres: the ground is described for |u| < _HALF
_FINE = 40  # entries per metre across the road, for colour and label
_COARSE = 24  # texels per metre of the ground's relief


@functools.lru_cache(maxsize=8)
def _ground(world: World) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Across the road from -_HALF to _HALF: colours (1xNx3), labels (1xN), and the relief (grey TILE x M)."""
    light = world.weather.light(0, 1, 0)
    count = int(2 * _HALF * _FINE)
    u = (np.arange(count) + 0.5) / _FINE - _HALF
    colours = np.zeros((count, 3), np.float32)
    labels = np.zeros(count, np.uint8)
    relief = np.full((TILE, int(2 * _HALF * _COARSE)), 128, np.uint8)
    asphalt, paving, kerb, grass = world.ground
    tiles = grey_tiles()

    def strip(near: float, far: float, side: int, colour: Colour, label: Label, tile: str | None) -> None:
        inside = (u * side >= near) & (u * side < far)
        colours[inside], labels[inside] = colour, label
        if tile:
            a, b = sorted((side * near, side * far))
            left, right = int((a + _HALF) * _COARSE), int((b + _HALF) * _COARSE)
            columns = np.arange(left, right) % TILE
            relief[:, left:right] = tiles[tile][:, columns]

    for side, lines in zip((-1, 1), world.sides, strict=True):
        strip(0, lines.kerb, side, asphalt, Label.ROAD, "asphalt")
        strip(lines.kerb - 0.25, lines.kerb, side, scaled(asphalt, 0.8), Label.ROAD, None)
        strip(lines.kerb, lines.plot, side, paving, Label.PAVEMENT, world.paving)
        strip(lines.kerb, lines.kerb + 0.18, side, kerb, Label.PAVEMENT, None)
        if lines.walk > lines.kerb:
            strip(lines.kerb + 0.18, lines.walk, side, grass, Label.VEGETATION, "grass")
        if lines.yard:
            strip(lines.plot, _HALF, side, scaled(paving, 0.9), Label.PAVEMENT, world.paving)
        else:
            strip(lines.plot, _HALF, side, grass, Label.VEGETATION, "grass")
        if world.marked and lines.parking:
            paint = mix(asphalt, (225.0, 228.0, 230.0), 0.7)
            strip(world.half - 0.06, world.half + 0.06, side, paint, Label.ROAD, None)
    lit = np.clip(colours * np.array(light), 0, 255).astype(np.uint8)
    return lit[None], labels[None], relief


def paint_ground(canvas: Canvas, shadows: Shadows) -> None:
    """The plane below the horizon: colour and label by u, relief, marks and patches, shadows, then the air."""
    world, (height, width) = canvas.world, canvas.size
    first = min(max(int(canvas.horizon + 0.008 * canvas.unit) + 1, 0), height - 1)
    z = (canvas.focal * canvas.v / (np.arange(first, height) + 0.5 - canvas.horizon)).astype(np.float32)
    bend = sum(a * np.sin(w * (z + canvas.here) + p) for a, w, p in world.bends) - canvas.origin - canvas.slope * z
    columns = (np.arange(width, dtype=np.float32) + 0.5 - canvas.centre + canvas.focal * canvas.yaw)[None]
    u = (columns * (z / canvas.focal)[:, None] + (canvas.u - bend)[:, None]).astype(np.float32)
    # at the mouth of a side street the carriageway runs on to the side
    number = np.floor((z + canvas.here) / world.pitch).astype(int)
    grain = u.copy()  # where the relief is taken from
    for side in (-1, 1):
        inner = world.sides[(side + 1) // 2].kerb - 0.8
        for cell in range(int(number.min()), min(int(number.max()), int(number.min()) + 12) + 1):
            plot = plot_at(world, side, cell)
            if plot.kind == "street":
                rows = (number == cell) & (z + canvas.here - plot.near < plot.length)
                over = np.maximum(u[rows] * side - inner, 0)
                u[rows] -= side * over
                grain[rows] -= side * (over + over % inner)
    colours, labels, relief = _ground(world)
    zeros = np.zeros_like(u)
    across = np.clip((u + _HALF) * _FINE - 0.5, 0, colours.shape[1] - 1)
    frame = cv2.remap(colours, across, zeros, cv2.INTER_NEAREST)
    canvas.frame[first:] = frame
    canvas.truth[first:] = cv2.remap(labels, across, zeros, cv2.INTER_NEAREST)
    _paint_marks(canvas)

    s = ((z + canvas.here) * _COARSE).astype(np.float64)
    map_y = np.ascontiguousarray(np.broadcast_to((s % TILE).astype(np.float32)[:, None], u.shape))
    map_x = np.clip((grain + _HALF) * _COARSE, 0, relief.shape[1] - 1)
    coarse = cv2.remap(relief, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    fine_y = np.ascontiguousarray(np.broadcast_to(((s * 4) % TILE).astype(np.float32)[:, None], u.shape))
    fine = cv2.remap(grey_tiles()["asphalt"], map_x * 4, fine_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    # relief fades before it is finer than a pixel
    texel = z * z / (canvas.focal * canvas.v)
    fade = np.clip(0.25 / texel, 0, 1)[:, None].astype(np.float32)
    fade_fine = np.clip(0.04 / texel, 0, 1)[:, None].astype(np.float32)
    light = 128 + (coarse.astype(np.float32) - 128) * fade + (fine.astype(np.float32) - 128) * fade_fine
    grey = cv2.multiply(
        np.clip(light, 0, 255).astype(np.uint8),
        cv2.GaussianBlur(shadows.mask[first:], (0, 0), max(canvas.unit / 512, 0.3)),
        scale=1 / 255,
    )
    ground = cv2.multiply(canvas.frame[first:], cv2.merge([grey] * 3), scale=1 / 128)
    clear = np.exp(-z * world.weather.fog)[:, None, None]
    keep = np.broadcast_to(255 * clear, ground.shape).astype(np.uint8)
    veil = np.broadcast_to(np.array(world.weather.haze) * (1 - clear), ground.shape).astype(np.uint8)
    canvas.frame[first:] = cv2.add(cv2.multiply(ground, keep, scale=1 / 255), veil)


def _paint_marks(canvas: Canvas) -> None:
    """Lane dashes, zebra crossings and patched asphalt; all of it is road."""
    world, here = canvas.world, canvas.here
    gain = world.weather.light(0, 1, 0)
    paint = times(mix(world.ground[0], (228.0, 232.0, 234.0), 0.75), gain)

    def put(u0: float, u1: float, z0: float, z1: float, colour: Colour) -> None:
        points = canvas.outline([(u0, 0, z0), (u1, 0, z0), (u1, 0, z1), (u0, 0, z1)])
        if len(points) >= 3:
            fixed = fixed_point(points)
            cv2.fillPoly(canvas.frame, fixed, colour, cv2.LINE_AA, SHIFT)

    for number in range(math.floor(here / 9), math.ceil((here + 45) / 9)):
        dice = Dice(world.entropy, Kind.PATCH, number)
        if dice.random() < 0.35:
            u, z = dice.uniform(-0.8, 0.5) * world.half, number * 9 - here
            tone = times(scaled(world.ground[0], dice.uniform(0.6, 1.25)), gain)
            put(u, u + dice.uniform(0.6, 2.2), z, z + dice.uniform(0.6, 5.0), tone)
    if not world.marked:
        return
    lanes = world.oncoming + world.along
    for number in range(math.floor(here / 8), math.ceil((here + 60) / 8)):
        z = number * 8 - here
        for lane in range(1, lanes):
            u = lane * world.lane - world.half
            length = 8.0 if lane == world.oncoming and lanes > 2 else 3.5
            put(u - 0.07, u + 0.07, z, z + length, paint)
    for number in range(math.floor(here / 52), math.ceil((here + 60) / 52)):
        z = (number + 0.5) * 52 - here
        for bar in range(int(2 * world.half)):
            put(bar - world.half + 0.25, bar - world.half + 0.75, z, z + 3.5, paint)
