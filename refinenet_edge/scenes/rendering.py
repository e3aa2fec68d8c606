"""World + moment -> frame and truth; seed -> scenes and drives."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from refinenet_edge.scenes.camera import spoil
from refinenet_edge.scenes.canvas import Canvas
from refinenet_edge.scenes.dice import Dice, Kind
from refinenet_edge.scenes.ground import paint_ground
from refinenet_edge.scenes.placing import place_things
from refinenet_edge.scenes.shadows import Shadows
from refinenet_edge.scenes.sky import paint_sky, paint_skyline
from refinenet_edge.scenes.world import World

VALIDATION = 1_000_003  # the seed of the scenes that models are judged on: never train or calibrate on it
VALIDATION_COUNT = 200


def render(world: World, t: float, size: tuple[int, int] = (512, 512)) -> tuple[np.ndarray, np.ndarray]:
    """The world t seconds into the drive: frame BGR uint8 HxWx3 and truth uint8 HxW, both the caller's.

    size is (height, width) in pixels, each at least 16; ValueError otherwise.
    """
    if min(size) < 16:
        raise ValueError(f"a scene needs at least 16x16 pixels, got {size[0]}x{size[1]}")
    canvas = Canvas(world, t, size)
    shadows = Shadows(canvas)
    things = place_things(canvas, shadows)
    paint_sky(canvas)
    paint_ground(canvas, shadows)
    paint_skyline(canvas)
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint()
    return spoil(canvas), canvas.truth


def scene(seed: int, index: int, size: tuple[int, int] = (512, 512)) -> tuple[np.ndarray, np.ndarray]:
    """Scene `index` of the stream `seed` (both >= 0), a street of its own: frame BGR uint8 HxWx3, truth uint8 HxW."""
    world = World.draw((seed, index))
    return render(world, float(Dice(world.entropy, Kind.WORLD, 1).uniform(0, 60)), size)


def video_frame(
    seed: int, n: int, size: tuple[int, int] = (512, 512), fps: float = 30.0
) -> tuple[np.ndarray, np.ndarray]:
    """Frame n >= 0 of the drive `seed`: frame BGR uint8 HxWx3, truth uint8 HxW."""
    return render(_drive(seed), n / fps, size)


@functools.lru_cache(maxsize=8)
def _drive(seed: int) -> World:
    return World.draw((seed,))


def video(seed: int, size: tuple[int, int] = (512, 512), fps: float = 30.0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The drive `seed` from its start, without end."""
    n = 0
    while True:
        yield video_frame(seed, n, size, fps)
        n += 1
