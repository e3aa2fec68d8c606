"""Shadows: what stands on the ground darkens it before it is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from refinenet_edge.opencv import cv2
from refinenet_edge.scenes.canvas import SHIFT, Canvas, fixed_point
from refinenet_edge.scenes.terms import Point


class Shadows:
    """The light on the ground, uint8 255 where the sky is free; objects darken it before they are drawn."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.mask = np.full(canvas.size, 255, np.uint8)
        self.deep = int(255 * canvas.world.weather.shadow)
        self.cast = canvas.world.weather.cast

    def drop(self, ground: Sequence[Point], level: int | None = None) -> None:
        """Darken a polygon of the ground, (u, z) in metres."""
        points = self.canvas.outline([(u, 0, z) for u, z in ground])
        if len(points) >= 3:
            fixed = fixed_point(points)
            cv2.fillPoly(self.mask, fixed, self.deep if level is None else level, cv2.LINE_8, SHIFT)

    def box(self, u0: float, u1: float, z0: float, z1: float, height: float) -> None:
        """The shadow of a block standing on u0..u1, z0..z1."""
        du, ds = self.cast[0] * height, self.cast[1] * height
        base = [(u0, z0), (u1, z0), (u1, z1), (u0, z1)]
        points = np.array([*base, *((u + du, z + ds) for u, z in base)], np.float32)
        hull = cv2.convexHull(points)[:, 0]
        self.drop([(float(u), float(z)) for u, z in hull])

    def disc(self, u: float, z: float, radius: float, height: float) -> None:
        """The shadow of a ball at this height."""
        u, z = u + self.cast[0] * height, z + self.cast[1] * height
        self.drop([(u + radius * math.cos(a), z + radius * math.sin(a)) for a in np.linspace(0, 6.283, 12)])
