"""What a network was trained on is what it is given: as torch prepares it, from the options to the manifest."""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from refinenet_edge import cli
from refinenet_edge.baselines import baselines_for
from refinenet_edge.bench import Case, bundle_entry
from refinenet_edge.build import build, parity
from refinenet_edge.build.fuse import fuse_and_prove
from refinenet_edge.build.load import LoadedModel
from refinenet_edge.bundle import open_bundle
from refinenet_edge.calibration.ranges import graph_digests, read_ranges
from refinenet_edge.errors import GraphError, InputError
from refinenet_edge.evaluation import evaluate, open_dataset
from refinenet_edge.frames.images import read_image
from refinenet_edge.labels import numbered
from refinenet_edge.onnx_import import read_onnx
from refinenet_edge.recipe import read_recipe
from refinenet_edge.records import PREPROCESSINGS, Bilinear, FrameSpec, MultiScale, Recipe, from_json, to_json
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.frame import prepare
from tests.conftest import graph, onnx_model, weights
from tests.test_baselines import results_of

SIZE = (32, 48)
CLASSES = 4
PHOTO = Path(__file__).parents[2] / "refinenet_edge" / "photos" / "people" / "astronaut.jpg"
BYTES = np.arange(256, dtype=np.uint8)
FRAME = np.stack([BYTES, BYTES[::-1], (7 * BYTES.astype(int) % 256).astype(np.uint8)], 1).reshape(16, 16, 3)

Pipeline = Callable[[np.ndarray], torch.Tensor]


def channels(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(3, 1, 1)


def rgb(frame: np.ndarray) -> torch.Tensor:
    """As PIL and torchvision's pil_to_tensor give it: 3xHxW uint8."""
    return torch.from_numpy(np.ascontiguousarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))).permute(2, 0, 1)


def bgr(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frame).permute(2, 0, 1)


# as the code that goes with such networks has it
PIPELINES: dict[str, Pipeline] = {
    "imagenet": lambda f: rgb(f).float().div(255).sub(channels(0.485, 0.456, 0.406)).div(channels(0.229, 0.224, 0.225)),
    "caffe": lambda f: bgr(f).float() - channels(103.939, 116.779, 123.68),
    "tf": lambda f: rgb(f).float() / 127.5 - 1,
    "0-1": lambda f: rgb(f).float() / 255,
    "none": lambda f: rgb(f).float(),
}
EXACT = ("0-1", "none")  # the others subtract what float32 has rounded


class Small(torch.nn.Module):
    """Colours to classes at half the size: the same, whatever its pipeline makes of a frame."""

    def __init__(self, prepared: torch.Tensor) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = torch.nn.Conv2d(3, CLASSES, 3, stride=2, padding=1)
        with torch.no_grad():
            self.conv.weight /= prepared.std()
            self.conv.bias = torch.nn.Parameter(-self.conv.weight.sum((2, 3)) @ prepared.mean((1, 2)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.conv(image)
        return logits


def exported(path: Path, name: str) -> Small:
    module = Small(PIPELINES[name](FRAME)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter says that there is a newer one
        torch.onnx.export(module, (torch.zeros(1, 3, *SIZE),), path, dynamo=False, opset_version=17)
    return module


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_a_frame_is_what_torch_makes_of_it(name: str) -> None:
    ours, theirs = prepare(FRAME, PREPROCESSINGS[name])[0], PIPELINES[name](FRAME).numpy()
    if name in EXACT:
        assert np.array_equal(ours, theirs)
    else:  # two roundings of what is subtracted from, then a division
        last_bit = np.abs(theirs).max() * 2.0**-23
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2 * last_bit)


def coloured(seed: int) -> np.ndarray:
    """A frame of patches of colour."""
    random = np.random.default_rng(seed)
    return cv2.resize(random.integers(0, 256, (8, 12, 3), np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_the_miou_is_that_of_the_networks_own_pipeline(name: str, tmp_path: Path) -> None:
    module = exported(tmp_path / "net.onnx", name)
    hits, unions = np.zeros(CLASSES), np.zeros(CLASSES)
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for seed in range(4):
        frame = coloured(seed)
        with torch.inference_mode():
            logits = module(PIPELINES[name](frame)[None])
            large = functional.interpolate(logits, SIZE, mode="bilinear", align_corners=False)
        labels = large[0].argmax(0).numpy()
        random = np.random.default_rng(seed)
        truth = np.where(random.random(SIZE) < 0.8, labels, random.integers(0, CLASSES, SIZE)).astype(np.uint8)
        hits += [((labels == c) & (truth == c)).sum() for c in range(CLASSES)]
        unions += [((labels == c) | (truth == c)).sum() for c in range(CLASSES)]
        cv2.imwrite(str(tmp_path / "data" / "images" / f"{seed}.png"), frame)
        cv2.imwrite(str(tmp_path / "data" / "masks" / f"{seed}.png"), truth)

    def miou(preprocess: str) -> float:
        recipe = Recipe(
            str(tmp_path / preprocess),
            onnx=str(tmp_path / "net.onnx"),
            size=SIZE,
            backend="onnxruntime",
            preprocess=preprocess,  # type: ignore[arg-type]
        )
        with Segmenter(build(recipe).path) as segmenter:
            found = evaluate(segmenter, open_dataset(str(tmp_path / "data"))).miou
        assert found is not None
        return 100 * found

    expected = 100 * float((hits / unions).mean())
    assert 50 < expected < 90
    assert miou(name) == pytest.approx(expected, abs=0.1)
    assert miou("tf" if name == "caffe" else "caffe") < expected - 5


class TestSaid:
    def test_from_the_command_to_the_manifest_and_back_to_the_screen(self, tmp_path: Path) -> None:
        exported(tmp_path / "net.onnx", "caffe")
        bundle = str(tmp_path / "b")
        command = ["build", "--onnx", str(tmp_path / "net.onnx"), "--output", bundle, "--size", "32x48"]
        options = ["--backend", "onnxruntime", "--preprocess", "caffe", "--mean", "104,117,123", "--order", "rgb"]
        built = CliRunner().invoke(cli.main, [*command, *options])
        assert built.exit_code == 0, built.output
        frame = open_bundle(Path(bundle)).manifest.frame
        assert (frame.scale, frame.mean, frame.std, frame.order) == (1, (104, 117, 123), (1, 1, 1), "rgb")
        shown = CliRunner().invoke(cli.main, ["inspect", bundle])
        for screen in (built.output, shown.output):
            assert "RGB x - (104, 117, 123)" in screen
            assert "assumed" not in screen

    def test_of_a_network_of_ours_too(self, tmp_path: Path) -> None:
        recipe = Recipe(str(tmp_path / "b"), "rf_lw_mbv2", size=(32, 32), backend="onnxruntime", preprocess="tf")
        assert build(recipe).manifest.frame.scale == 127.5


class TestNotSaid:
    @pytest.fixture
    def warned(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
        """warned(body, **constants): what is said while such a network is built."""

        def said_of(body: str, said: dict[str, Any] | None = None, **constants: Any) -> list[str]:
            model = onnx_model(body, "float[1,3,H,W] x", "float[1,4,h,w] y", w=weights(CLASSES, 3, 3, 3), **constants)
            (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                build(
                    Recipe(
                        str(tmp_path / "b"),
                        onnx=str(tmp_path / "net.onnx"),
                        size=SIZE,
                        backend="onnxruntime",
                        **(said or {}),
                    )
                )
            return [record.getMessage() for record in caplog.records]

        return said_of

    CONV = "y = Conv <pads = [1,1,1,1]> ({}, w)"

    def test_it_is_one_line_of_what_is_assumed(self, warned: Callable[..., list[str]]) -> None:
        (line,) = warned(self.CONV.format("x"))
        assert line == (
            "how net.onnx takes its frames was not said: assumed is imagenet: "
            "RGB (x / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225); "
            "if it was trained otherwise, give --preprocess, or --mean, --std, --scale and --order"
        )

    @pytest.mark.parametrize(
        "said", [{"preprocess": "imagenet"}, {"mean": (0.5, 0.5, 0.5)}, {"scale": 255.0}, {"order": "rgb"}]
    )
    def test_nothing_is_assumed_of_what_was_said(self, warned: Callable[..., list[str]], said: dict[str, Any]) -> None:
        assert warned(self.CONV.format("x"), said) == []

    @pytest.mark.parametrize(
        ("body", "first"),
        [
            ("a = Sub(x, m) b = Div(a, s)", "Sub, Div"),
            ("b = Mul(x, s)", "Mul"),
            ("a = Div(x, s) c = Identity(a) b = Sub(c, m)", "Div, Sub"),
            ("b = BatchNormalization(x, v, v, v, v)", "BatchNormalization"),
        ],
    )
    def test_a_network_that_normalises_is_recognised(
        self, warned: Callable[..., list[str]], body: str, first: str
    ) -> None:
        three = np.full((1, 3, 1, 1), 2, np.float32)
        constants = {"m": three, "s": three, "v": three.ravel()}
        used = {name: array for name, array in constants.items() if f" {name}" in body}
        (line,) = warned(f"{body} {self.CONV.format('b')}", **used)
        assert f"but it begins with {first}, which may normalise what it takes" in line
        assert "--preprocess none" in line

    @pytest.mark.parametrize(
        "body", ["a = Relu(x) b = Mul(a, s)", "a = Relu(x) b = Mul(x, a)", "b = Mul(x, x)", "b = Div(s, x)"]
    )
    def test_what_follows_something_else_does_not_count(self, warned: Callable[..., list[str]], body: str) -> None:
        used = {"s": np.full((1, 3, 1, 1), 2, np.float32)} if "s" in body.replace("y", "") else {}
        (line,) = warned(f"{body} {self.CONV.format('b')}", **used)
        assert "begins with" not in line


class TestUint8:
    """A network that takes uint8 and scales that itself is given bytes."""

    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Callable[..., Recipe]:
        def made(body: str = "a = Cast <to = 1> (x)", **options: Any) -> Recipe:
            model = onnx_model(
                f"{body} b = Div(a, s) y = Conv <pads = [1,1,1,1]> (b, w)",
                "uint8[1,3,32,48] x",
                "float[1,4,32,48] y",
                w=weights(CLASSES, 3, 3, 3),
                s=np.float32(100),
            )
            (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
            named = {"output": str(tmp_path / "b"), "onnx": str(tmp_path / "net.onnx")}
            return Recipe(**named, size=SIZE, backend="onnxruntime", **options)

        return made

    @pytest.mark.parametrize(
        ("options", "order"), [({}, "rgb"), ({"order": "bgr"}, "bgr"), ({"preprocess": "none"}, "rgb")]
    )
    def test_it_computes_what_the_file_does(
        self, recipe: Callable[..., Recipe], caplog: pytest.LogCaptureFixture, options: dict[str, Any], order: str
    ) -> None:
        built = build(recipe(**options))
        assert built.manifest.frame.preprocessing.endswith(f"{order.upper()} x")
        assert built.manifest.inputs[0].dtype == "float32"
        said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert len(said) == (not options) and all("as it takes uint8" in line for line in said)
        frame = coloured(5)
        image = frame.transpose(2, 0, 1)[None] if order == "bgr" else frame[:, :, ::-1].transpose(2, 0, 1)[None]
        theirs = onnxruntime.InferenceSession(str(recipe().onnx), providers=["CPUExecutionProvider"])
        expected = theirs.run(None, {"x": np.ascontiguousarray(image)})[0]
        with Segmenter(built.path) as segmenter:
            np.testing.assert_allclose(segmenter.logits(frame), expected, rtol=0, atol=1e-5 * np.abs(expected).max())

    def test_it_cannot_be_scaled_before_too(self, recipe: Callable[..., Recipe]) -> None:
        with pytest.raises(InputError, match="takes uint8, which is scaled in the graph"):
            build(recipe(preprocess="tf"))

    def test_integers_that_are_computed_with_are_refused(self, recipe: Callable[..., Recipe]) -> None:
        with pytest.raises(GraphError, match=r"takes uint8 and computes with it \(Max"):
            build(recipe("c = Max(x, x) a = Cast <to = 1> (c)"))


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_the_proof_is_on_frames_as_the_network_takes_them(name: str, tmp_path: Path) -> None:
    spec = dataclasses.replace(PREPROCESSINGS[name], size=SIZE)
    body, ends = "y = Conv <pads = [1,1,1,1]> (x, w)", ("float[1,3,32,48] x", "float[1,4,32,48] y")
    (tmp_path / "net.onnx").write_bytes(onnx_model(body, *ends, w=weights(CLASSES, 3, 3, 3)).SerializeToString())
    model = read_onnx(tmp_path / "net.onnx")
    reference = partial(parity.logits, tmp_path / "net.onnx")
    loaded = LoadedModel("net", "net.onnx", None, model, spec, numbered(CLASSES), reference, SIZE)
    frames = fuse_and_prove(loaded, (), lambda _: None).frames
    assert np.array_equal(frames["astronaut.jpg"], prepare(read_image(PHOTO), spec))
    dark, light = (prepare(np.full((1, 1, 3), byte, np.uint8), PREPROCESSINGS[name]) for byte in (0, 255))
    assert np.array_equal(frames["random"].min((2, 3), keepdims=True), dark)
    assert np.array_equal(frames["random"].max((2, 3), keepdims=True), light)


@pytest.mark.parametrize("name", ["caffe", "tf"])
def test_peers_are_given_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = tmp_path / "net.onnx", tmp_path / "b"
    path.write_bytes(onnx_model("y = Identity(x)", "float[1,3,32,48] x", "float[1,3,32,48] y").SerializeToString())
    build(Recipe(str(folder), onnx=str(path), size=SIZE, backend="onnxruntime", preprocess=name))  # type: ignore[arg-type]
    (peer,) = baselines_for([str(path)], bundle_entry(folder, "onnxruntime"))
    found = results_of(peer, monkeypatch, coloured(0), Case(SIZE))
    expected = prepare(coloured(0), PREPROCESSINGS[name])
    np.testing.assert_allclose(found["prepare"], expected, rtol=0, atol=np.abs(expected).max() * 2.0**-22)


class TestLetterbox:
    """A frame of another shape keeps its own, in the middle of zeros, and its labels lie where it lay."""

    def test_it_is_said_from_the_command_to_the_screen(self, tmp_path: Path) -> None:
        exported(tmp_path / "net.onnx", "tf")
        bundle = str(tmp_path / "b")
        command = ["build", "--onnx", str(tmp_path / "net.onnx"), "--output", bundle, "--size", "32x48"]
        built = CliRunner().invoke(
            cli.main, [*command, "--backend", "onnxruntime", "--preprocess", "tf", "--resize", "letterbox"]
        )
        assert built.exit_code == 0, built.output
        assert open_bundle(Path(bundle)).manifest.frame == FrameSpec(
            SIZE, upsample=Bilinear(False), mean=(1, 1, 1), std=(1, 1, 1), scale=127.5, fit="letterbox"
        )
        for screen in (built.output, CliRunner().invoke(cli.main, ["inspect", bundle]).output):
            assert "tf: RGB x / 127.5 - 1, letterboxed" in screen

    @pytest.mark.parametrize("said", [{}, {"preprocess": "imagenet"}])
    def test_of_a_network_of_ours_too(self, tmp_path: Path, said: dict[str, Any]) -> None:
        recipe = Recipe(
            str(tmp_path / "b"), "rf_lw_mbv2", size=(32, 32), backend="onnxruntime", resize="letterbox", **said
        )
        assert build(recipe).manifest.frame.fit == "letterbox"

    @pytest.mark.parametrize("name", ["imagenet", "caffe", "tf"])
    @pytest.mark.parametrize("shape", [(32, 20), (14, 48)])
    def test_the_logits_are_those_of_a_pipeline_that_pads(
        self, name: str, shape: tuple[int, int], tmp_path: Path
    ) -> None:
        module = exported(tmp_path / "net.onnx", name)
        recipe = Recipe(
            str(tmp_path / "b"), onnx=str(tmp_path / "net.onnx"), size=SIZE, backend="onnxruntime", preprocess=name
        )  # type: ignore[arg-type]
        built = build(dataclasses.replace(recipe, resize="letterbox"))
        frame = coloured(2)[: shape[0], : shape[1]].copy()
        top, left = (SIZE[0] - shape[0]) // 2, (SIZE[1] - shape[1]) // 2
        padding = (left, SIZE[1] - shape[1] - left, top, SIZE[0] - shape[0] - top)
        with torch.inference_mode():
            logits = module(functional.pad(PIPELINES[name](frame)[None], padding))
            large = functional.interpolate(logits, SIZE, mode="bilinear", align_corners=False)
        inside = large[0, :, top : top + shape[0], left : left + shape[1]]
        best = inside.topk(2, dim=0).values
        clear = (best[0] - best[1] > 1e-4).numpy()
        with Segmenter(built.path) as segmenter:
            labels = segmenter.segment(frame).labels
        assert clear.mean() > 0.99 and (labels == inside.argmax(0).numpy())[clear].all()

    def test_peers_do_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        exported(tmp_path / "net.onnx", "tf")
        recipe = Recipe(str(tmp_path / "b"), onnx=str(tmp_path / "net.onnx"), size=SIZE, backend="onnxruntime")
        built = build(dataclasses.replace(recipe, preprocess="tf", resize="letterbox"))
        (peer,) = baselines_for([str(tmp_path / "net.onnx")], bundle_entry(built.path, "onnxruntime"))
        frame = coloured(3)[:, :21].copy()
        found = results_of(peer, monkeypatch, frame, Case(SIZE))
        np.testing.assert_allclose(found["prepare"], prepare(frame, built.manifest.frame), rtol=0, atol=1e-6)
        with Segmenter(built.path) as segmenter:
            assert (found["head"][0] == segmenter.segment(frame).labels).mean() > 0.995

    @pytest.mark.parametrize("resize", ["letterbox", "crop"])
    def test_of_a_network_of_any_size_there_is_none(self, resize: Any) -> None:
        with pytest.raises(InputError, match=f"--resize {resize} is for networks of one size"):
            Recipe("b", "rf50", dynamic=True, resize=resize)


def centre_crop(side: tuple[int, int], size: int) -> tuple[tuple[int, int], int, int]:
    """torchvision's Resize(size) and CenterCrop(size) of an image of `side`: its new size, top and left."""
    short, long = sorted(side)
    new = int(size * long / short)
    height, width = (size, new) if side[0] <= side[1] else (new, size)
    return (height, width), round((height - size) / 2), round((width - size) / 2)


class TestCrop:
    """The middle of a frame that keeps its shape: what is not in it is no class's."""

    @pytest.mark.parametrize("side", [(48, 48), (48, 65), (71, 48), (31, 90), (200, 97), (5, 7)])
    def test_the_network_sees_what_torchvision_leaves(self, side: tuple[int, int]) -> None:
        frame = np.random.default_rng(4).integers(0, 256, (*side, 3), np.uint8)
        (height, width), top, left = centre_crop(side, 48)
        resized = frame if side == (height, width) else cv2.resize(frame, (width, height))
        expected = prepare(np.ascontiguousarray(resized[top : top + 48, left : left + 48]), FrameSpec(None))
        assert np.array_equal(prepare(frame, FrameSpec((48, 48), fit="crop")), expected)

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    @pytest.mark.parametrize("side", [(32, 90), (80, 48), (41, 47)])
    def test_its_labels_lie_where_it_saw_them(self, tmp_path: Path, side: tuple[int, int], backend: str) -> None:
        exported(tmp_path / "net.onnx", "tf")
        recipe = Recipe(str(tmp_path / "b"), onnx=str(tmp_path / "net.onnx"), size=SIZE, backend="onnxruntime")
        built = build(dataclasses.replace(recipe, preprocess="tf", resize="crop"))
        whole = build(dataclasses.replace(recipe, preprocess="tf", output=str(tmp_path / "whole")))
        frame = np.random.default_rng(5).integers(0, 256, (*side, 3), np.uint8)
        with Segmenter(built.path, backend, confidence=True) as segmenter, Segmenter(whole.path, backend) as usual:
            mask = segmenter.segment(frame)
            if side == (41, 47):  # it is enlarged: one side is seen whole
                assert (mask.labels != 255).any(axis=0).all() and (mask.labels == 255).all(axis=1).any()
                return
            top, left = (side[0] - SIZE[0]) // 2, (side[1] - SIZE[1]) // 2
            inside = slice(top, top + SIZE[0]), slice(left, left + SIZE[1])
            assert np.array_equal(mask.labels[inside], usual.segment(np.ascontiguousarray(frame[inside])).labels)
        outside = np.ones(side, bool)
        outside[inside] = False
        assert outside.any() and (mask.labels[outside] == 255).all() and (mask.labels[inside] != 255).all()
        assert mask.confidence is not None and not mask.confidence[outside].any() and mask.confidence[inside].all()
        assert sum(mask.shares().values()) == pytest.approx(1 - outside.mean())

    def test_what_it_does_not_see_counts_for_nothing(self, tmp_path: Path) -> None:
        exported(tmp_path / "net.onnx", "tf")
        recipe = Recipe(str(tmp_path / "b"), onnx=str(tmp_path / "net.onnx"), size=SIZE, backend="onnxruntime")
        built = build(dataclasses.replace(recipe, preprocess="tf", resize="crop"))
        folder = tmp_path / "data"
        frame = np.random.default_rng(5).integers(0, 256, (60, 48, 3), np.uint8)
        with Segmenter(built.path) as segmenter:
            truth = segmenter.segment(frame).labels.copy()
            seen = truth != 255
            truth[~seen] = 0
            for kind, image in (("images", frame), ("masks", truth)):
                (folder / kind).mkdir(parents=True)
                cv2.imwrite(str(folder / kind / "a.png"), image)
            result = evaluate(segmenter, open_dataset(f"plain:{folder}"))
        assert result.miou == 1 and np.sum(result.confusion) == seen.sum()
        said = CliRunner().invoke(cli.main, ["eval", str(built.path), f"plain:{folder}"])
        assert "of the pixels that a cropped frame has left" in " ".join(said.output.split())

    def test_it_is_said_from_the_command_to_the_screen(self, tmp_path: Path) -> None:
        exported(tmp_path / "net.onnx", "tf")
        bundle = str(tmp_path / "b")
        command = ["build", "--onnx", str(tmp_path / "net.onnx"), "--output", bundle, "--size", "32x48"]
        built = CliRunner().invoke(
            cli.main, [*command, "--backend", "onnxruntime", "--preprocess", "tf", "--resize", "crop"]
        )
        assert built.exit_code == 0, built.output
        for screen in (built.output, CliRunner().invoke(cli.main, ["inspect", bundle]).output):
            assert "tf: RGB x / 127.5 - 1, cropped" in screen
        with pytest.raises(InputError, match="crops frames: scales and tiles need one"):
            Segmenter(bundle, inference=MultiScale((1.0,), True))

    def test_a_frame_too_long_to_be_enlarged_is_refused(self) -> None:
        with pytest.raises(InputError, match="a frame of 4x16384 pixels is too long to be cropped to 512x512"):
            prepare(np.zeros((4, 16384, 3), np.uint8), FrameSpec((512, 512), fit="crop"))


class TestRanges:
    """They hold for the preprocessing that they were measured with."""

    MODEL = graph(
        "y = Conv <pads = [1,1,1,1]> (x, w)", "float[1,3,32,48] x", "float[1,4,32,48] y", w=weights(4, 3, 3, 3)
    )

    def test_those_measured_before_it_could_be_said_still_fit(self) -> None:
        shipped = read_ranges(Path(__file__).parents[2] / "calib" / "scenes.ranges.json")
        assert graph_digests(self.MODEL, FrameSpec((512, 512)))[2] == shipped.key.frame

    def test_each_has_its_own(self) -> None:
        specs = [
            *PREPROCESSINGS.values(),
            FrameSpec(None, order="bgr"),
            FrameSpec(None, scale=1.0),
            FrameSpec(None, fit="letterbox"),
            FrameSpec(None, fit="crop"),
        ]
        assert len({graph_digests(self.MODEL, spec)[2] for spec in specs}) == len(specs)

    def test_of_whole_numbers_and_read_back_it_is_the_same(self) -> None:
        spec = Recipe("b", "rf50", mean=(1, 2, 3), std=(1, 1, 2), scale=1).preprocessing
        assert graph_digests(self.MODEL, spec) == graph_digests(self.MODEL, from_json(FrameSpec, to_json(spec)))


def test_manifests_that_say_nothing_of_scale_and_order_mean_what_they_meant() -> None:
    fields = json.loads(to_json(FrameSpec((3, 4), mean=(0.5, 0.5, 0.5))))
    del fields["scale"], fields["order"], fields["fit"]
    assert from_json(FrameSpec, json.dumps(fields)) == FrameSpec((3, 4), mean=(0.5, 0.5, 0.5), scale=255, order="rgb")
    frame = coloured(1)
    expected = (frame[:, :, ::-1].astype(np.float64) / 255 - 0.5) / FrameSpec(None).std
    found = prepare(frame, FrameSpec(None, mean=(0.5, 0.5, 0.5)))[0]
    assert np.array_equal(found, expected.transpose(2, 0, 1).astype(np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 1 / 255}, "for x \\* 0.00392 give --scale 255"),
        ({"scale": float("inf")}, "scale inf must be positive and finite"),
        ({"std": (1, 0, 1)}, "positive and finite"),
        ({"mean": (float("nan"), 0, 1)}, "must be finite"),
        ({"order": "gbr"}, "neither rgb nor bgr"),
        ({"preprocess": "keras"}, "there are imagenet, caffe, tf, 0-1, none"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe("b", "rf50", **options)


def test_a_recipe_file_says_it(tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    path.write_text('onnx = "net.onnx"\npreprocess = "caffe"\nmean = [104, 117, 123]\nstd = "2"\nscale = 1.0\n')
    expected = {"preprocess": "caffe", "mean": (104, 117, 123), "std": (2, 2, 2), "scale": 1}
    assert read_recipe(path) == Recipe(str(tmp_path / "net"), onnx="net.onnx", **expected)  # type: ignore[arg-type]
    path.write_text('onnx = "net.onnx"\nmean = "1,2"\n')
    with pytest.raises(InputError, match="for each of the network's channels"):
        read_recipe(path)
