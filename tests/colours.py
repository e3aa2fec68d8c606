"""How far apart colours are: CIEDE2000, also as people see them who lack one kind of cone."""

from __future__ import annotations

from typing import Any

import numpy as np

# what a colour, linear RGB, looks like to those without one kind of cone: Machado, Oliveira and Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", 2009, severity 1.0
SEEN_BY = {
    "all cones": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "no long ones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no middle ones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no short ones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
WHITE = (0.95047, 1.0, 1.08883)  # D65


def lab(rgb: Any, who: str = "all cones") -> Any:
    """CIELAB of sRGB colours (..., 3) in 0..255, as one of `SEEN_BY` sees them."""
    share = np.asarray(rgb, float) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(SEEN_BY[who]), 0, 1)
    t = linear @ np.array(XYZ).T / WHITE
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def ciede2000(first: Any, second: Any) -> Any:
    """The distance of CIELAB colours (..., 3), by Sharma, Wu and Dalal 2005."""
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(np.asarray(side, float), -1, 0) for side in (first, second))
    g = 0.5 * (1 - np.sqrt(_sevenths((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0
    turn = np.where(grey, 0, (h2 - h1 + 180) % 360 - 180)
    turn = np.where((turn == -180) & (h2 > h1), 180, turn)
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    across = np.where(np.abs(h1 - h2) <= 180, 0, np.where(h1 + h2 < 360, 180, -180))
    hue = np.where(grey, h1 + h2, (h1 + h2) / 2 + across)
    t = (
        1
        - 0.17 * np.cos(np.radians(hue - 30))
        + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6))
        - 0.20 * np.cos(np.radians(4 * hue - 63))
    )
    light = (l2 - l1) / (1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2))
    strong = (c2 - c1) / (1 + 0.045 * chroma)
    turned = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2) / (1 + 0.015 * chroma * t)
    rotation = -np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2)))) * 2 * np.sqrt(_sevenths(chroma))
    return np.sqrt(light**2 + strong**2 + turned**2 + rotation * strong * turned)


def _sevenths(chroma: Any) -> Any:
    return chroma**7 / (chroma**7 + 25.0**7)
