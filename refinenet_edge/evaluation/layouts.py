"""Folders in the layouts people have, in the order in which they are recognised.

    cityscapes     leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png; where that
                   is missing *_gtFine_labelIds.png, whose ids become train ids by the official table
    voc            JPEGImages/, SegmentationClass/ (palette, grey or VOC-coloured PNG), and the list
                   ImageSets/Segmentation/SPLIT.txt (a line: a name, or an image and a mask)
    context        JPEGImages/, SegmentationClassContext/, and the list ImageSets/SegmentationContext/SPLIT.txt, as
                   mmsegmentation makes them: 0 is background, 1..59 the other classes in the order of the alphabet,
                   which is not the authors'; masks in theirs, 0..59, are those of a plain folder
    person         JPEGImages/, pascal_person_part_gt/, and pascal_person_part_trainval_list/SPLIT_id.txt: 0..6, 255
                   is void
    ade150         images/ and annotations/ with training/ (the split train) and validation/ (val): 1..150, 0 is void
    nyu40          SPLIT.nyu (a line: image, tab, mask), or SPLIT_images/ and SPLIT_labels/, or, when the layout is
                   named, images/ and masks/; masks as the ports have them: 0..39, 255 is void
    camvid         SPLIT/ and SPLITannot/ as SegNet has them: 0..10, 11 is void
    plain          images/ and masks/ (or labels/ or annotations/) by stem, or images/SPLIT/ and masks/SPLIT/, or those
                   in SPLIT/; class numbers, 255 is void. labels.txt beside them names the classes, without it they are
                   those of what is evaluated
    nyu40-from1    the folders of nyu40 with masks as the authors have them: 1..40, 0 is void. Only when it is named:
                   the folders do not tell which of the two they hold
    sun37          the folders of nyu40 with SUN RGB-D's masks: 1..37, 0 is void. Only when it is named
    plain-from1    the folders of plain with masks of 1.., 0 and 255 are void. Only when it is named
    plain-binary   the folders of plain with masks of 0 and 255, which is class 1. Only when it is named

By stem: all masks may have an ending that their images do not, as in a_mask.png. A number that a layout does not have
is a mistake in the mask, not void.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from refinenet_edge.errors import InputError
from refinenet_edge.evaluation.confusion import IGNORE
from refinenet_edge.evaluation.samples import Coding, FileSample
from refinenet_edge.files import read_utf8
from refinenet_edge.frames.images import SUFFIXES, is_named_like, list_images
from refinenet_edge.labels import ADE150, CAMVID, CITYSCAPES, CONTEXT, NYU40, PERSON, SUN37, VOC
from refinenet_edge.records import Labels

SPLIT = "val"  # unless another is named
MASKS = ("masks", "labels", "annotations")  # what the folder beside images/ is called
MAX_LIST = 16 * 1024 * 1024  # bytes


def _kept(count: int) -> dict[int, int]:
    return {**{number: number for number in range(count)}, IGNORE: IGNORE}


def _from_1(count: int) -> dict[int, int]:
    return {0: IGNORE, **{number + 1: number for number in range(count)}}


# the official ids of the classes that are trained and evaluated, by train id
_EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_IDS = dict.fromkeys((*range(34), IGNORE), IGNORE) | {id_: train_id for train_id, id_ in enumerate(_EVALUATED)}

CITYSCAPES_TRAIN_IDS = Coding("train ids 0..18, 255 is void", _kept(19))
CITYSCAPES_IDS = Coding("Cityscapes ids 0..33", _IDS)
VOC_CODING = Coding("0..20, 255 is void, or their VOC colours", _kept(21), coloured=True)
NYU40_FROM_0 = Coding("0..39, 255 is void (1..40 with 0 void: nyu40-from1:PATH)", _kept(40))
NYU40_FROM_1 = Coding("1..40, 0 is void (0..39 with 255 void: nyu40:PATH)", _from_1(40))
_ALPHABET = {n: CONTEXT.names.index(name) for n, name in enumerate(sorted(CONTEXT.names[1:]), start=1)}
CONTEXT_CODING = Coding("0..59, 255 is void", {0: 0, IGNORE: IGNORE, **_ALPHABET})
PERSON_CODING = Coding("0..6, 255 is void", _kept(7))
ADE150_CODING = Coding("1..150, 0 is void", _from_1(150))
SUN37_CODING = Coding("1..37, 0 is void", _from_1(37))
PLAIN_FROM_1 = Coding("1..254, 0 and 255 are void", {IGNORE: IGNORE, **_from_1(254)})
PLAIN_BINARY = Coding("0 and 255, which is class 1", {0: 0, 255: 1})
CAMVID_CODING = Coding("0..10, 11 is void", _kept(11) | {11: IGNORE})


@dataclass(frozen=True)
class FolderLayout:
    """`has`: the names that recognise a folder, as alternatives; {} is the split.

    `labels` None: the layout does not say what the classes are. `samples(root, split)` lists a folder; split None: none
    was named.
    """

    has: tuple[tuple[str, ...], ...]
    labels: Labels | None
    samples: Callable[[Path, str | None], Iterable[FileSample]]

    def fits(self, root: Path, split: str) -> bool:
        return any(all((root / name.format(split)).exists() for name in names) for names in self.has)

    def __str__(self) -> str:
        return " or ".join(" and ".join(name.format("SPLIT") for name in names) for names in self.has)


def _cityscapes(root: Path, split: str | None) -> Iterable[FileSample]:
    images = _folder(root / "leftImg8bit" / (split or SPLIT))
    for image in sorted(images.glob("*/*_leftImg8bit.*")):
        if not is_named_like(image.name, SUFFIXES):
            continue
        stem, city = image.stem.removesuffix("_leftImg8bit"), image.parent.name
        truth = root / "gtFine" / images.name / city
        mask, coding = _png(truth / f"{stem}_gtFine_labelTrainIds"), CITYSCAPES_TRAIN_IDS
        if not mask.is_file():
            mask, coding = _png(truth / f"{stem}_gtFine_labelIds"), CITYSCAPES_IDS
        yield FileSample(f"{city}/{stem}", image, mask, coding)


def _png(stem: Path) -> Path:
    capitals = stem.with_name(f"{stem.name}.PNG")
    return capitals if os.path.isfile(capitals) else stem.with_name(f"{stem.name}.png")


def _voc(folder: str, lists: str, coding: Coding) -> Callable[[Path, str | None], Iterable[FileSample]]:
    """VOC's folders with the masks of `folder` and the lists `lists`, in which {} is the split."""

    def samples(root: Path, split: str | None) -> Iterable[FileSample]:
        images, masks = root / "JPEGImages", root / folder
        by_stem = [_stems(each) if each.is_dir() else {} for each in (images, masks)]
        listing = root / lists.format(split or SPLIT)
        for line in _lines(listing):
            name, *last = line.rsplit(maxsplit=1)
            there = any(line in known for known in by_stem)
            if not there and last and last[0] not in ("-1", "0", "1"):  # as in many forks: paths from the root on
                pair = _pair(line, root)
                if len(pair) != 2:
                    raise InputError(f"list {listing}: {line[:60]!r} is neither a name nor an image and a mask")
                image, mask = (_inside(one.strip().removeprefix("/"), root) for one in pair)
                yield FileSample(str(image.with_suffix("")), root / image, root / mask, coding)
                continue
            stem = str(_inside(line if there else name, root))
            image_file, mask_file = (known.get(stem) for known in by_stem)
            yield FileSample(stem, image_file or images / f"{stem}.jpg", mask_file or masks / f"{stem}.png", coding)

    return samples


def _ade150(root: Path, split: str | None) -> Iterable[FileSample]:
    folder = {"val": "validation", "train": "training"}.get(split or SPLIT, split or SPLIT)
    return _by_stem(root / "images" / folder, root / "annotations" / folder, ADE150_CODING)


def _nyu40(coding: Coding) -> Callable[[Path, str | None], Iterable[FileSample]]:
    def samples(root: Path, split: str | None) -> Iterable[FileSample]:
        wanted = split or SPLIT
        if (root / f"{wanted}.nyu").is_file():
            return _listed(root, root / f"{wanted}.nyu", coding)
        if (root / f"{wanted}_images").is_dir():
            return _by_stem(root / f"{wanted}_images", root / f"{wanted}_labels", coding)
        return _plain(root, split, coding)

    return samples


def _camvid(root: Path, split: str | None) -> Iterable[FileSample]:
    return _by_stem(root / (split or SPLIT), root / f"{split or SPLIT}annot", CAMVID_CODING)


def _plain(root: Path, split: str | None, coding: Coding | None = None) -> Iterable[FileSample]:
    if not (root / "images").is_dir() and (root / (split or SPLIT) / "images").is_dir():
        root, split = root / (split or SPLIT), None
    masks = next((root / name for name in MASKS if (root / name).is_dir()), root / MASKS[0])
    inside = split or (SPLIT if (root / "images" / SPLIT).is_dir() else "")
    return _by_stem(root / "images" / inside, masks / inside, coding)


def _by_stem(images: Path, masks: Path, coding: Coding | None) -> Iterable[FileSample]:
    """Every stem that has an image or a mask: one without the other is a sample that cannot be used, not none."""
    a = _stems(images)
    b = _without_ending(_stems(masks), a)
    if a and b and not a.keys() & b.keys():
        names = f"{next(iter(a.values())).name} and {next(iter(b.values())).name}"
        raise InputError(
            f"no image in {images} has the name of a mask in {masks}, such as {names}: name masks as their images, or "
            "all with the same ending, such as a_mask.png for a.jpg"
        )
    return [FileSample(stem, a.get(stem), b.get(stem), coding) for stem in sorted(a.keys() | b.keys())]


def _without_ending(masks: dict[str, Path], images: dict[str, Path]) -> dict[str, Path]:
    """`masks` by the stems of `images`, where each is called like its image with the same ending, such as _mask."""
    for stem in sorted(masks.keys() - images.keys()):
        for at in range(len(stem) - 1, 0, -1):
            ending = stem[at:]
            if stem[:at] in images and ending[0] in "_-." and all(name.endswith(ending) for name in masks):
                return {name.removesuffix(ending): path for name, path in masks.items()}
    return masks


def _stems(folder: Path) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for path in list_images(_folder(folder)):
        if images.setdefault(path.stem, path) != path:
            raise InputError(f"{folder} has {images[path.stem].name} and {path.name}: remove or rename one")
    return images


def _listed(root: Path, path: Path, coding: Coding) -> Iterable[FileSample]:
    for line in _lines(path):
        names = _pair(line, root)
        if len(names) < 2:
            raise InputError(f"list {path}: {line[:60]!r} is not an image, a tab and a mask")
        image, mask = (_inside(name, root) for name in names[:2])
        yield FileSample(str(image.with_suffix("")), root / image, root / mask, coding)


def _pair(line: str, root: Path) -> list[str]:
    """The image and the mask of a line, parted by a tab or a space; a space in a name is none between names."""
    if "\t" in line:
        return line.split("\t")
    words = line.split(" ")
    for place in range(1, len(words)):
        image, mask = " ".join(words[:place]), " ".join(words[place:])
        if len(words) > 2 and all(os.path.isfile(root / name.strip().removeprefix("/")) for name in (image, mask)):
            return [image, mask]
    return line.split()


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in read_utf8(path, MAX_LIST, "list").splitlines()]
    except InputError as exc:
        raise InputError(f"{exc}; name another split: LAYOUT:PATH:SPLIT") from exc
    return [line for line in lines if line]


def _inside(name: str, root: Path) -> PurePosixPath:
    """A listed name, which is untrusted: below `root`."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or not name.isprintable():
        raise InputError(f"{root} lists {name[:60]!r}, which is not a file in it")
    return path


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"there is no folder {path}; name another split: LAYOUT:PATH:SPLIT")
    return path


LAYOUTS = {
    "cityscapes": FolderLayout((("leftImg8bit", "gtFine"),), CITYSCAPES, _cityscapes),
    # before voc: VOC 2010's folder has both
    "context": FolderLayout(
        (("JPEGImages", "SegmentationClassContext"),),
        CONTEXT,
        _voc("SegmentationClassContext", "ImageSets/SegmentationContext/{}.txt", CONTEXT_CODING),
    ),
    "voc": FolderLayout(
        (("JPEGImages", "SegmentationClass"),),
        VOC,
        _voc("SegmentationClass", "ImageSets/Segmentation/{}.txt", VOC_CODING),
    ),
    "person": FolderLayout(
        (("JPEGImages", "pascal_person_part_gt"),),
        PERSON,
        _voc("pascal_person_part_gt", "pascal_person_part_trainval_list/{}_id.txt", PERSON_CODING),
    ),
    "ade150": FolderLayout((("images/validation", "annotations/validation"),), ADE150, _ade150),
    "nyu40": FolderLayout((("{}.nyu",), ("{}_images", "{}_labels")), NYU40, _nyu40(NYU40_FROM_0)),
    "camvid": FolderLayout((("{}", "{}annot"),), CAMVID, _camvid),
    "plain": FolderLayout(
        tuple((f"{split}images", f"{split}{name}") for split in ("", "{}/") for name in MASKS), None, _plain
    ),
    "nyu40-from1": FolderLayout((), NYU40, _nyu40(NYU40_FROM_1)),
    "sun37": FolderLayout((), SUN37, _nyu40(SUN37_CODING)),
    "plain-from1": FolderLayout((), None, functools.partial(_plain, coding=PLAIN_FROM_1)),
    "plain-binary": FolderLayout((), None, functools.partial(_plain, coding=PLAIN_BINARY)),
}
