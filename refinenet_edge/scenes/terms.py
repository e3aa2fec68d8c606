"""What every file here speaks of: points, colours, entropy, labels."""

from __future__ import annotations

import enum

Point = tuple[float, float]  # pixels
Point3 = tuple[float, float, float]  # u, v, z in metres, z ahead of the camera
Colour = tuple[float, float, float]  # BGR, 0..255
Entropy = tuple[int, ...]


def rectangle(left: float, right: float, bottom: float, top: float) -> list[Point]:
    """The corners, around it from the left one at the bottom."""
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


class Label(enum.IntEnum):
    """The classes of the truth, in the order of `labels.SCENES`."""

    SKY = 0
    BUILDING = 1
    ROAD = 2
    PAVEMENT = 3
    VEGETATION = 4
    VEHICLE = 5
    PERSON = 6
    POLE = 7
