from __future__ import annotations

import itertools

import numpy as np

from refinenet_edge.frames import open_frames, open_source, parse
from refinenet_edge.labels import SCENES
from refinenet_edge.scenes import scene


def test_scenes_by_number() -> None:
    frames = open_frames(parse("scenes:5:3"))
    assert (frames.source, frames.names) == ("scenes:5:3", ("scene_0000", "scene_0001", "scene_0002"))
    assert np.array_equal(frames.read(1), scene(5, 1)[0])


def test_the_largest_seed_is_drawn() -> None:
    seed = 10**18 - 1
    assert np.array_equal(open_frames(parse(f"scenes:{seed}:1")).read(0), scene(seed, 0)[0])
    assert next(open_source(f"scenes:{seed}:1").frames()).frame.shape == (512, 512, 3)


def test_scenes_move_and_know_their_truth() -> None:
    source = open_source("scenes:3:2")
    first, second = itertools.islice(source.frames(), 2)
    assert not source.live and source.lasting and source.labels == SCENES
    assert first.truth is not None and first.truth.shape == first.frame.shape[:2]
    assert second.at > first.at
    # the same street a moment later, how long depends on the machine: it has moved, and is not another
    other = next(open_source("scenes:4:2").frames())
    alike = [np.mean(first.truth == frame.truth) for frame in (second, other)]
    assert np.any(first.frame != second.frame) and alike[0] > alike[1]
