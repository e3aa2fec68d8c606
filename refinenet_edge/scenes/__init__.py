"""Street scenes out of a seed: a frame (BGR uint8, HxWx3) and its truth (labels uint8, HxW), at any size, without end.

    scene(seed, index, size)              an independent street: training, calibration, validation, tests
    render(World.draw(entropy), t, size)  what it is made of: a world, seen t seconds into a drive without end

A world is a road with everything beside it, in road coordinates and metres: `u` to the right, `v` up, `s` along the
road; the camera stands at s = speed * t and sees z = s - s_camera ahead. Nothing is stored: what stands in the k-th
metre cell is drawn from a generator seeded by (world, kind of thing, side, k), and traffic and people are cells that
move, so a frame is a pure function of (entropy, t) whatever was rendered before (byte for byte with the same versions
of numpy and OpenCV). Painter's algorithm: sky, ground with shadows and skyline, then every object from far to near;
each primitive paints frame and truth with the same polygon. What would be smaller than a few pixels is left out of
both. At the end the camera spoils the frame: blur, vignette, exposure, white balance, gamma, sensor noise, JPEG.

Colours say little here on purpose: walls, asphalt, clouds, cars and coats share the same greys and hues, under sun,
overcast, sunset, fog and dusk. So a network has to learn shapes; tests/test_scenes.py holds what colour alone reaches.

    terms.py       points, colours, labels, random streams    trees.py       crowns and trunks
    colours.py     drawn, mixed, lit                          fronts.py      textures of house fronts
    materials.py   grey tiles and sensor noise                buildings.py   plots: house, park, side street
    weather.py     light and air                              vehicles.py, people.py, posts.py
    world.py       entropy -> World: one street               placing.py     which things stand where
    canvas.py      projection; frame, truth and shadows       sky.py, ground.py   what lies behind the things
    rendering.py   render, scene; the camera
"""

from refinenet_edge.scenes.rendering import VALIDATION, VALIDATION_COUNT, render, scene
from refinenet_edge.scenes.terms import Label
from refinenet_edge.scenes.world import World

__all__ = ["VALIDATION", "VALIDATION_COUNT", "Label", "World", "render", "scene"]
