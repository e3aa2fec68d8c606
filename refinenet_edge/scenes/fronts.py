"""House fronts as textures: floors of windows, a shop or a door, a cornice."""

import numpy as np

from refinenet_edge.opencv import cv2
from refinenet_edge.scenes.colours import any_colour, mix, scaled
from refinenet_edge.scenes.materials import TILE, as_uint8, grey_tiles, tinted
from refinenet_edge.scenes.terms import Colour, Dice, Point


def _window_row(texture: np.ndarray, dice: Dice, rows: Point, span: float, style: dict[str, float], dark: bool) -> None:
    """Paint one floor's windows into rows (top, bottom)."""
    width = texture.shape[1]
    top, bottom = rows
    count = max(int(width / span), 1)
    frame = any_colour(dice, 0.2, 60, 240)
    glass = mix((150.0, 140.0, 125.0), (45.0, 42.0, 40.0), style["glass"])
    for number in range(count):
        x = (number + 0.5) * width / count
        x0, x1 = int(x - span * style["wide"] / 2), int(x + span * style["wide"] / 2)
        cv2.rectangle(texture, (x0 - 1, int(top) - 1), (x1 + 1, int(bottom) + 1), frame, -1)
        if dark and dice.random() < 0.4:
            pane = mix((120.0, 190.0, 240.0), (90.0, 130.0, 170.0), dice.random())
        else:
            pane = scaled(glass, dice.uniform(0.65, 1.3))
        cv2.rectangle(texture, (x0, int(top)), (x1, int(bottom)), pane, -1)
        if style["cross"]:
            cv2.line(texture, (int(x), int(top)), (int(x), int(bottom)), frame, 1)
        if style["sill"]:
            cv2.line(texture, (x0 - 2, int(bottom) + 2), (x1 + 2, int(bottom) + 2), scaled(frame, 1.1), 2)


def house_front(dice: Dice, length: float, height: float, wall: Colour, gain: Colour, dark: bool) -> np.ndarray:
    """A lit house front, uint8 BGR at 14 texels a metre: wall, floors of windows, a shop or a door, a cornice."""
    texels = 14
    width, rows = max(int(length * texels), 8), max(int(height * texels), 8)
    relief = grey_tiles()[("brick", "plaster", "plaster", "slabs")[dice.below(4)]]
    top, left = dice.below(TILE - rows), dice.below(TILE - width)
    texture = tinted(relief[top : top + rows, left : left + width], wall)
    floor = dice.uniform(2.7, 3.6) * texels
    style = {
        "wide": dice.uniform(0.35, 0.85),
        "cross": float(dice.random() < 0.5),
        "sill": float(dice.random() < 0.5),
        "glass": dice.uniform(0.1, 1.0),
    }
    span, tall, shop = dice.uniform(1.5, 3.4) * texels, dice.uniform(0.45, 0.7), dice.random() < 0.45
    base = rows - floor
    if shop:
        band = any_colour(dice, 0.7, 40, 200)
        cv2.rectangle(texture, (0, int(base)), (width, rows), any_colour(dice, 0.4, 40, 170), -1)
        cv2.rectangle(texture, (0, int(base)), (width, int(base + 0.18 * floor)), band, -1)
        display = {**style, "wide": 0.85, "sill": 0.0}
        _window_row(texture, dice, (base + 0.26 * floor, rows - 0.14 * floor), span * 1.4, display, dark)
    else:
        _window_row(texture, dice, (base + 0.25 * floor, base + 0.72 * floor), span, style, dark)
        door = dice.uniform(0.1, 0.9) * width
        paint = any_colour(dice, 0.8, 30, 150)
        cv2.rectangle(texture, (int(door - 8), int(rows - 0.78 * floor)), (int(door + 8), rows), paint, -1)
    while base - floor > -0.35 * floor:
        base -= floor
        panes = (base + (1 - tall) * 0.5 * floor, base + (1 + tall) * 0.5 * floor)
        _window_row(texture, dice, panes, span, style, dark)
    cv2.rectangle(texture, (0, 0), (width, max(int(0.25 * texels), 2)), scaled(wall, 0.75), -1)
    return as_uint8(cv2.multiply(texture, np.array((*gain, 0))))
