"""A world: one street, its lens and its two sides, drawn from entropy; nothing in it moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from refinenet_edge.scenes.colours import mix, scaled
from refinenet_edge.scenes.terms import Colour, Dice, Entropy, Kind
from refinenet_edge.scenes.weather import Weather


@dataclass(frozen=True)
class Lens:
    """What the camera does to the picture."""

    focal: float  # of the square root of the picture's area
    horizon: float  # of the height, from the top
    gain: Colour
    gamma: float
    vignette: float
    blur: float  # deviation, of 1/512 of the picture's size
    smear: float  # horizontal, the same unit
    noise: float
    quality: int

    @classmethod
    def draw(cls, dice: Dice) -> Lens:
        exposure = dice.uniform(0.85, 1.18)
        return cls(
            focal=dice.uniform(0.8, 1.15),
            horizon=dice.uniform(0.42, 0.56),
            gain=(exposure * dice.uniform(0.9, 1.1), exposure, exposure * dice.uniform(0.9, 1.1)),
            gamma=dice.uniform(0.78, 1.15),
            vignette=dice.uniform(0.0, 0.4),
            blur=dice.uniform(0.4, 0.9) if dice.random() < 0.8 else dice.uniform(0.9, 1.6),
            smear=dice.uniform(2, 5) if dice.random() < 0.15 else 0.0,
            noise=dice.uniform(1.0, 4.0) if dice.random() < 0.7 else dice.uniform(4.0, 10.0),
            quality=50 + dice.below(46),
        )


@dataclass(frozen=True)
class Side:
    """One side of the road, distances in metres from its middle outwards."""

    kerb: float  # the road (with its parking lane) ends
    walk: float  # the grass verge ends, the pavement begins
    plot: float  # the pavement ends
    parking: bool
    parked: float  # how many of the bays are taken, 0..1
    yard: bool  # paved ground behind the pavement instead of grass
    trees: float  # how many of the tree places are taken, 0..1
    built: float  # how many plots carry a house, 0..1


@dataclass(frozen=True, eq=False)
class World:
    """One street: all that does not depend on the moment. The rest is drawn from `entropy` where it is needed."""

    entropy: Entropy
    weather: Weather
    lens: Lens
    mirror: bool  # traffic on the left
    lane: float  # metres
    oncoming: int  # lanes
    along: int  # lanes
    sides: tuple[Side, Side]  # left, right
    pitch: float  # metres of street that one plot takes
    bends: tuple[tuple[float, float, float], ...]  # amplitude in metres, waves per metre, phase
    height: float  # of the camera, metres
    place: float  # of the camera, u in metres
    speed: float  # metres per second
    flow: float  # of traffic, 0..1
    crowd: float  # people, 0..1
    leader: float  # metres to the vehicle ahead, 0: none
    hues: tuple[Colour, Colour]  # of the leaves
    ground: tuple[Colour, Colour, Colour, Colour]  # asphalt, paving, kerb, grass
    paving: str
    marked: bool

    @property
    def half(self) -> float:
        """Half the width of the lanes, metres."""
        return self.lane * (self.oncoming + self.along) / 2

    @classmethod
    def draw(cls, entropy: Entropy) -> World:
        """The world of this entropy (non-negative integers)."""
        dice = Dice(entropy, Kind.WORLD)
        oncoming, along = ((0, 1), (1, 1), (1, 1), (1, 1), (1, 2))[dice.below(5)]
        lane = dice.uniform(2.7, 3.3)
        half = lane * (oncoming + along) / 2
        town = dice.uniform(0.5, 1.0)

        def side() -> Side:
            parking = dice.random() < 0.45
            kerb = half + (2.2 if parking else 0.15)
            walk = kerb + (dice.uniform(1.0, 2.0) if dice.random() < 0.3 else 0.0)
            return Side(
                kerb=kerb,
                walk=walk,
                plot=walk + dice.uniform(2.4, 5.0),
                parking=parking,
                parked=dice.uniform(0.2, 0.8),
                yard=dice.random() < 0.35,
                trees=dice.uniform(0.1, 0.75),
                built=min(max(town + dice.uniform(-0.2, 0.2), 0.25), 1.0),
            )

        season = dice.random()
        if season < 0.5:
            hues = ((60.0, 135.0, 95.0), (45.0, 100.0, 60.0))
        elif season < 0.75:
            hues = ((50.0, 140.0, 190.0), (45.0, 95.0, 165.0))
        elif season < 0.9:
            hues = ((70.0, 95.0, 100.0), (75.0, 105.0, 90.0))
        else:
            hues = ((175.0, 165.0, 200.0), (80.0, 150.0, 120.0))
        asphalt = dice.uniform(58, 140)
        paving = dice.uniform(75, 185)
        warm = dice.uniform(0.85, 1.06)
        straight = dice.random() < 0.35
        bends = []
        for length in (dice.uniform(280, 520), dice.uniform(120, 200)):
            wave = 2 * math.pi / length
            curvature = dice.uniform(0, 0.0008 if straight else 0.006) * (1.0 if length > 250 else 0.4)
            bends.append((curvature / wave**2, wave, dice.uniform(0, 2 * math.pi)))
        return cls(
            entropy=entropy,
            weather=Weather.draw(dice),
            lens=Lens.draw(dice),
            mirror=dice.random() < 0.5,
            lane=lane,
            oncoming=oncoming,
            along=along,
            sides=(side(), side()),
            pitch=dice.uniform(9, 17),
            bends=tuple(bends),
            height=dice.uniform(1.3, 2.4),
            place=half - lane * (0.5 + dice.below(along)) + dice.uniform(-0.3, 0.8),
            speed=dice.uniform(5, 11),
            flow=dice.uniform(0.25, 0.9),
            crowd=dice.uniform(0.45, 1.0),
            leader=dice.uniform(7, 26) if dice.random() < 0.65 else 0.0,
            hues=hues,
            ground=(
                (asphalt * dice.uniform(0.96, 1.08), asphalt, asphalt * dice.uniform(0.94, 1.04)),
                (paving * warm, paving, paving * (2.02 - warm)),
                scaled((paving, paving, paving), dice.uniform(0.8, 1.35)),
                mix(hues[dice.below(2)], (70.0, 120.0, 110.0), dice.uniform(0.2, 0.8)),
            ),
            paving=("slabs", "slabs", "cobbles", "brick", "asphalt")[dice.below(5)],
            marked=dice.random() < 0.8,
        )

    def middle(self, s: float) -> tuple[float, float]:
        """Where the road's middle is at s, and its slope: metres, metres per metre."""
        return (
            sum(a * math.sin(w * s + p) for a, w, p in self.bends),
            sum(a * w * math.cos(w * s + p) for a, w, p in self.bends),
        )
