"""Sky and skyline: all that is painted above the horizon, before any thing."""

import math

import numpy as np

from refinenet_edge.opencv import cv2
from refinenet_edge.scenes.canvas import Canvas
from refinenet_edge.scenes.colours import mix, scaled, times, wall_colour
from refinenet_edge.scenes.materials import TILE, grey_tiles
from refinenet_edge.scenes.terms import Dice, Kind, Label


def paint_sky(canvas: Canvas) -> None:
    """Gradient and clouds down to the horizon, at half the resolution."""
    height, width = canvas.size
    weather = canvas.world.weather
    rows = max(min(int(canvas.horizon + 0.008 * canvas.unit) + 2, height), 2)
    down = np.linspace(0, 1, max(rows // 2, 2), dtype=np.float32)[:, None, None]
    zenith, haze, white = (np.array(c, np.float32) for c in (weather.zenith, weather.haze, weather.cloud))
    sky = zenith + (haze - zenith) * down**1.4
    heading = math.atan(canvas.slope) + canvas.yaw
    scale = 500 / canvas.unit
    y, x = np.arange(len(sky), dtype=np.float32) * 2 * scale, np.arange(0, width, 2, dtype=np.float32) * scale
    maps = np.meshgrid((x + 500 * heading + 3 * canvas.t) % TILE, (y * (1.2 + y / 400)) % TILE)
    cloud = cv2.remap(grey_tiles()["cloud"], *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    weight = np.clip((cloud.astype(np.float32) - 128) / 70 + weather.cover * 0.6, 0, 1)[..., None] * 0.85
    clouded = sky + (white - sky) * weight
    canvas.frame[:rows] = cv2.resize(np.clip(clouded, 0, 255).astype(np.uint8), (width, rows))
    canvas.truth[:rows] = Label.SKY


def paint_skyline(canvas: Canvas) -> None:
    """Far blocks and trees that close the street, fixed to the compass."""
    width = canvas.size[1]
    weather, unit = canvas.world.weather, canvas.unit
    heading = (math.atan(canvas.slope) + canvas.yaw) * canvas.focal / unit
    foot = canvas.horizon + 0.014 * unit
    cell = 0.05
    air = 0.35 + 0.5 * (1 - math.exp(-200 * weather.fog))
    first = math.floor((heading - width / 2 / unit) / cell) - 1
    for number in range(first, first + int(width / unit / cell) + 4):
        dice = Dice(canvas.world.entropy, Kind.SKYLINE, number)
        x0 = canvas.centre + (number * cell - heading) * unit
        tall = unit * dice.uniform(0.02, 0.09)
        wide = unit * cell * dice.uniform(1.0, 1.5)
        if dice.random() < 0.45:
            leaves = times(mix(*canvas.world.hues, dice.random()), weather.light(0, 0.6, -0.4))
            angles = [i * 0.3142 for i in range(11)]
            arc = [(x0 + wide * (0.5 + 0.75 * math.cos(a)), foot - 0.75 * tall * math.sin(a)) for a in angles]
            canvas.fill(arc, mix(scaled(leaves, 0.85), weather.haze, air), Label.VEGETATION)
        else:
            wall = times(wall_colour(dice), weather.light(0, 0, -1))
            block = [(x0, foot), (x0, foot - tall), (x0 + wide, foot - tall), (x0 + wide, foot)]
            canvas.fill(block, mix(wall, weather.haze, air), Label.BUILDING)
