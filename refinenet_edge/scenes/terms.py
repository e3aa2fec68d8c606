"""What every file here speaks of: points, colours, entropy, labels."""

from __future__ import annotations

import enum

Point = tuple[float, float]  # pixels
Point3 = tuple[float, float, float]  # u, v, z in metres, z ahead of the camera
Colour = tuple[float, float, float]  # BGR, 0..255
Entropy = tuple[int, ...]


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
