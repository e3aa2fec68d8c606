"""Materials: grey tiles (mean 128) and sensor noise, made once, coloured by each world."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from refinenet_edge.opencv import cv2
from refinenet_edge.scenes.terms import Colour

TILE = 768  # texels a side, all grey tiles


def _octaves(rng: np.random.Generator, cells: Sequence[int], weights: Sequence[float]) -> np.ndarray:
    """Periodic value noise, float32 TILE x TILE, mean 0 and deviation 1."""
    total = np.zeros((TILE, TILE), np.float32)
    for n, weight in zip(cells, weights, strict=True):
        grid = np.pad(rng.standard_normal((n, n)).astype(np.float32), 2, mode="wrap")
        step = TILE // n
        big = cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        total += weight * big[2 * step : 2 * step + TILE, 2 * step : 2 * step + TILE]
    normal: np.ndarray = (total - total.mean()) / total.std()
    return normal


def _grey(relief: np.ndarray, contrast: float) -> np.ndarray:
    return np.clip(128 + contrast * relief, 0, 255).astype(np.uint8)


@functools.cache
def grey_tiles() -> dict[str, np.ndarray]:
    """Grey uint8 tiles by name: cloud, asphalt, slabs, cobbles, grass, plaster, brick, leaves."""
    rng = np.random.default_rng(20_260_101)
    fine = _octaves(rng, (384, 192, 96), (1.0, 0.7, 0.4))
    broad = _octaves(rng, (6, 12, 24, 48), (1.0, 0.7, 0.4, 0.25))
    tiles = {
        "cloud": _grey(_octaves(rng, (3, 6, 12, 24, 48, 96), (1.0, 0.6, 0.4, 0.25, 0.15, 0.08)), 50),
        "asphalt": _grey(0.8 * fine + 0.6 * broad, 9),
        "plaster": _grey(0.4 * fine + 0.8 * broad, 9),
        "grass": _grey(fine + 0.8 * _octaves(rng, (48, 96), (1, 1)) + 0.5 * broad, 24),
        "leaves": _grey(0.7 * fine + 1.2 * _octaves(rng, (48, 96, 192), (1, 1, 0.7)), 40),
    }
    for name, (height, width), joint in (("slabs", (16, 24), 34), ("cobbles", (6, 8), 30), ("brick", (4, 12), 26)):
        blocks = rng.standard_normal((TILE // height, TILE // width)).astype(np.float32)
        relief = 9 * cv2.resize(blocks, (TILE, TILE), interpolation=cv2.INTER_NEAREST) + 7 * fine + 6 * broad
        relief[::height] -= joint
        for row in range(0, TILE, height):  # every other course is shifted by half a block
            relief[row : row + height, (row // height % 2) * width // 2 :: width] -= joint
        tiles[name] = _grey(relief, 1.0)
    return tiles


@functools.cache
def sensor_noise() -> np.ndarray:
    """Sensor noise around 128 with a deviation of 40, uint8 TILE x TILE x 3, partly shared by the channels."""
    rng = np.random.default_rng(20_260_102)
    shared = rng.standard_normal((TILE, TILE, 1), np.float32)
    own = rng.standard_normal((TILE, TILE, 3), np.float32)
    return _grey(0.7 * shared + 0.7 * own, 40)


def as_uint8(image: Any) -> np.ndarray:
    """What cv2 returned, for the type checker: its own stubs say integer or floating."""
    return np.asarray(image, np.uint8)


def tinted(tile: np.ndarray, colour: Colour) -> np.ndarray:
    """A grey tile in this colour, BGR uint8."""
    return as_uint8(cv2.multiply(cv2.merge([tile] * 3), np.array((*colour, 0)), scale=1 / 128))
