"""Small data sets in every layout, PNGs of every kind, and a segmenter that labels what it can see."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from refinenet_edge.evaluation import IGNORE
from refinenet_edge.labels import LABEL_SETS, voc_colour
from refinenet_edge.records import Bilinear, FrameSpec, Labels, TensorSpec
from refinenet_edge.runtime import FakeSession, Segmenter
from refinenet_edge.runtime.session import Feeds, Outputs

SIZE = (40, 60)
COUNT = 4
VOC_COLOURS = np.array([voc_colour(number) for number in range(256)], np.uint8)


def png(numbers: np.ndarray, colour: int = 0, depth: int = 8, *extra: tuple[bytes, bytes]) -> bytes:
    """`numbers` (HxW, or HxWx3 RGB) as PNG; `colour` 0 grey, 2 RGB, 3 palette; `extra` chunks before the pixels."""
    rows = numbers.reshape(len(numbers), -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        bits = np.unpackbits(rows.astype(np.uint8)[:, :, None], axis=2)[:, :, 8 - depth :]
        packed = np.packbits(bits.reshape(len(rows), -1), axis=1)
    header = struct.pack(">IIBBBBB", numbers.shape[1], numbers.shape[0], depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", body), (b"IEND", b"")]
    whole = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def palette(colours: np.ndarray = VOC_COLOURS) -> tuple[bytes, bytes]:
    return b"PLTE", colours.astype(np.uint8).tobytes()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def truths(classes: int, count: int = COUNT, seed: int = 5) -> list[np.ndarray]:
    """Truth maps with every class and some void."""
    rng = np.random.default_rng(seed)
    maps = [rng.integers(0, classes, SIZE).astype(np.uint8) for _ in range(count)]
    for truth in maps:
        truth[rng.random(SIZE) < 0.1] = IGNORE
    return maps


def predictions(classes: int, count: int = COUNT, seed: int = 5) -> list[np.ndarray]:
    """What the segmenter will say: right in about two pixels of three."""
    rng = np.random.default_rng(seed + 1)
    said = []
    for truth in truths(classes, count, seed):
        guess = rng.integers(0, classes, SIZE).astype(np.uint8)
        said.append(np.where((rng.random(SIZE) < 0.65) & (truth != IGNORE), truth, guess).astype(np.uint8))
    return said


def frame(prediction: np.ndarray) -> bytes:
    """The image that makes `seer` predict it: the class in the red channel, noise in the others."""
    image = np.random.default_rng(0).integers(0, 256, (*prediction.shape, 3), np.uint8)
    image[:, :, 2] = prediction
    return bytes(cv2.imencode(".png", image)[1].tobytes())


def seer(labels: Labels | str, size: tuple[int, int] | None = None, requests: int = 1) -> Segmenter:
    """A segmenter that reads the class from the red channel, at the frame's size."""
    chosen = LABEL_SETS[labels] if isinstance(labels, str) else labels
    classes = len(chosen.names)

    def see(feeds: Feeds) -> Outputs:
        red = np.rint(feeds["image"][0, 0] * 255)
        return {"logits": (red == np.arange(classes)[:, None, None]).astype(np.float32)[None]}

    sides: tuple[int | str, int | str] = size or ("height", "width")
    image, logits = (TensorSpec(n, "float32", (1, c, *sides)) for n, c in (("image", 3), ("logits", classes)))
    spec = FrameSpec(size, upsample=Bilinear(), mean=(0, 0, 0), std=(1, 1, 1))
    return Segmenter.from_session(FakeSession(see, (image,), (logits,), requests), spec, chosen)


def plain(root: Path, classes: int, count: int = COUNT) -> Path:
    """images/ and masks/."""
    for i, (truth, prediction) in enumerate(zip(truths(classes, count), predictions(classes, count), strict=True)):
        write(root / "images" / f"s{i}.png", frame(prediction))
        write(root / "masks" / f"s{i}.png", png(truth))
    return root


def voc(root: Path, coloured: bool = False) -> Path:
    for i, (truth, prediction) in enumerate(zip(truths(21), predictions(21), strict=True)):
        # a JPEG would change the classes in the red channel; the name says .jpg, as VOC's do
        write(root / "JPEGImages" / f"2007_00{i}.jpg", frame(prediction))
        mask = png(VOC_COLOURS[truth], 2) if coloured else png(truth, 3, 8, palette())
        write(root / "SegmentationClass" / f"2007_00{i}.png", mask)
    names = "".join(f"2007_00{i} \n" for i in range(COUNT))
    write(root / "ImageSets" / "Segmentation" / "val.txt", names.encode() + b"\n")
    write(root / "ImageSets" / "Segmentation" / "train.txt", b"2007_000\n")
    return root


def cityscapes(root: Path, ids: bool) -> Path:
    official = np.full(256, 4, np.uint8)  # 4: static, which is void
    official[:19] = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    for i, (truth, prediction) in enumerate(zip(truths(19), predictions(19), strict=True)):
        city = ("lindau", "aachen")[i % 2]
        write(root / "leftImg8bit" / "val" / city / f"{city}_{i}_leftImg8bit.png", frame(prediction))
        if ids:
            mask = png(official[truth])
        else:
            mask = png(truth)
            write(root / "gtFine" / "val" / city / f"{city}_{i}_gtFine_labelIds.png", b"not looked at")
        kind = "labelIds" if ids else "labelTrainIds"
        write(root / "gtFine" / "val" / city / f"{city}_{i}_gtFine_{kind}.png", mask)
    return root


def camvid(root: Path) -> Path:
    for i, (truth, prediction) in enumerate(zip(truths(11), predictions(11), strict=True)):
        write(root / "val" / f"0016E5_{i}.png", frame(prediction))
        write(root / "valannot" / f"0016E5_{i}.png", png(np.where(truth == IGNORE, 11, truth)))
    return root


def nyu40(root: Path, folders: tuple[str, str], listed: bool = False, from_1: bool = False) -> Path:
    lines = []
    for i, (truth, prediction) in enumerate(zip(truths(40), predictions(40), strict=True)):
        image, mask = (f"{folder}/{i:06d}.png" for folder in folders)
        write(root / image, frame(prediction))
        numbers = np.where(truth == IGNORE, 0, truth.astype(int) + 1) if from_1 else truth
        write(root / mask, png(numbers, 0, 16 if from_1 else 8))
        lines.append(f"{image}\t{mask}\n")
    if listed:
        write(root / "val.nyu", "".join(lines).encode())
    return root


def context(root: Path) -> Path:
    """VOC 2010 as mmsegmentation makes it, its masks in the order of the alphabet; VOC's own masks are there, too."""
    names = LABEL_SETS["context"].names
    numbers = np.array([0, *(1 + sorted(names[1:]).index(name) for name in names[1:])])
    for i, (truth, prediction) in enumerate(zip(truths(60), predictions(60), strict=True)):
        write(root / "JPEGImages" / f"2008_00{i}.JPG", frame(prediction))
        mask = np.where(truth == IGNORE, IGNORE, numbers[np.minimum(truth, 59)])
        write(root / "SegmentationClassContext" / f"2008_00{i}.png", png(mask))
    (root / "SegmentationClass").mkdir()
    listing = "".join(f"2008_00{i}\r\n" for i in range(COUNT))
    write(root / "ImageSets" / "SegmentationContext" / "val.txt", listing.encode())
    return root


def person(root: Path) -> Path:
    for i, (truth, prediction) in enumerate(zip(truths(7), predictions(7), strict=True)):
        write(root / "JPEGImages" / f"2008_00{i}.jpg", frame(prediction))
        write(root / "pascal_person_part_gt" / f"2008_00{i}.png", png(truth, 3, 8, palette()))
    listing = "\r\n".join(f"2008_00{i}" for i in range(COUNT))
    write(root / "pascal_person_part_trainval_list" / "val_id.txt", listing.encode())
    return root


def ade150(root: Path) -> Path:
    for i, (truth, prediction) in enumerate(zip(truths(150), predictions(150), strict=True)):
        stem = f"validation/ADE_val_0000000{i}"
        write(root / "images" / f"{stem}.jpg", frame(prediction))
        write(root / "annotations" / f"{stem}.png", png(np.where(truth == IGNORE, 0, truth.astype(int) + 1)))
    for folder in ("images", "annotations"):
        (root / folder / "training").mkdir()
    return root


def sun37(root: Path) -> Path:
    lines = []
    for i, (truth, prediction) in enumerate(zip(truths(37), predictions(37), strict=True)):
        names = f"images/img-00000{i}.jpg", f"labels/img-00000{i}.png"
        write(root / names[0], frame(prediction))
        write(root / names[1], png(np.where(truth == IGNORE, 0, truth.astype(int) + 1)))
        lines.append(" ".join(names))
    write(root / "val.nyu", "\r\n".join(lines).encode())
    return root
