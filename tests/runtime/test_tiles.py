from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from refinenet_edge.bundle import MODEL, Bundle, open_bundle, write_bundle
from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.labels import numbered
from refinenet_edge.records import (
    Bilinear,
    Cubic,
    FrameSpec,
    Interpolation,
    Manifest,
    Mask,
    Profile,
    Recipe,
    Size,
    TensorSpec,
    Tiles,
    from_json,
    to_json,
)
from refinenet_edge.runtime import FakeSession, Segmenter, head
from refinenet_edge.runtime.session import Feeds, Outputs
from refinenet_edge.runtime.tiles import _starts
from tests.runtime.test_segmenter import RANGE, colour_session, plain

CLASSES = 6
REACH = 4 + 8 + 1  # pixels that a label depends on, at most, in each direction: of `toy`, and what upsampling adds
OVERLAP = 64  # more than four times as much
SEEN = FrameSpec(None, upsample=Bilinear(), mean=(0, 0, 0), std=(1, 1, 1), scale=1.0)


def toy(size: Size | None) -> onnx.ModelProto:
    """Two convolutions, the second at a quarter of the size: whole numbers, so that float32 is exact."""
    height, width = size or ("height", "width")
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 20]>
        toy (float[1,3,{height},{width}] image) => (float[1,{CLASSES},h,w] logits)
        {{
            small = Conv <strides = [4,4], pads = [1,1,1,1]> (image, first)
            positive = Relu (small)
            logits = Conv <pads = [1,1,1,1]> (positive, second)
        }}
    """)
    rng = np.random.default_rng(11)
    for name, shape in (("first", (8, 3, 3, 3)), ("second", (CLASSES, 8, 3, 3))):
        model.graph.initializer.append(numpy_helper.from_array(rng.integers(-3, 4, shape).astype(np.float32), name))
    onnx.checker.check_model(model, full_check=True)
    return model


def toy_bundle(path: Path, size: Size | None, upsample: Interpolation = SEEN.upsample, **fields: Any) -> Bundle:
    sides: Any = size or ("height", "width")
    frame = FrameSpec(size, SEEN.resize, upsample, SEEN.mean, SEEN.std, SEEN.scale)
    inputs = (TensorSpec("image", "float32", (1, 3, *sides)),)
    outputs = (TensorSpec("logits", "float32", (1, CLASSES, "h", "w")),)
    manifest = Manifest(
        "toy", "random", None, "fp32", "openvino", inputs, outputs, frame, numbered(CLASSES), {}, (),
        Recipe("toy", onnx="toy.onnx"), "0", **fields,
    )  # fmt: skip
    write_bundle(path, manifest, {MODEL: toy(size).SerializeToString()})
    return open_bundle(path)


def picture(*size: int) -> npt.NDArray[np.uint8]:
    """Patches and noise: many labels, and seams anywhere would show."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (-(-size[0] // 16), -(-size[1] // 16), 3))
    patches = np.kron(coarse, np.ones((16, 16, 1)))[: size[0], : size[1]]
    return np.clip(patches + rng.integers(-40, 41, (*size, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(params=["c++", "numpy"])
def maker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the labels."""
    if request.param == "numpy":
        monkeypatch.setattr(head, "_head", None)


@pytest.mark.usefixtures("maker")
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("upsample", [Bilinear(True), Bilinear(False), Cubic()], ids=["corners", "half", "cubic"])
@pytest.mark.parametrize("size", [(448, 320), (333, 497), (96, 700)], ids=["even", "odd", "low"])
def test_free_sides_give_the_labels_of_the_whole(
    tmp_path: Path, backend: str, upsample: Interpolation, size: Size
) -> None:
    bundle, frame = toy_bundle(tmp_path / "toy", None, upsample), picture(*size)
    with Segmenter(bundle, backend, confidence=True) as segmenter:
        whole = segmenter.segment(frame)
    tiles = Tiles((128, 160), OVERLAP)
    with Segmenter(bundle, backend, confidence=True, inference=tiles) as segmenter:
        found = segmenter.segment(frame)
    assert np.array_equal(found.labels, whole.labels)
    assert np.array_equal(found.confidence, whole.confidence)
    assert len(np.unique(whole.labels)) == CLASSES
    assert segmenter.inference == tiles


@pytest.mark.usefixtures("maker")
@pytest.mark.parametrize("size", [(448, 320), (333, 497)], ids=["even", "odd"])
def test_a_fixed_size_gives_the_labels_of_the_whole_away_from_the_padding(tmp_path: Path, size: Size) -> None:
    frame = picture(*size)
    with Segmenter(toy_bundle(tmp_path / "free", None)) as segmenter:
        whole = segmenter.segment(frame).labels
    with Segmenter(toy_bundle(tmp_path / "fixed", (128, 160)), inference=Tiles((128, 160), OVERLAP)) as segmenter:
        found = segmenter.segment(frame).labels
    kept = tuple(slice(None, None if side % 32 == 0 else side - REACH) for side in size)
    assert np.array_equal(found[kept], whole[kept])


def test_a_small_overlap_has_seams(tmp_path: Path) -> None:
    # what the tests above would see
    bundle, frame = toy_bundle(tmp_path / "toy", None), picture(384, 320)
    with Segmenter(bundle) as one, Segmenter(bundle, inference=Tiles((128, 160), 0)) as other:
        differs = np.argwhere(one.segment(frame).labels != other.segment(frame).labels)
    assert len(differs) > 0.001 * 384 * 320
    down, across = (
        abs(differs[:, axis, None] - seams).min(axis=1)
        for axis, seams in ((0, np.array([128, 256])), (1, np.array([160])))
    )
    assert np.minimum(down, across).max() <= REACH


def test_a_frame_within_a_tile_is_one(tmp_path: Path) -> None:
    frame = picture(90, 100)
    free = toy_bundle(tmp_path / "free", None)
    with Segmenter(free) as whole, Segmenter(free, inference=Tiles((128, 160))) as tiled:
        known = whole.segment(frame).labels
        assert np.array_equal(tiled.segment(frame).labels, known)
    with Segmenter(toy_bundle(tmp_path / "fixed", (128, 160)), inference=Tiles((128, 160))) as fixed:
        found = fixed.segment(frame).labels
    assert np.array_equal(found[: 90 - REACH, : 100 - REACH], known[: 90 - REACH, : 100 - REACH])


def test_a_tensorrt_engine_has_no_seams_either(make_plan: Callable[..., Bundle], make_gpu: Any, tmp_path: Path) -> None:
    bundle = make_plan(make_gpu(), info={"profile": Profile((32, 32), (64, 64), (512, 512))}, size=None)
    frame = picture(224, 160)
    with Segmenter(bundle, "onnxruntime") as whole, Segmenter(bundle, inference=Tiles((96, 96), 32)) as tiled:
        agreement = (whole.segment(frame).labels == tiled.segment(frame).labels).mean()
        assert agreement > 0.999  # its convolution is summed up in another order


def test_tiles_are_told_one_by_one(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    bundle = toy_bundle(tmp_path / "toy", None)
    with Segmenter(
        bundle, inference=Tiles((128, 160), OVERLAP), progress=lambda done, tiles: told.append((done, tiles))
    ) as segmenter:
        segmenter.segment(picture(448, 320))
    assert told == [(n, 18) for n in range(1, 19)]  # from 0, 64 ... 320 down, 0, 96 and 160 across


@pytest.mark.parametrize(
    ("length", "side", "overlap", "starts"),
    [
        (100, 128, 64, [0]),
        (128, 128, 64, [0]),
        (129, 128, 64, [0, 32]),
        (512, 128, 0, [0, 128, 256, 384]),
        (512, 128, 1, [0, 96, 192, 288, 384]),
        (520, 128, 64, [0, 64, 128, 192, 256, 320, 384, 416]),
        (300, 100, 20, [0, 64, 128, 192, 224]),
    ],
)
def test_where_tiles_begin(length: int, side: int, overlap: int, starts: list[int]) -> None:
    assert _starts(length, side, overlap) == starts
    assert all(b - a <= side - overlap for a, b in itertools.pairwise(starts))
    assert starts[-1] + side >= length


def strided(stride: int, classes: int = CLASSES) -> FakeSession:
    """Every `stride`-th pixel's colours as logits."""
    image = TensorSpec("image", "float32", (1, 3, "height", "width"))
    logits = TensorSpec("logits", "float32", (1, classes, "h", "w"))

    def run(feeds: Any) -> Any:
        return {"logits": np.concatenate([feeds["image"][:, :, ::stride, ::stride]] * classes, 1)[:, :classes]}

    return FakeSession(run, (image,), (logits,))


def test_memory_does_not_grow_with_the_height() -> None:
    peaks = []
    for height in (512, 2048):
        frame = np.zeros((height, 256, 3), np.uint8)
        session = strided(4, 21)
        with Segmenter.from_session(session, SEEN, numbered(21), inference=Tiles((128, 128), 32)) as segmenter:
            segmenter.segment(frame[:256])
            tracemalloc.start()
            mask = segmenter.segment(frame)
            peaks.append(tracemalloc.get_traced_memory()[1] - mask.labels.nbytes)
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 21 * 4 * 512 * 64  # less than half of the whole frame's logits


def test_streams_stages_and_memory_of_the_callers(tmp_path: Path) -> None:
    frame = picture(200, 200)
    with Segmenter(toy_bundle(tmp_path / "toy", None), inference=Tiles((96, 96), 32)) as segmenter:
        mask = segmenter.segment(frame)
        staged, ms = segmenter.staged(frame)
        assert list(ms) == ["tiles"]
        assert np.array_equal(staged.labels, mask.labels)
        assert np.array_equal(next(segmenter.segment_stream([frame])).labels, mask.labels)
        assert np.array_equal(segmenter.segment(frame, segmenter.new_labels(200, 200)).labels, mask.labels)


def test_a_fixed_size_is_that_of_the_tiles(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"takes 128x160 only \(height x width\): --tiles that"):
        Segmenter(toy_bundle(tmp_path / "toy", (128, 160)), inference=Tiles((160, 128)))


def test_a_tile_is_in_the_engines_range(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "toy", None, engine=RANGE)
    with (
        Segmenter(bundle, "openvino", inference=Tiles((96, 96), 0)) as segmenter,
        pytest.raises(InputError, match="this engine takes 32x32 to 64x128"),
    ):
        segmenter.segment(picture(200, 200))
    with Segmenter(bundle, "openvino", inference=Tiles((64, 96), 0)) as segmenter:
        segmenter.segment(picture(200, 200))


def test_logits_that_cannot_be_put_together() -> None:
    with (
        Segmenter.from_session(strided(3), SEEN, numbered(CLASSES), inference=Tiles((96, 96), 0)) as segmenter,
        pytest.raises(BundleError, match="the fake session: logits of 32x32 for a tile of 96x96 pixels"),
    ):
        segmenter.segment(picture(200, 200))


@pytest.mark.usefixtures("maker")
def test_logits_that_are_not_finite() -> None:
    session = strided(4)
    session._handler = lambda feeds: {"logits": np.full((1, CLASSES, 24, 24), np.nan, np.float32)}
    with (
        Segmenter.from_session(session, SEEN, numbered(CLASSES), inference=Tiles((96, 96), 0)) as segmenter,
        pytest.raises(BundleError, match="are not all finite"),
    ):
        segmenter.segment(picture(192, 192))


def test_another_number_of_classes() -> None:
    with (
        Segmenter.from_session(colour_session(), plain(), numbered(5), inference=Tiles((96, 96), 0)) as segmenter,
        pytest.raises(BundleError, match="3 classes, labels 'numbered' has 5"),
    ):
        segmenter.segment(picture(192, 192))


@pytest.mark.parametrize(
    ("size", "overlap", "problem"),
    [((16, 64), 0, "32 to 16384 a side"), ((64, 64), 33, "by 0 to 32 pixels, not 33"), ((64, 64), -1, "not -1")],
)
def test_tiles_that_cannot_be(size: Size, overlap: int, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        Tiles(size, overlap)


@pytest.mark.parametrize(("size", "overlap"), [((2048, 1024), 256), ((512, 512), 256), ((96, 120), 48), ((32, 48), 0)])
def test_how_far_tiles_overlap_without_a_number(size: Size, overlap: int) -> None:
    assert Tiles(size) == Tiles(size, overlap)
    assert from_json(Tiles, to_json(Tiles(size))) == Tiles(size, overlap)


def test_what_the_network_sees_beyond_the_overlap_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Labels of a tile follow how bright it is as a whole."""
    session = strided(4)

    def run(feeds: Any) -> Any:
        image = feeds["image"]
        scores = -np.abs(np.arange(CLASSES) * 40 - image.mean())
        size = image.shape[2] // 4, image.shape[3] // 4
        return {"logits": np.broadcast_to(scores[None, :, None, None], (1, CLASSES, *size)).astype(np.float32)}

    session._handler = run
    halves = np.zeros((128, 384, 3), np.uint8)
    halves[:, 192:] = 255  # five tiles: two are dark, one is both, two are bright
    with Segmenter.from_session(session, SEEN, numbered(CLASSES), inference=Tiles((128, 128), 64)) as segmenter:
        segmenter.segment(halves)
        segmenter.segment(halves)
    (said,) = caplog.messages
    assert said.startswith("where two tiles meet, 50.0 % of their labels differ: the network sees further than an")


def test_nothing_is_said_where_tiles_give_the_labels_of_the_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Segmenter(toy_bundle(tmp_path / "toy", None), inference=Tiles((128, 160), OVERLAP)) as segmenter:
        segmenter.segment(picture(448, 320))
    assert not caplog.messages


@pytest.mark.parametrize(("frames", "runs"), [(1, 12), (2, 6), (3, 6), (4, 3), (8, 3)])
def test_tiles_of_a_row_go_into_a_network_of_several_together(frames: int, runs: int) -> None:
    """Three rows of four."""
    fed: list[npt.NDArray[np.float32]] = []

    def handler(feeds: Feeds) -> Outputs:
        fed.append(feeds["image"])
        return {"logits": feeds["image"].copy()}

    specs = [TensorSpec(name, "float32", (frames, 3, 64, 64)) for name in ("image", "logits")]
    frame = np.random.default_rng(4).integers(0, 256, (192, 256, 3), np.uint8)
    session, told = FakeSession(handler, specs[:1], specs[1:]), []
    with Segmenter.from_session(session, plain((64, 64)), numbered(3), inference=Tiles((64, 64), 0)) as segmenter:
        segmenter._path.network.__dict__["progress"] = lambda *done: told.append(done)
        for answer in (*segmenter.segment_batch([frame]), *segmenter.segment_stream([frame])):
            assert isinstance(answer, Mask)
            assert np.array_equal(answer.labels, frame[:, :, ::-1].argmax(axis=2))
    assert [len(images) for images in fed] == 2 * runs * [frames]
    assert told == 2 * [(tile, 12) for tile in range(1, 13)]
