"""What every file here speaks of: points, colours, labels, and a small random stream for each thing of each world."""

import enum

Point = tuple[float, float]  # pixels
Point3 = tuple[float, float, float]  # u, v, z in metres, z ahead of the camera
Colour = tuple[float, float, float]  # BGR, 0..255
Entropy = tuple[int, ...]
_WORD = (1 << 64) - 1


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


class Kind(enum.IntEnum):
    """What a random stream is for: the second number of its entropy, so that streams never meet."""

    WORLD = 0
    PLOT = 1
    TREE = 2
    POST = 3
    PARKED = 4
    TRAFFIC = 5
    PERSON = 6
    CROSSING = 7
    SKYLINE = 8
    PATCH = 9
    GRAIN = 10


class Dice:
    """A splitmix64 stream for one thing of one world.

    A frame needs some hundred small streams of a few numbers each; making a numpy Generator for each would cost a
    third of the frame's time. `where` may be negative (cells behind the start).
    """

    __slots__ = ("state",)

    def __init__(self, entropy: Entropy, kind: Kind, *where: int) -> None:
        self.state = 0
        for number in (*entropy, kind, *where):
            self.state = (self.state ^ (number & _WORD)) * 0xD1342543DE82EF95 & _WORD
            self.state = self.bits()

    def bits(self) -> int:
        """The next 64 random bits."""
        self.state = z = (self.state + 0x9E3779B97F4A7C15) & _WORD
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
        return z ^ (z >> 31)

    def random(self) -> float:
        """Uniform in [0, 1)."""
        return (self.bits() >> 11) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def below(self, count: int) -> int:
        """A whole number in 0..count-1."""
        return int(self.random() * count)
