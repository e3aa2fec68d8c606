"""The canvas: projection, the primitives that paint frame and truth alike, and the shadows that things drop before."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from refinenet_edge.opencv import cv2
from refinenet_edge.scenes.colours import mix, scaled
from refinenet_edge.scenes.terms import Colour, Label, Point, Point3, rectangle
from refinenet_edge.scenes.world import World

NEAR = 0.6  # metres: polygons are cut at this plane
SHIFT = 4  # cv2 polygons: sub-pixel bits


def fixed_point(points: Sequence[Point]) -> np.ndarray:
    """Pixels as cv2's polygons want them: int32 1xNx2 with SHIFT sub-pixel bits."""
    return np.rint(np.array(points) * (1 << SHIFT)).astype(np.int32)[None]


class Canvas:
    """A frame and its truth under the brush, seen by the world's camera at time t."""

    def __init__(self, world: World, t: float, size: tuple[int, int]) -> None:
        self.world, self.t, self.size = world, t, size
        height, width = size
        self.unit = math.sqrt(height * width)
        self.focal = world.lens.focal * self.unit
        self.here = world.speed * t
        self.origin, self.slope = world.middle(self.here)
        self._bends: dict[float, float] = {}
        self.yaw = 0.03 * math.sin(0.23 * t + 1.0)
        self.u = world.place + 0.25 * math.sin(0.31 * t)
        self.v = world.height + 0.02 * math.sin(2.1 * t)
        self.centre = width / 2
        self.horizon = height * (world.lens.horizon + 0.008 * math.sin(0.7 * t) + 0.002 * math.sin(3.1 * t))
        self.frame: np.ndarray = np.zeros((height, width, 3), np.uint8)
        self.truth: np.ndarray = np.zeros((height, width), np.uint8)

    def bend(self, z: float) -> float:
        """How far the road's middle has turned away at z, metres."""
        total = self._bends.get(z)
        if total is None:  # the corners of a thing share a few z
            s, total = self.here + z, -self.origin - self.slope * z
            for a, w, p in self.world.bends:
                total += a * math.sin(w * s + p)
            self._bends[z] = total
        return total

    def project(self, point: Point3) -> Point:
        """Pixels (x, y) of a point with z >= NEAR."""
        u, v, z = point
        scale = self.focal / z
        return (
            self.centre + scale * (u - self.u + self.bend(z)) - self.focal * self.yaw,
            self.horizon + scale * (self.v - v),
        )

    def outline(self, corners: Sequence[Point3]) -> list[Point]:
        """The projection of a flat polygon, cut at the near plane; empty when it is all behind."""
        if min(corner[2] for corner in corners) < NEAR:
            cut: list[Point3] = []
            for a, b in zip(corners, (*corners[1:], corners[0]), strict=True):
                if a[2] >= NEAR:
                    cut.append(a)
                if (a[2] < NEAR) != (b[2] < NEAR):
                    w = (NEAR - a[2]) / (b[2] - a[2])
                    cut.append((a[0] + w * (b[0] - a[0]), a[1] + w * (b[1] - a[1]), NEAR))
            corners = cut
        return [self.project(corner) for corner in corners]

    def air(self, colour: Colour, z: float) -> Colour:
        """A lit colour seen through z metres of air."""
        return mix(colour, self.world.weather.haze, 1 - math.exp(-z * self.world.weather.fog))

    def fill(self, points: Sequence[Point], colour: Colour, label: Label) -> None:
        """Paint a polygon given in pixels."""
        if len(points) < 3:
            return
        fixed = fixed_point(points)
        cv2.fillPoly(self.frame, fixed, colour, cv2.LINE_AA, SHIFT)
        cv2.fillPoly(self.truth, fixed, int(label), cv2.LINE_8, SHIFT)

    def face(self, corners: Sequence[Point3], colour: Colour, label: Label) -> None:
        """Paint a flat polygon of one lit colour."""
        depth = sum(corner[2] for corner in corners) / len(corners)
        self.fill(self.outline(corners), self.air(colour, max(depth, 0)), label)

    def wall(
        self, texture: np.ndarray, near: float, far: float, at: Callable[[float, float], Point3], label: Label
    ) -> None:
        """Paint a lit texture on the plane `at(along, up)`, along from near to far (in z), up from 0 (bottom) to 1."""
        start = max(near, NEAR)
        if start >= far:
            return
        a = (start - near) / (far - near)
        quad = np.array([self.project(at(x, y)) for x, y in rectangle(a, 1.0, 1.0, 0.0)], np.float32)
        height, width = self.size
        x0, y0 = np.maximum(np.floor(quad.min(0)), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(quad.max(0)) + 1, (width, height)).astype(int)
        if x0 >= x1 or y0 >= y1:
            return
        shrink = max((quad[2, 1] - quad[1, 1] + quad[3, 1] - quad[0, 1]) / 2 / texture.shape[0], 1e-3)
        if shrink < 0.6:  # a far wall: average texels first, so that windows do not flicker; whole factors are cheap
            factor = min(round(1 / shrink), *texture.shape[:2])
            rows, columns = (side // factor for side in texture.shape[:2])
            whole = texture[: rows * factor, : columns * factor]
            texture = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
        rows, columns = texture.shape[:2]
        source = np.array(rectangle(a * columns, columns, 0, rows), np.float32)
        corner = np.array([x0, y0], np.float32)
        matrix = cv2.getPerspectiveTransform(source - 0.5, quad - corner)
        box = (int(x1 - x0), int(y1 - y0))
        warped = cv2.warpPerspective(texture, matrix, box, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        veil = 1 - math.exp(-(start + far) / 2 * self.world.weather.fog)
        if veil > 0.01:
            haze = np.array((*scaled(self.world.weather.haze, veil), 0))
            warped = cv2.add(cv2.convertScaleAbs(warped, alpha=1 - veil), haze)
        mask = np.zeros((box[1], box[0]), np.uint8)
        fixed = np.rint((quad - corner) * (1 << SHIFT)).astype(np.int32)
        cv2.fillConvexPoly(mask, fixed, 255, cv2.LINE_8, SHIFT)
        cv2.copyTo(warped, mask, self.frame[y0:y1, x0:x1])
        cv2.fillConvexPoly(self.truth[y0:y1, x0:x1], fixed, int(label), cv2.LINE_8, SHIFT)

    def sprite(
        self, levels: Sequence[tuple[np.ndarray, np.ndarray]], box: tuple[float, float, float, float], table: np.ndarray
    ) -> None:
        """Paint a grey sprite as vegetation into box (left, top, right, bottom).

        levels are its sizes from large to small, (grey, mask) uint8 each; table (256x1x3) colours the greys.
        """
        height, width = self.size
        left, top, right, bottom = box
        x0, y0, x1, y1 = max(int(left), 0), max(int(top), 0), min(int(right) + 1, width), min(int(bottom) + 1, height)
        if x0 >= x1 or y0 >= y1:
            return
        level = 0
        while level + 1 < len(levels) and levels[level][0].shape[0] > 1.5 * max(right - left, bottom - top):
            level += 1
        grey, mask = levels[level]
        fx, fy = grey.shape[1] / (right - left), grey.shape[0] / (bottom - top)
        matrix = np.array([[fx, 0, (x0 - left) * fx], [0, fy, (y0 - top) * fy]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        grey = cv2.warpAffine(grey, matrix, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        mask = cv2.warpAffine(mask, matrix, (x1 - x0, y1 - y0), flags=flags)
        mask = cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY)[1]
        cv2.copyTo(cv2.LUT(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), table), mask, self.frame[y0:y1, x0:x1])
        self.truth[y0:y1, x0:x1][mask > 0] = Label.VEGETATION


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
