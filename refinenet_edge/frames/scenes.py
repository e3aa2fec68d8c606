"""Drawn scenes -> frames: streets of their own by number, or a drive along each of them in turn."""

import time

from refinenet_edge.frames.address import Scenes
from refinenet_edge.frames.readers import Captured, CapturedFrames, Frames, LiveSource
from refinenet_edge.labels import SCENES
from refinenet_edge.scenes import World, render, scene

SECONDS = 20.0  # on each street


def frames_of(scenes: Scenes) -> Frames:
    """Each 512x512."""
    names = tuple(f"scene_{index:04d}" for index in range(scenes.count))
    return Frames(str(scenes), names, lambda index: scene(scenes.seed, index)[0])


def source_of(scenes: Scenes) -> LiveSource:
    """The streets with their truth, without end."""
    return LiveSource(str(scenes), lambda: _drive(scenes), live=False, lasting=True, labels=SCENES)


def _drive(scenes: Scenes) -> CapturedFrames:
    """By the clock: it moves as fast however often somebody looks."""
    start, street, world = time.monotonic(), -1, None
    while True:
        at = time.monotonic()
        now, t = divmod(at - start, SECONDS)
        if world is None or int(now) != street:
            street = int(now)
            world = World.draw((scenes.seed, street % scenes.count))
        frame, truth = render(world, t)
        yield Captured(frame, at, truth)
