"""Trees and bushes: grey crowns grown once, painted in the leaves' hues on a trunk."""

import functools
import math

import numpy as np

from refinenet_edge.opencv import cv2
from refinenet_edge.scenes.canvas import Canvas
from refinenet_edge.scenes.colours import mix, scaled, times
from refinenet_edge.scenes.materials import TILE, grey_tiles
from refinenet_edge.scenes.terms import Label


@functools.cache
def _crowns() -> tuple[tuple[tuple[np.ndarray, np.ndarray], ...], ...]:
    """Tree crowns and bushes, lit from above: (grey, mask) uint8 at 192, 96, 48 and 24 pixels a side."""
    rng = np.random.default_rng(20_260_103)
    leaves = grey_tiles()["leaves"]
    crowns = []
    for number in range(24):
        size, conifer = 192, number % 6 == 5
        grey = np.zeros((size, size), np.float32)
        mask = np.zeros((size, size), np.uint8)
        blobs = []
        for _ in range(int(rng.integers(60, 110))):
            if conifer:
                y = float(rng.uniform(0.06, 0.97))
                x = 0.5 + (0.04 + 0.36 * y) * float(rng.uniform(-1, 1))
                radius = 0.03 + 0.07 * y
            else:
                angle, far = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform(0, 1)) * 0.36
                x, y = 0.5 + far * math.cos(angle), 0.5 + far * math.sin(angle)
                radius = float(rng.uniform(0.06, 0.13))
            blobs.append((x, y, radius))
        for x, y, radius in sorted(blobs, key=lambda blob: -blob[1]):  # low blobs are behind and in the shade
            centre = (int(x * size * 16), int(y * size * 16))
            for shrink, light in ((1.0, -42), (0.78, -14), (0.5, 12)):
                less = (1 - shrink) * radius * size
                offset = (centre[0] - int(less * 5), centre[1] - int(less * 9))
                level = 128 + light + 70 * (0.5 - y) + float(rng.uniform(-12, 12))
                cv2.circle(grey, offset, int(radius * shrink * size * 16), level, -1, cv2.LINE_8, 4)
            cv2.circle(mask, centre, int(radius * size * 16), 255, -1, cv2.LINE_8, 4)
        top, left = rng.integers(0, TILE - size, 2)
        patch = leaves[top : top + size, left : left + size].astype(np.float32) - 128
        grey = np.clip(cv2.GaussianBlur(grey, (0, 0), 1.2) + 0.6 * patch, 0, 255).astype(np.uint8)
        edge = cv2.GaussianBlur(mask, (0, 0), 3).astype(np.float32) + 0.6 * patch  # leaves fray the outline
        mask = np.where(edge > 128, 255, 0).astype(np.uint8)
        sides = [(size >> level, size >> level) for level in range(4)]
        crowns.append(
            tuple(
                (cv2.resize(grey, to, None, 0, 0, cv2.INTER_AREA), cv2.resize(mask, to, None, 0, 0, cv2.INTER_AREA))
                for to in sides
            )
        )
    return tuple(crowns)


# the weights of three colour stops for each grey
_RAMPS = np.array([(max(1 - x, 0), 1 - abs(1 - x), max(x - 1, 0)) for x in np.linspace(0, 2, 256)])


def paint_tree(canvas: Canvas, u: float, z: float, tall: float, sprite: int, hue: float) -> None:
    """A trunk and a crown; a short one (below 4 m) is a bush."""
    if z < 1.2:
        return
    x, y = canvas.project((u, 0.0, z))
    scale = canvas.focal / z
    if not -tall * scale < x < canvas.size[1] + tall * scale:
        return
    bush = tall < 4
    trunk = 0.0 if bush else tall * (0.12 if sprite % 6 == 5 else 0.33)
    weather = canvas.world.weather
    if not bush:
        bark = canvas.air(times(mix((60.0, 75.0, 90.0), (120.0, 125.0, 125.0), hue), weather.light(0, 0, -1)), z)
        thick = tall * 0.022 * scale
        top = y - (trunk + 1.5) * scale
        points = [(x - thick, y), (x + thick, y), (x + 0.7 * thick, top), (x - 0.7 * thick, top)]
        canvas.fill(points, bark, Label.VEGETATION)
    wide = tall * (0.28 if sprite % 6 == 5 else 0.42 if not bush else 0.6)
    leaves = mix(*canvas.world.hues, hue)
    lit = times(leaves, weather.light(0, 1, 0))
    shade = times(scaled(leaves, 0.75), weather.ambient)
    stops = [canvas.air(c, z) for c in (scaled(shade, 0.3), shade, times(lit, (1.2, 1.2, 1.25)))]
    table = (_RAMPS @ np.array(stops)).astype(np.uint8)[:, None]
    box = (x - wide * scale, y - tall * scale, x + wide * scale, y - trunk * scale)
    canvas.sprite(_crowns()[sprite % 24], box, table)
