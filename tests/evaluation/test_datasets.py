from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.evaluation import IGNORE, Unusable, open_dataset
from refinenet_edge.labels import CAMVID, CITYSCAPES, LABEL_SETS, NYU40, SCENES, VOC
from refinenet_edge.records import Labels
from refinenet_edge.scenes import VALIDATION, VALIDATION_COUNT, scene
from tests.evaluation import data
from tests.evaluation.data import COUNT, SIZE, png, predictions, truths, write

NYU_FOLDERS = ("val_images", "val_labels")

LAYOUTS = [
    pytest.param(data.voc, "", VOC, id="voc"),
    pytest.param(lambda root: data.voc(root, coloured=True), "", VOC, id="voc in colours"),
    pytest.param(lambda root: data.cityscapes(root, ids=False), "", CITYSCAPES, id="cityscapes train ids"),
    pytest.param(lambda root: data.cityscapes(root, ids=True), "", CITYSCAPES, id="cityscapes ids"),
    pytest.param(data.camvid, "", CAMVID, id="camvid"),
    pytest.param(lambda root: data.nyu40(root, ("a", "b"), listed=True), "", NYU40, id="nyu40 list"),
    pytest.param(lambda root: data.nyu40(root, NYU_FOLDERS), "", NYU40, id="nyu40 folders"),
    pytest.param(lambda root: data.nyu40(root, ("images", "masks")), "nyu40", NYU40, id="nyu40 images and masks"),
    pytest.param(
        lambda root: data.nyu40(root, ("images", "masks"), from_1=True), "nyu40-from1", NYU40, id="nyu40 from 1"
    ),
    pytest.param(data.context, "", LABEL_SETS["context"], id="context"),
    pytest.param(data.person, "", LABEL_SETS["person"], id="person"),
    pytest.param(data.ade150, "", LABEL_SETS["ade150"], id="ade150"),
    pytest.param(data.sun37, "sun37", LABEL_SETS["sun37"], id="sun37"),
    pytest.param(lambda root: data.plain(root, 7), "", None, id="plain"),
]


def as_made(root: Path) -> None:
    """The folder as it is."""


def from_windows(root: Path) -> None:
    """Lists as an editor there saves them: a mark before the first line, and two characters at the end of each."""
    for path in (*root.rglob("*.txt"), *root.rglob("*.nyu")):
        lines = path.read_text("utf-8").splitlines()
        path.write_bytes("".join(f"{line}\r\n" for line in lines).encode("utf-8-sig"))


def in_capitals(root: Path) -> None:
    """Endings as some cameras and tools write them."""
    for path in [*root.rglob("*.jpg"), *root.rglob("*.png")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    for path in root.rglob("*.nyu"):
        path.write_text(path.read_text("utf-8").replace(".png", ".PNG").replace(".jpg", ".JPG"), "utf-8")


@pytest.mark.parametrize("change", [as_made, from_windows, in_capitals])
@pytest.mark.parametrize(("make", "layout", "labels"), LAYOUTS)
def test_every_layout(
    tmp_path: Path,
    make: Callable[[Path], Path],
    layout: str,
    labels: Labels | None,
    change: Callable[[Path], None],
) -> None:
    text = f"{layout}:{make(tmp_path)}" if layout else str(make(tmp_path))
    change(tmp_path)
    dataset = open_dataset(text)
    assert dataset.labels == labels
    assert len(dataset.samples) == COUNT
    classes = len(labels.names) if labels else 7
    expected = {p.tobytes(): t for t, p in zip(truths(classes), predictions(classes), strict=True)}
    for sample in dataset.samples:
        frame, truth = sample.read()
        assert np.array_equal(truth, expected.pop(frame[:, :, 2].tobytes()))
        assert np.issubdtype(truth.dtype, np.integer)


@pytest.mark.parametrize(
    ("make", "layout", "ids"),
    [
        (data.voc, "voc", ["2007_000", "2007_001", "2007_002", "2007_003"]),
        (
            lambda root: data.cityscapes(root, ids=True),
            "cityscapes",
            ["aachen/aachen_1", "aachen/aachen_3", "lindau/lindau_0", "lindau/lindau_2"],
        ),
        (data.context, "context", ["2008_000", "2008_001", "2008_002", "2008_003"]),
        (data.person, "person", ["2008_000", "2008_001", "2008_002", "2008_003"]),
        (data.ade150, "ade150", [f"ADE_val_0000000{i}" for i in range(4)]),
        (data.camvid, "camvid", ["0016E5_0", "0016E5_1", "0016E5_2", "0016E5_3"]),
        (lambda root: data.plain(root, 7), "plain", ["s0", "s1", "s2", "s3"]),
        (
            lambda root: data.nyu40(root, NYU_FOLDERS, listed=True),
            "nyu40",
            [f"val_images/00000{i}" for i in range(4)],
        ),
    ],
)
def test_a_named_layout_is_the_recognised_one(
    tmp_path: Path, make: Callable[[Path], Path], layout: str, ids: list[str]
) -> None:
    make(tmp_path)
    recognised, named = open_dataset(str(tmp_path)), open_dataset(f"{layout}:{tmp_path}")
    assert recognised == named
    assert named.name == f"{layout}:{tmp_path}"
    assert [sample.id for sample in named.samples] == ids
    if layout != "plain":  # which has no splits here
        assert open_dataset(f"{tmp_path}:val").samples == named.samples


def test_masks_of_context_are_in_the_order_of_the_alphabet(tmp_path: Path) -> None:
    """mmsegmentation's numbers, of which the authors' classes are another order: a bag is 2 there, their 21."""
    sample = open_dataset(str(data.context(tmp_path))).samples[0]
    numbers = np.zeros(SIZE, int)
    numbers[0, :6] = [0, 1, 2, 3, 59, IGNORE]
    write(sample.mask, png(numbers))
    names = LABEL_SETS["context"].names
    _, truth = sample.read()
    assert [names[n] for n in truth[0, :5]] == ["background", "aeroplane", "bag", "bed", "wood"]
    assert truth[0, 5] == IGNORE
    assert (truth[0, 1], truth[0, 2]) == (1, 21)


def test_training_of_ade_is_the_split_train(tmp_path: Path) -> None:
    root = data.ade150(tmp_path)
    for folder, ending in (("images", "jpg"), ("annotations", "png")):
        write(root / folder / "training" / f"ADE_train_00000001.{ending}", b"")
    assert [s.id for s in open_dataset(f"{root}:train").samples] == ["ADE_train_00000001"]


def test_another_split(tmp_path: Path) -> None:
    dataset = open_dataset(f"voc:{data.voc(tmp_path)}:train")
    assert dataset.name == f"voc:{tmp_path}:train"
    assert [sample.id for sample in dataset.samples] == ["2007_000"]


def test_splits_of_a_plain_folder(tmp_path: Path) -> None:
    for split in ("val", "test"):
        for what in ("images", "masks"):
            write(tmp_path / what / split / f"{split}.png", png(np.zeros(SIZE)))
    assert [s.id for s in open_dataset(str(tmp_path)).samples] == ["val"]
    assert [s.id for s in open_dataset(f"{tmp_path}:test").samples] == ["test"]
    with pytest.raises(InputError, match=r"no folder .*train; name another split"):
        open_dataset(f"{tmp_path}:train")


def test_the_names_of_a_plain_folder(tmp_path: Path) -> None:
    write(data.plain(tmp_path, 2) / "labels.txt", b"cat\ndog\n")
    labels = open_dataset(str(tmp_path)).labels
    assert labels is not None
    assert labels.names == ("cat", "dog")


def test_a_colon_in_the_folders_name(tmp_path: Path) -> None:
    root = data.camvid(tmp_path / "cam:vid")
    assert len(open_dataset(str(root)).samples) == len(open_dataset(f"camvid:{root}:val").samples) == COUNT


def test_scenes() -> None:
    default, three = open_dataset("scenes"), open_dataset("scenes:5:3")
    assert [data.name for data in (default, three, open_dataset("scenes:5"))] == [
        f"scenes:{VALIDATION}:{VALIDATION_COUNT}",
        "scenes:5:3",
        f"scenes:5:{VALIDATION_COUNT}",
    ]
    assert [s.id for s in default.samples] == [f"{VALIDATION}/{i}" for i in range(VALIDATION_COUNT)]
    assert [s.id for s in three.samples] == ["5/0", "5/1", "5/2"]
    assert default.labels == three.labels == SCENES
    for found, expected in zip(three.samples[2].read(), scene(5, 2), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("text", ["scenes:", "scenes:5:", "scenes:-1:4", "scenes:1:2:3", "scenes:a:b", "scenes:1:0"])
def test_scenes_that_are_not(text: str) -> None:
    with pytest.raises(InputError, match="SEED:COUNT"):
        open_dataset(text)


def test_samples_travel_to_another_process(tmp_path: Path) -> None:
    for dataset in (open_dataset(str(data.voc(tmp_path))), open_dataset("scenes:1:2")):
        assert pickle.loads(pickle.dumps(dataset)) == dataset


@pytest.mark.parametrize("text", ["", "nothing", "voc:nothing", "nothing:val", ":", "voc:", "a\0b"])
def test_what_is_not_there(text: str) -> None:
    with pytest.raises(InputError, match="no data set at"):
        open_dataset(text)


def test_an_unknown_layout_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"voc has JPEGImages and SegmentationClass; .*plain has images and masks"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize(
    "layout", ["voc", "context", "person", "cityscapes", "camvid", "ade150", "plain", "nyu40", "nyu40-from1", "sun37"]
)
def test_a_named_layout_that_is_not_there(tmp_path: Path, layout: str) -> None:
    with pytest.raises(InputError, match="name another split: LAYOUT:PATH:SPLIT"):
        open_dataset(f"{layout}:{tmp_path}")


def test_a_split_is_a_plain_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'\.\./x' is no split"):
        open_dataset(f"{tmp_path}:../x")


@pytest.mark.parametrize("line", ["/etc/passwd", "../2007_000", "a/../../b", ".", "a\tb\0"])
def test_a_list_does_not_lead_out(tmp_path: Path, line: str) -> None:
    data.voc(tmp_path)
    write(tmp_path / "ImageSets" / "Segmentation" / "val.txt", line.encode())
    with pytest.raises(InputError, match="which is not a file in it"):
        open_dataset(str(tmp_path))


def test_lists_that_are_not(tmp_path: Path) -> None:
    voc = data.voc(tmp_path / "voc")
    listing = write(voc / "ImageSets" / "Segmentation" / "val.txt", b"2007_000\n2007_001\n2007_000\n")
    with pytest.raises(InputError, match="has 2007_000 twice"):
        open_dataset(str(voc))
    listing.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"val\.txt cannot be read"):
        open_dataset(str(voc))
    listing.write_bytes(b"\n\n")
    with pytest.raises(InputError, match="is empty"):
        open_dataset(str(voc))
    write(tmp_path / "val.nyu", b"only_an_image.png\n")
    with pytest.raises(InputError, match="is not an image, a tab and a mask"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize(
    "line", ["/JPEGImages/2007_00{}.jpg /SegmentationClass/2007_00{}.png", "2007_00{} 1", "2007_00{}  -1"]
)
def test_voc_lists_of_two_columns(tmp_path: Path, line: str) -> None:
    plain = open_dataset(str(data.voc(tmp_path)))
    lines = [line.format(*2 * [number]) for number in range(COUNT)]
    write(tmp_path / "ImageSets" / "Segmentation" / "val.txt", "\n".join(lines).encode())
    found = open_dataset(str(tmp_path)).samples
    assert [(s.image, s.mask) for s in found] == [(s.image, s.mask) for s in plain.samples]


@pytest.mark.parametrize("line", ["a.jpg b.png c.png", "a.jpg\tb.png\tc.png", "a b c d"])
def test_a_voc_line_of_something_else(tmp_path: Path, line: str) -> None:
    listing = write(data.voc(tmp_path) / "ImageSets" / "Segmentation" / "val.txt", f"2007_000\n{line}\n".encode())
    with pytest.raises(InputError, match=rf"list {listing}: .* is neither a name nor an image and a mask"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("line", ["{}", "{0} 1", "{0}.jpg\t{0}.png", "{0} a.png", "a {0}"])
def test_a_listed_name_that_no_file_can_have_is_one_that_is_missing(tmp_path: Path, line: str) -> None:
    listing = data.voc(tmp_path) / "ImageSets" / "Segmentation" / "val.txt"
    write(listing, f"2007_000\n{line.format('x' * 300)}\n".encode())
    good, missing = open_dataset(str(tmp_path)).samples
    good.read()
    with pytest.raises(Unusable, match="there is no"):
        missing.read()


@pytest.mark.parametrize(
    "line",
    ["a photo {}", "a photo {} -1", "a photo {}  1", "JPEGImages/a photo {}.jpg SegmentationClass/a photo {}.png"],
)
def test_voc_names_with_spaces(tmp_path: Path, line: str) -> None:
    plain = [sample.read() for sample in open_dataset(str(data.voc(tmp_path))).samples]
    for path in [*(tmp_path / "JPEGImages").iterdir(), *(tmp_path / "SegmentationClass").iterdir()]:
        path.rename(path.with_name(path.name.replace("2007_00", "a photo ")))
    lines = [line.format(*2 * [number]) for number in range(COUNT)]
    write(tmp_path / "ImageSets" / "Segmentation" / "val.txt", "\n".join(lines).encode())
    for found, expected in zip(open_dataset(str(tmp_path)).samples, plain, strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(found.read(), expected, strict=True))


@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".png"])
def test_voc_images_of_another_ending(tmp_path: Path, ending: str) -> None:
    data.voc(tmp_path)
    for path in (tmp_path / "JPEGImages").iterdir():
        path.rename(path.with_suffix(ending))
    assert [s.image.name for s in open_dataset(str(tmp_path)).samples] == [f"2007_00{n}{ending}" for n in range(COUNT)]
    for sample in open_dataset(str(tmp_path)).samples:
        assert sample.read()[0].shape == (*SIZE, 3)


@pytest.mark.parametrize("masks", ["labels", "annotations", "val/masks"])
@pytest.mark.parametrize("ending", ["", "_mask", "-seg", ".label"])
def test_plain_folders_as_people_call_them(tmp_path: Path, masks: str, ending: str) -> None:
    data.plain(tmp_path / "made", 7)
    images = tmp_path / masks.replace(masks.rpartition("/")[2], "images")
    images.parent.mkdir(exist_ok=True)
    (tmp_path / "made" / "images").rename(images)
    for path in sorted((tmp_path / "made" / "masks").iterdir()):
        write(tmp_path / masks / f"{path.stem}{ending}.png", path.read_bytes())
    dataset = open_dataset(str(tmp_path))
    assert (dataset.name, [sample.id for sample in dataset.samples]) == (f"plain:{tmp_path}", ["s0", "s1", "s2", "s3"])
    for sample, truth in zip(dataset.samples, truths(7), strict=True):
        assert np.array_equal(sample.read()[1], truth)


def test_names_that_have_nothing_in_common_say_what_helps(tmp_path: Path) -> None:
    data.plain(tmp_path, 3)
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_name(f"m{path.name}"))
    with pytest.raises(InputError, match=r"such as s0\.png and ms0\.png: name masks as their images, or all with"):
        open_dataset(str(tmp_path))


def test_two_images_of_one_stem(tmp_path: Path) -> None:
    data.plain(tmp_path, 3)
    write(tmp_path / "images" / "s1.jpg", b"")
    with pytest.raises(InputError, match=r"images has s1\.jpg and s1\.png"):
        open_dataset(str(tmp_path))


def test_one_without_the_other_is_a_sample(tmp_path: Path) -> None:
    data.plain(tmp_path, 3)
    (tmp_path / "images" / "s1.png").unlink()
    (tmp_path / "masks" / "s2.png").unlink()
    samples = open_dataset(str(tmp_path)).samples
    assert [s.id for s in samples] == ["s0", "s1", "s2", "s3"]
    for sample, said in ((samples[1], r"no image for .*s1\.png"), (samples[2], r"no mask for .*s2\.png")):
        with pytest.raises(Unusable, match=said) as caught:
            sample.read()
        assert caught.value.kind == "missing"


@pytest.mark.parametrize(
    ("layout", "number", "expected"),
    [
        ("voc", 21, "0..20, 255 is void"),
        ("camvid", 12, "0..10, 11 is void"),
        ("cityscapes", 34, "ids 0..33"),
        ("nyu40", 40, "nyu40-from1:PATH"),
        ("nyu40-from1", 255, "nyu40:PATH"),
        ("nyu40-from1", 41, "1..40, 0 is void"),
        ("context", 60, "0..59, 255 is void"),
        ("person", 7, "0..6, 255 is void"),
        ("ade150", 151, "1..150, 0 is void"),
        ("ade150", 255, "1..150, 0 is void"),
        ("sun37", 38, "1..37, 0 is void"),
        ("nyu40", 40_000, "0..39"),
    ],
)
def test_a_number_that_the_layout_does_not_have(tmp_path: Path, layout: str, number: int, expected: str) -> None:
    name = layout.partition("-")[0]
    make = {
        "voc": data.voc,
        "camvid": data.camvid,
        **{name: getattr(data, name) for name in ("context", "person", "ade150", "sun37")},
        "cityscapes": lambda root: data.cityscapes(root, ids=True),
        "nyu40": lambda root: data.nyu40(root, NYU_FOLDERS),
    }
    make[name](tmp_path)
    sample = open_dataset(f"{layout}:{tmp_path}").samples[0]
    numbers = np.full(SIZE, 1)
    numbers[3, 4] = number
    write(sample.mask, png(numbers, 0, 16))
    with pytest.raises(Unusable, match=rf"has label {number}; expected .*{expected}") as caught:
        sample.read()
    assert caught.value.kind == "label"


def test_a_colour_that_voc_does_not_have(tmp_path: Path) -> None:
    sample = open_dataset(str(data.voc(tmp_path, coloured=True))).samples[0]
    colours = data.VOC_COLOURS[np.ones(SIZE, int)]
    colours[0, 0] = (1, 2, 3)
    write(sample.mask, png(colours, 2))
    with pytest.raises(Unusable, match="has a colour; expected") as caught:
        sample.read()
    assert caught.value.kind == "label"
    colours[0, 0] = (224, 224, 192)
    write(sample.mask, png(colours, 2))
    assert sample.read()[1][0, :2].tolist() == [IGNORE, 1]


def test_colours_are_no_numbers(tmp_path: Path) -> None:
    data.plain(tmp_path, 3)
    write(tmp_path / "masks" / "s0.png", png(data.VOC_COLOURS[np.ones(SIZE, int)], 2))
    with pytest.raises(Unusable, match=r"s0\.png is a colour image"):
        open_dataset(str(tmp_path)).samples[0].read()


def test_a_stamp_follows_the_files(tmp_path: Path) -> None:
    sample = open_dataset(str(data.plain(tmp_path, 3))).samples[0]
    before = sample.stamp()
    assert sample.stamp() == before
    write(tmp_path / "masks" / "s0.png", png(np.zeros((3, 3))))
    changed = sample.stamp()
    assert changed != before
    (tmp_path / "masks" / "s0.png").unlink()
    assert sample.stamp() not in (before, changed)


def test_torch_and_onnx_are_not_needed() -> None:
    code = """
import sys
for heavy in ("torch", "onnx", "onnx_ir", "onnxscript", "rich", "click", "torchmetrics"):
    sys.modules[heavy] = None
import refinenet_edge.evaluation
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
