"""The camera spoils the frame: blur, vignette, exposure, white balance, gamma, noise, JPEG."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refinenet_edge.opencv import cv2
from refinenet_edge.scenes.canvas import Canvas
from refinenet_edge.scenes.dice import Dice, Kind
from refinenet_edge.scenes.materials import TILE, as_uint8, sensor_noise


def spoil(canvas: Canvas) -> np.ndarray:
    """The frame as a camera would give it: blur, vignette, exposure, white balance, gamma, noise, JPEG."""
    lens, (height, width) = canvas.world.lens, canvas.size
    frame: Any = cv2.GaussianBlur(canvas.frame, (0, 0), max(lens.blur * canvas.unit / 512, 0.3))
    if lens.smear:
        frame = cv2.blur(frame, (2 * int(lens.smear * canvas.unit / 1024) + 1, 1))
    level = np.arange(256, dtype=np.float64) / 255
    table = np.stack([np.clip((level * gain) ** lens.gamma, 0, 1) * 255 for gain in lens.gain], 1)
    frame = cv2.LUT(frame, table.round().astype(np.uint8)[None])
    if lens.vignette > 0.05:
        y, x = (np.linspace(-1, 1, n, dtype=np.float32) ** 2 for n in (height, width))
        dim = 1 - lens.vignette * 0.5 * (y[:, None] + x[None])
        frame = cv2.multiply(frame, cv2.merge([(dim * 255).astype(np.uint8)] * 3), scale=1 / 255)
    dice = Dice(canvas.world.entropy, Kind.GRAIN, round(canvas.t * 1000))
    top, left = dice.below(max(TILE - height, 0) + 1), dice.below(max(TILE - width, 0) + 1)
    grain: Any = sensor_noise()[top : top + height, left : left + width]
    if grain.shape[:2] != (height, width):
        grain = np.tile(sensor_noise(), (math.ceil(height / TILE), math.ceil(width / TILE), 1))[:height, :width]
    if dice.random() < 0.5:
        grain = cv2.flip(grain, dice.below(3) - 1)
    share = lens.noise / 40
    frame = cv2.addWeighted(frame, 1.0, grain, share, -128 * share)
    if canvas.world.mirror:
        frame, canvas.truth = cv2.flip(frame, 1), as_uint8(cv2.flip(canvas.truth, 1))
    packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, lens.quality])[1]
    return as_uint8(cv2.imdecode(packed, cv2.IMREAD_COLOR))
