"""docs/demo.jpg: what `make demo` leaves in demo-out, as one picture.

    make demo && python benchmarks/collage.py

Above the photos of people that stand, below the one that sits and the first two drawn streets.
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np

from refinenet_edge.frames.images import read_image
from refinenet_edge.records import Frame

ROOT = Path(__file__).parents[1]
WIDTH = 900
QUALITY = 88


def row(paths: list[Path]) -> Frame:
    """The pictures beside each other, as high as each other, `WIDTH` wide."""
    pictures = [read_image(path) for path in paths]
    height = round(WIDTH / sum(picture.shape[1] / picture.shape[0] for picture in pictures))
    ends = np.cumsum([picture.shape[1] / picture.shape[0] * height for picture in pictures]).round().astype(int)
    widths = np.diff(ends, prepend=0)
    widths[-1] += WIDTH - ends[-1]
    sizes = [(int(width), height) for width in widths]
    scaled = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p, size in zip(pictures, sizes, strict=True)]
    return np.concatenate(scaled, axis=1)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=ROOT / "demo-out")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs/demo.jpg")
def main(folder: Path, out: Path) -> None:
    """Put the overlays of FOLDER into one picture."""
    people = sorted((folder / "people").glob("*_overlay.jpg"))
    standing = [path for path in people if read_image(path).shape[0] > 1.2 * read_image(path).shape[1]]
    sitting = [path for path in people if path not in standing]
    streets = sorted((folder / "scenes").glob("*_overlay.jpg"))[:2]
    picture = np.concatenate([row(standing), row([*sitting, *streets])])
    out.write_bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    print(f"{out}: {picture.shape[0]}x{picture.shape[1]}")


if __name__ == "__main__":
    main()
