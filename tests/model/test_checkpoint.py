"""Checkpoints as the ports write them, and files that only look like one, against `tests.ports`."""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from refinenet_edge.errors import CheckpointError, InputError
from refinenet_edge.model import create, load_checkpoint, save_checkpoint
from tests.ports import (
    PORTS,
    WRAPPERS,
    Form,
    State,
    lw_shapes,
    mbv2_logits,
    mbv2_shapes,
    mt_shapes,
    random_state,
    resnet_shapes,
    rf_shapes,
)

NAMES = ("rf50", "rf101", "rf152", "rf_lw50", "rf_lw101", "rf_lw152", "rf_lw_mbv2", "rf_lw_effnet_lite0")
FORMS = {"conv_pool": "pool_conv", "pool_conv": "conv_pool"}
TOLERANCE = 2e-5  # shuffling any one tensor of a port moves its logits by more than 1e-3


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On maps as small as these a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def mbv2() -> State:
    return random_state(mbv2_shapes(21))


@pytest.fixture(scope="module")
def lw50() -> State:
    return random_state(lw_shapes(50, 7))


def saved(tmp_path: Path, content: object, name: str = "weights.pth.tar") -> Path:
    path = tmp_path / name
    torch.save(content, path)
    return path


def image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


def assert_is(path: Path, layout: str, state: State) -> None:
    """The file loads as `layout` with the values of `state`."""
    port = PORTS[layout]
    module = load_checkpoint(path, collapse_ind=port.collapse_ind)
    assert module.spec.name == port.network
    x = image(33, 49)
    assert relative_error(module(x), port.logits(state, x)) < TOLERANCE


def refusal(path: Path, **arguments: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, **arguments)
    return str(caught.value)


# --- the ports themselves


@pytest.mark.parametrize(
    ("layout", "millions", "keys"),
    [
        ("rf101", 118.05, 712),
        ("lw50", 27.36, 346),
        ("lw101", 46.35, 652),
        ("lw152", 61.99, 958),
        ("lw_mbv2", 3.285, 339),
        ("dt_mbv2", 3.285, 339),
    ],
)
def test_key_tables_have_the_published_size(layout: str, millions: float, keys: int) -> None:
    shapes = PORTS[layout].shapes(21)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(buffers))
    assert len(shapes) == keys
    assert parameters / 1e6 == pytest.approx(millions, abs=0.005 if millions > 10 else 0.0005)


# --- layouts


@pytest.mark.parametrize("layout", PORTS)
def test_every_layout_gives_the_port_s_logits(layout: str, tmp_path: Path) -> None:
    port = PORTS[layout]
    state = random_state(port.shapes(21))
    path = saved(tmp_path, WRAPPERS["acrv" if layout == "rf50" else "bare"](state))  # ACRV alone has a full ResNet-50
    module = load_checkpoint(path, collapse_ind=port.collapse_ind)
    path.unlink()  # half a gigabyte for the deepest
    assert (module.spec.name, module.spec.num_classes) == (port.network, 21)
    assert not any(part.training for part in module.modules())
    for x in (image(65, 97), image(34, 50)):
        assert relative_error(module(x), port.logits(state, x)) < TOLERANCE


@pytest.mark.parametrize("classes", [7, 21, 40, 60])
@pytest.mark.parametrize(("layout", "classifier"), [("lw50", "clf_conv"), ("lw_mbv2", "segm"), ("dt_mbv2", "1.segm")])
def test_the_class_count_comes_from_the_classifier(layout: str, classifier: str, classes: int, tmp_path: Path) -> None:
    state: State = {key: torch.zeros(shape) for key, shape in PORTS[layout].shapes(1).items()}
    state |= {f"{classifier}.weight": torch.zeros(classes, 256, 3, 3), f"{classifier}.bias": torch.zeros(classes)}
    module = load_checkpoint(saved(tmp_path, state), num_classes=classes, collapse_ind=PORTS[layout].collapse_ind)
    assert module.spec.num_classes == classes
    assert module(image(8, 8)).shape == (1, classes, 2, 2)


def test_parameters_are_trainable_float32_on_the_cpu(mbv2: State, tmp_path: Path) -> None:
    module = load_checkpoint(saved(tmp_path, mbv2))
    assert all(p.requires_grad and p.dtype == torch.float32 and p.device.type == "cpu" for p in module.parameters())
    assert all(b.device.type == "cpu" for b in module.buffers())


@pytest.mark.parametrize("form", [Form(False, True), Form(True, False), Form(False, False)], ids=str)
def test_what_no_key_can_tell_is_told_by_the_caller(form: Form, mbv2: State, tmp_path: Path) -> None:
    path = saved(tmp_path, mbv2)
    module = load_checkpoint(
        path, crp="pool_conv" if form.pool_first else "conv_pool", align_corners=form.align_corners
    )
    x = image(65, 97)
    assert relative_error(module(x), mbv2_logits(mbv2, x, form)) < TOLERANCE
    with pytest.raises(InputError, match="crp"):
        load_checkpoint(path, crp="pool")  # type: ignore[arg-type]


# --- files


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("layout", ["lw_mbv2", "lw50"])
def test_every_wrapper_opens(layout: str, wrapper: str, mbv2: State, lw50: State, tmp_path: Path) -> None:
    state = mbv2 if layout == "lw_mbv2" else lw50
    assert_is(saved(tmp_path, WRAPPERS[wrapper](state)), layout, state)


@pytest.mark.parametrize("wrapper", ["bare", "data_parallel", "densetorch", "state_dict"])
def test_every_wrapper_of_densetorch_opens(wrapper: str, tmp_path: Path) -> None:
    state = random_state(PORTS["dt_mbv2"].shapes(21))
    assert_is(saved(tmp_path, WRAPPERS[wrapper](state)), "dt_mbv2", state)


@pytest.mark.parametrize("layout", ["lw_mbv2", "dt_mbv2"])
def test_safetensors_opens(layout: str, tmp_path: Path) -> None:
    state = random_state(PORTS[layout].shapes(21))
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    assert_is(path, layout, state)


def with_header(path: Path, length: int | None = None, spec: str | None = None) -> Path:
    """`path`, a safetensors file, with its header padded to `length` bytes or with another spec.

    The format: 8 bytes of header length, little-endian; the header, JSON and any blanks; the tensors.
    """
    data = path.read_bytes()
    (before,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + before])
    if spec is not None:
        (key,) = header["__metadata__"]
        header["__metadata__"][key] = spec
    text = json.dumps(header).encode().ljust(length or 0)
    assert length in (None, len(text))
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + before :])
    return path


@pytest.mark.parametrize(("ours", "name"), [(True, "weights.safetensors"), (False, "weights.pth")])
@pytest.mark.parametrize("length", [0x10000, 0x10080, 0x10280], ids=hex)
def test_no_header_length_makes_safetensors_look_like_a_pickle(
    ours: bool, length: int, name: str, mbv2: State, tmp_path: Path
) -> None:
    path = tmp_path / name
    safetensors.torch.save_file(mbv2, path)
    if ours:
        save_checkpoint(load_checkpoint(path), path)
    assert_is(with_header(path, length), "lw_mbv2", mbv2)


@pytest.mark.parametrize("wrapper", ["bare", "lw_train"])
def test_the_file_format_before_torch_1_6_opens(wrapper: str, mbv2: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth.tar"
    torch.save(WRAPPERS[wrapper](mbv2), path, _use_new_zipfile_serialization=False)
    # numpy 1 pickled its scalars under this name
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert_is(path, "lw_mbv2", mbv2)


def test_tensors_saved_from_a_gpu_open_without_one(
    mbv2: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    path = saved(tmp_path, WRAPPERS["lw_v2_cuda"](mbv2))
    monkeypatch.undo()
    assert_is(path, "lw_mbv2", mbv2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_load_as_float32(dtype: torch.dtype, mbv2: State, tmp_path: Path) -> None:
    stored = {key: value.to(dtype) if value.is_floating_point() else value for key, value in mbv2.items()}
    path = saved(tmp_path, stored)
    assert all(p.dtype == torch.float32 for p in load_checkpoint(path).parameters())
    assert_is(path, "lw_mbv2", {key: value.to(mbv2[key].dtype) for key, value in stored.items()})


def test_missing_batch_counters_are_tolerated(mbv2: State, tmp_path: Path) -> None:
    old = {key: value for key, value in mbv2.items() if not key.endswith("num_batches_tracked")}
    assert_is(saved(tmp_path, old), "lw_mbv2", mbv2)


# --- what does not fit

MBV2_KEYS = (
    "layer1.0.weight",
    "layer5.2.output.1.1.running_var",
    "conv7.weight",
    "crp1.0.3_outvar_dimred.weight",
    "segm.bias",
)


@pytest.mark.parametrize("key", [*MBV2_KEYS, "segm.weight"])
def test_a_missing_key_is_named(key: str, mbv2: State, tmp_path: Path) -> None:
    message = refusal(saved(tmp_path, {k: v for k, v in mbv2.items() if k != key}))
    assert "rf_lw_mbv2" in message
    if key != "segm.weight":  # without it the layout itself is in doubt
        assert key in message


@pytest.mark.parametrize(
    "key", ["spam.weight", "layer9.0.output.0.0.weight", "crp1.0.5_outvar_dimred.weight", "conv7.bias", "fc.weight"]
)
def test_an_unknown_key_is_named(key: str, mbv2: State, tmp_path: Path) -> None:
    message = refusal(saved(tmp_path, {**mbv2, key: torch.ones(3)}))
    assert key in message
    assert "rf_lw_mbv2" in message


@pytest.mark.parametrize("key", ["segm.weight", "0.segm.weight", "conv8.weight", "layer1.0.weight"])
def test_a_densetorch_file_holds_no_second_tensor_of_one_name(key: str, tmp_path: Path) -> None:
    state = random_state(PORTS["dt_mbv2"].shapes(21))
    shape = mbv2_shapes(21)[key.removeprefix("0.")]
    path = saved(tmp_path, {**state, key: torch.ones(shape)})
    assert key in refusal(path, collapse_ind=PORTS["dt_mbv2"].collapse_ind)


@pytest.mark.parametrize("key", [*MBV2_KEYS, "layer1.1.num_batches_tracked"])
@pytest.mark.parametrize("shape", [(1, 1), (3,), (256, 255, 1, 1), (0, 256, 3, 3)])
def test_a_wrong_shape_is_named(key: str, shape: tuple[int, ...], mbv2: State, tmp_path: Path) -> None:
    message = refusal(saved(tmp_path, {**mbv2, key: torch.zeros(shape, dtype=mbv2[key].dtype)}))
    assert key in message


@pytest.mark.parametrize("shape", [(), (7, 2048, 2, 2), (7, 2048, 0, 0)])
@pytest.mark.parametrize("key", ["p_ims1d2_outl1_dimred.weight", "clf_conv.weight", "segm.weight"])
def test_a_wrong_shape_where_the_architecture_is_read_from_is_refused(
    key: str, shape: tuple[int, ...], lw50: State, mbv2: State, tmp_path: Path
) -> None:
    state = mbv2 if key in mbv2 else lw50
    message = refusal(saved(tmp_path, {**state, key: torch.zeros(shape)}))
    assert all(name in message for name in NAMES)


def test_decoder_keys_of_a_resnet_are_named_as_published(lw50: State, tmp_path: Path) -> None:
    key = "adapt_stage2_b2_joint_varout_dimred.weight"
    message = refusal(saved(tmp_path, {k: v for k, v in lw50.items() if k != key}))
    assert key in message
    assert "rf_lw50" in message


def test_another_class_count_than_asked_for_is_refused(mbv2: State, tmp_path: Path) -> None:
    message = refusal(saved(tmp_path, mbv2), num_classes=7)
    assert "21" in message
    assert "7" in message


def test_an_unpublished_depth_is_refused(lw50: State, tmp_path: Path) -> None:
    deeper = {
        key.replace("layer3.5.", "layer3.6."): value for key, value in lw50.items() if key.startswith("layer3.5.")
    }
    message = refusal(saved(tmp_path, {**lw50, **deeper}))
    assert all(name in message for name in NAMES)


def resnet_classifier() -> State:
    return random_state({**resnet_shapes(50), "fc.weight": (1000, 2048), "fc.bias": (1000,)})


def ciconv() -> State:
    """RF's decoder, its encoder under `resnet.`, a classifier at full resolution: close, and another network."""
    shapes = rf_shapes(50, 19)
    encoder = resnet_shapes(50)
    state = {f"resnet.{key}" if key in encoder else key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    return state


@pytest.mark.parametrize(
    "make",
    [
        lambda p: resnet_classifier(),
        lambda p: {f"layer{i}.weight": torch.ones(3) for i in range(4)},
        lambda p: ciconv(),
        lambda p: {**p, **{f"up{i}.weight": torch.ones(256, 256, 2, 2) for i in (1, 2, 3)}},
    ],
    ids=["classifier", "layers", "ciconv", "learned-upsampling"],
)
def test_another_network_is_refused_with_the_known_ones(
    make: Callable[[State], State], lw50: State, tmp_path: Path
) -> None:
    message = refusal(saved(tmp_path, make(lw50)))
    assert all(name in message for name in NAMES)


@pytest.mark.parametrize("layout", ["dt_mbv2", "dt_resnet50"])
def test_the_wiring_of_a_densetorch_file_is_asked_for(layout: str, tmp_path: Path) -> None:
    port = PORTS[layout]
    path = saved(tmp_path, random_state(port.shapes(21)))
    assert f"--collapse-ind '{port.collapse_ind}'" in refusal(path)
    assert "--onnx" in refusal(path, collapse_ind="[0, [1, 2], 3, 4]")  # same keys, another network
    for odd in ("", "0,1", "{}", "[[[0]]]", "3", "[" * 100_000):
        assert "--collapse-ind" in refusal(path, collapse_ind=odd)


def test_a_densetorch_file_of_other_taps_is_refused(tmp_path: Path) -> None:
    state = random_state(PORTS["dt_mbv2"].shapes(21))
    del state["1.stem_convs.5.weight"]
    assert "of 5 taps: not supported; export it to ONNX" in refusal(saved(tmp_path, state), collapse_ind="[0]")


def test_densetorch_on_a_small_resnet_is_refused_as_such(tmp_path: Path) -> None:
    state = random_state(PORTS["dt_resnet50"].shapes(21))
    small = {key: value for key, value in state.items() if ".conv3." not in key and ".bn3." not in key}
    message = refusal(saved(tmp_path, small), collapse_ind="[0, 1, 2, 3]")
    assert "another encoder than MobileNet-v2 and ResNet 50" in message
    assert "--onnx" in message


def test_another_file_has_no_wiring(mbv2: State, tmp_path: Path) -> None:
    assert "leave --collapse-ind out" in refusal(saved(tmp_path, mbv2), collapse_ind="[0, 1, 2, 3]")


# --- several weights in one file


def other(state: State) -> State:
    return {key: value + 0.1 if value.is_floating_point() else value for key, value in state.items()}


@pytest.mark.parametrize("average", ["ema", "state_dict_ema", "model_ema", "ema_state_dict"])
@pytest.mark.parametrize("plain", ["model", "state_dict", "net"])
def test_of_two_the_average_is_taken_and_said(
    average: str, plain: str, mbv2: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path, {plain: other(mbv2), average: {"module": mbv2, "updates": 3}, "epoch": 3})
    assert_is(path, "lw_mbv2", mbv2)
    assert f"those of {average}.module are taken; for others give --state-key {plain}" in caplog.text
    module = load_checkpoint(path, state_key=plain)
    assert torch.equal(module.state_dict()["classifier.weight"], other(mbv2)["segm.weight"])
    assert torch.equal(load_checkpoint(path, state_key=average).state_dict()["classifier.weight"], mbv2["segm.weight"])


def test_a_key_that_is_not_there_is_refused_with_those_that_are(mbv2: State, tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": mbv2, "ema": mbv2})
    assert "no weights under --state-key teacher; there are model" in refusal(path, state_key="teacher")
    assert "leave it out" in refusal(saved(tmp_path, mbv2), state_key="model")


def test_two_networks_of_unknown_names_are_asked_for(mbv2: State, tmp_path: Path) -> None:
    path = saved(tmp_path, {"student": other(mbv2), "teacher": mbv2})
    assert "say which with --state-key, one of student, teacher" in refusal(path)
    module = load_checkpoint(path, state_key="teacher")
    assert torch.equal(module.state_dict()["classifier.weight"], mbv2["segm.weight"])


def test_what_is_left_out_beside_a_prefix_is_said(
    mbv2: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_is(saved(tmp_path, WRAPPERS["lightning"](mbv2)), "lw_mbv2", mbv2)
    assert "only the weights under model. are taken, not loss.weight" in caplog.text


def run_advice(message: str, folder: Path) -> None:
    """The Python that a refusal ends with, in `folder`."""
    code = message.rpartition("weights.pth: ")[2]
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=60)


@pytest.mark.parametrize("content", ["module", "in a wrapper", "beside a state"])
def test_a_whole_module_is_refused_with_the_lines_that_save_its_state(content: str, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1))
    whole = {"module": module, "in a wrapper": {"ema": None, "model": module, "epoch": 3}}
    path = saved(tmp_path, whole.get(content, {"state_dict": module.state_dict(), "model": module}))
    message = refusal(path)
    if content == "beside a state":
        assert "no RefineNet of a known layout" in message  # its weights were read
        return
    run_advice(message, tmp_path)
    assert list(torch.load(tmp_path / "weights.pth")) == ["0.weight", "0.bias"]


def test_objects_among_weights_are_refused_with_the_lines_that_leave_them_out(mbv2: State, tmp_path: Path) -> None:
    path = saved(tmp_path, {"deep": {"net": {**mbv2, "settings": torch.nn.ReLU()}}})
    message = refusal(path)
    assert "holds more than weights (torch.nn.modules.activation.ReLU)" in message
    run_advice(message, tmp_path)
    assert_is(tmp_path / "weights.pth", "lw_mbv2", mbv2)


def test_many_keys_and_long_ones_cost_little(tmp_path: Path) -> None:
    long = "k" * 1_000_000
    path = saved(
        tmp_path, {**{f"key{i}": {} for i in range(100_000)}, **{str(i): {long: {long: {}}} for i in range(300)}}
    )
    started = time.process_time()
    refusal(path)
    assert time.process_time() - started < 20


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize("kind", ["TorchScript program", "exported program"])
def test_a_program_is_refused_with_the_line_that_saves_its_state(kind: str, tmp_path: Path) -> None:
    module, path = nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), tmp_path / "model.pt"
    if kind == "exported program":
        path = tmp_path / "model.pt2"
        torch.export.save(torch.export.export(module, (torch.ones(1, 3, 4, 4),)), path)
    else:
        torch.jit.script(module).save(str(path))
    message = refusal(path)
    assert f"{kind}" in message
    assert "not weights" in message
    run_advice(message, tmp_path)
    state = torch.load(tmp_path / "weights.pth")
    assert torch.equal(state["0.weight"], module[0].weight)


def multi_task_of_densetorch() -> State:
    state = random_state(PORTS["dt_mbv2"].shapes(21))
    del state["1.segm.weight"], state["1.segm.bias"]
    heads = {f"1.heads.{t}.0.weight": torch.ones(256, 1, 1, 1) for t in (0, 1)}
    return state | heads | {f"1.heads.{t}.2.weight": torch.ones(21 if t == 0 else 1, 256, 3, 3) for t in (0, 1)}


@pytest.mark.parametrize("wrapper", ["bare", "state_dict"])
def test_a_multi_task_network_is_refused_as_such(wrapper: str, tmp_path: Path) -> None:
    message = refusal(saved(tmp_path, WRAPPERS[wrapper](random_state(mt_shapes(40)))))
    assert "multi-task" in message.lower()


def test_a_multi_task_network_of_densetorch_is_refused_as_such(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path, multi_task_of_densetorch()))
    assert "DenseTorch's multi-task RefineNet" in message
    assert "rf_lw_mbv2" in message


def cascade_shapes(*heads: str) -> dict[str, tuple[int, ...]]:
    """pytorch_refinenet's keys, as far as they are its own; `heads` are what the last block's output goes into."""
    shapes: dict[str, tuple[int, ...]] = {"layer1.0.weight": (64, 3, 7, 7), "layer4_rn.weight": (512, 2048, 3, 3)}
    for unit in (*(f"refinenet4.rcu0.{i}" for i in (0, 1)), *(f"{head}.{i}" for head in heads for i in (0, 1))):
        shapes |= {
            f"{unit}.conv1.weight": (8, 8, 3, 3),
            f"{unit}.conv1.bias": (8,),
            f"{unit}.conv2.weight": (8, 8, 3, 3),
        }
    return shapes


@pytest.mark.parametrize(
    ("heads", "reason"),
    [
        (["output_conv"], "adds the ReLU of what the paper adds.*pools three times"),
        (["segBranch", "depthBranch"], "segmentation and depth.*at the image's size"),
    ],
    ids=["pytorch_refinenet", "refinenet_pytorch"],
)
def test_other_peoples_refinenets_are_refused_with_the_reason(heads: list[str], reason: str, tmp_path: Path) -> None:
    message = refusal(saved(tmp_path, random_state(cascade_shapes(*heads))))
    assert re.search(reason, message)
    assert "--onnx" in message


# --- what is no checkpoint


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"PK\x03\x04", bytes(range(256)) * 40, b"\x80\x02}q\x00.", b"{}" * 100]
)
def test_other_bytes_are_refused(content: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert str(path) in refusal(path)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused(kind: str, share: float, mbv2: State, tmp_path: Path) -> None:
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        safetensors.torch.save_file(mbv2, path)
    else:
        torch.save(mbv2, path, _use_new_zipfile_serialization=kind == "zip")
    os.truncate(path, int(path.stat().st_size * share))
    assert str(path) in refusal(path)


def test_paths_that_are_no_file_are_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(tmp_path)
    assert "nowhere.pth" in refusal(tmp_path / "nowhere.pth")


class Plants:
    """Pickles as a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_not_run(new_format: bool, mbv2: State, tmp_path: Path) -> None:
    planted, path = tmp_path / "planted", tmp_path / "weights.pth"
    torch.save({**mbv2, "epoch": Plants(planted)}, path, _use_new_zipfile_serialization=new_format)
    message = refusal(path)
    assert not planted.exists()
    assert "code" in message
    torch.load(path, weights_only=False)  # the file is live
    assert planted.exists()


@pytest.mark.parametrize(
    "content",
    [
        None,
        3,
        "state_dict",
        torch.ones(3),
        [torch.ones(3)],
        {},
        {"state_dict": {}},
        {"state_dict": None},
        {"model": {"state_dict": 3}},
        {"weights": [torch.ones(3)]},
        {"epoch": 3},
        {1: torch.ones(3)},
        {"segm.weight": [1.0]},
        {"": torch.ones(3)},
        {"module.": torch.ones(3)},
    ],
    ids=repr,
)
def test_files_without_weights_are_refused(content: object, tmp_path: Path) -> None:
    path = saved(tmp_path, content)
    assert str(path) in refusal(path)


def test_a_wrapper_that_wraps_itself_is_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["model"] = endless
    path = saved(tmp_path, endless)

    def give_up(*_: object) -> None:
        raise TimeoutError("still unwrapping")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        refusal(path)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["segm.weight", "layer2.0.output.0.1.running_var"])
def test_values_that_are_not_finite_are_refused(key: str, value: float, mbv2: State, tmp_path: Path) -> None:
    broken = mbv2[key].clone()
    broken.view(-1)[-1] = value
    message = refusal(saved(tmp_path, {**mbv2, key: broken}))
    assert key in message
    assert "finite" in message


def test_a_double_beyond_float32_is_not_finite(mbv2: State, tmp_path: Path) -> None:
    broken = mbv2["segm.bias"].double()
    broken[3] = 1e300
    assert "finite" in refusal(saved(tmp_path, {**mbv2, "segm.bias": broken}))


@pytest.mark.parametrize("key", ["segm.weight", "conv7.weight"])
@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.to(torch.int64),
        lambda weight: weight.to(torch.complex64),
        lambda weight: weight.to_sparse(),
        lambda weight: weight.to("meta"),
        lambda weight: torch.zeros(1).expand(1 << 60),  # four bytes on disk
    ],
    ids=["integer", "complex", "sparse", "meta", "vast"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of sparse tensors
def test_tensors_that_hold_no_plain_weights_are_refused(
    change: Callable[[Tensor], Tensor], key: str, mbv2: State, tmp_path: Path
) -> None:
    assert str(tmp_path) in refusal(saved(tmp_path, {**mbv2, key: change(mbv2[key])}))


@pytest.fixture(scope="module")
def small_files() -> list[bytes]:
    """One file of each format, of a network nobody knows: whatever its bytes become, it is refused."""
    state = {"conv.weight": torch.arange(8.0), "conv.bias": torch.ones(2)}
    files = []
    for write in (
        lambda file: torch.save({"state_dict": state, "best_val": np.float64(0.5)}, file),
        lambda file: torch.save(state, file, _use_new_zipfile_serialization=False),
        lambda file: file.write(safetensors.torch.save(state, {"format": "pt"})),
    ):
        with tempfile.TemporaryFile() as file:
            write(file)
            file.seek(0)
            files.append(file.read())
    return files


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_bytes_are_refused(data: st.DataObject, small_files: list[bytes], tmp_path: Path) -> None:
    content = bytearray(data.draw(st.sampled_from(small_files)))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8)):
        content[at] = byte
    path = tmp_path / "weights.pth"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    refusal(path)


# --- our own files


def small(name: str = "rf_lw_mbv2", classes: int = 5, **variant: Any) -> Any:
    """A network with every tensor off the value that `create` gives it."""
    with torch.device("meta"):
        module = create(name, classes, **variant).eval()
    module.to_empty(device="cpu")
    torch.manual_seed(0)
    for key, tensor in module.state_dict().items():
        if tensor.ndim > 1:
            tensor.uniform_(-1, 1).mul_(math.sqrt(2 / tensor[0].numel()))
        elif tensor.ndim:
            tensor.uniform_(0.2, 0.8) if key.endswith(("weight", "var")) else tensor.uniform_(-0.2, 0.2)
        else:
            tensor.zero_()
    return module


@pytest.mark.processor
@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("rf_lw_mbv2", {}),
        ("rf_lw_mbv2", {"crp": "conv_pool", "align_corners": False, "crp_blocks": 2}),
        ("rf_lw_effnet_lite0", {}),
        ("rf_lw50", {"crp": "conv_pool"}),
        ("rf50", {"cascade": 2, "scales": 2, "crp": "conv_pool", "crp_blocks": 3, "align_corners": False}),
    ],
)
def test_a_saved_network_comes_back(name: str, variant: dict[str, Any], tmp_path: Path) -> None:
    module = small(name, **variant)
    path = tmp_path / "model.safetensors"
    save_checkpoint(module, path)
    restored = load_checkpoint(path, num_classes=5)
    path.unlink()
    assert restored.spec == module.spec
    assert all(getattr(restored.spec, field) == value for field, value in variant.items())
    saved_state = module.state_dict()
    assert all(torch.equal(value, saved_state[key]) for key, value in restored.state_dict().items())
    x = image(33, 49)
    logits = module(x)
    assert logits.std() > 0.01
    assert relative_error(restored(x), logits) < rounding(module)
    for form in ({"crp": FORMS[module.spec.crp]}, {"align_corners": not module.spec.align_corners}):
        other = small(name, **{**variant, **form})
        other.load_state_dict(saved_state)
        assert relative_error(other(x), logits) > 100 * rounding(module)  # the bound knows another network


def rounding(module: nn.Module) -> float:
    """How far two orders of float32's sums may move the greatest logit, relative to it.

    The file's weights lie where they were mapped, not at multiples of 64 bytes, so that a kernel may add in another
    order, as the widths of AVX2 and AVX-512 do. Each convolution then differs by a rounding of its result, and the
    network, all of whose paths are sums and normalised, passes on what its convolutions add up to.
    """
    return sum(isinstance(part, nn.Conv2d) for part in module.modules()) * torch.finfo(torch.float32).eps


def test_a_published_checkpoint_survives_conversion(mbv2: State, tmp_path: Path) -> None:
    save_checkpoint(load_checkpoint(saved(tmp_path, WRAPPERS["lw_train"](mbv2))), tmp_path / "model.safetensors")
    assert_is(tmp_path / "model.safetensors", "lw_mbv2", mbv2)


def test_tensors_that_share_memory_survive_conversion(mbv2: State, tmp_path: Path) -> None:
    tied = {**mbv2, "conv_adapt3.weight": mbv2["conv_adapt2.weight"]}
    save_checkpoint(load_checkpoint(saved(tmp_path, tied)), tmp_path / "model.safetensors")
    assert_is(tmp_path / "model.safetensors", "lw_mbv2", tied)


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path: Path) -> None:
    module = small()
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_checkpoint(module, full)
    save_checkpoint(module, half, dtype=torch.float16)
    assert half.stat().st_size < 0.55 * full.stat().st_size
    assert all(p.dtype == torch.float32 for p in module.parameters())  # the module itself stays as it is
    restored = load_checkpoint(half)
    for (key, was), now in zip(module.named_parameters(), restored.parameters(), strict=True):
        assert now.dtype == torch.float32, key
        assert torch.equal(was.half().float(), now), key


def test_values_beyond_the_precision_are_not_written(tmp_path: Path) -> None:
    module = small()
    next(module.buffers()).fill_(1e6)
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError):
        save_checkpoint(module, path, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failed_save_leaves_the_old_file(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old file")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(small(), path)
    assert path.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        save_checkpoint(small(), tmp_path / "nowhere" / "model.safetensors")


@pytest.fixture(scope="module")
def own_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("own") / "model.safetensors"
    save_checkpoint(small(), path)
    return path.read_bytes()


SPEC = {
    "name": "rf_lw_mbv2",
    "num_classes": 5,
    "cascade": 4,
    "scales": 1,
    "crp": "pool_conv",
    "crp_blocks": 4,
    "align_corners": True,
}


TAMPERED: list[dict[str, Any]] = [
    {"name": "rf_lw_mbv3"},
    {"name": None},
    {"name": ["rf_lw_mbv2"]},
    {"num_classes": "5"},
    {"num_classes": 5.0},
    {"num_classes": True},
    {"num_classes": -1},
    {"num_classes": 10**30},
    {"num_classes": 6},
    {"cascade": 3},
    {"crp_blocks": 4.0},
    {"crp_blocks": 10**9},
    {"crp": {}},
    {"align_corners": "no"},
    {"align_corners": None},
    {"spam": 1},
]


@pytest.mark.parametrize(
    "spec",
    [
        *(pytest.param(json.dumps({**SPEC, **change}), id=str(change)) for change in TAMPERED),
        *("", "null", "[]", "3", "{}"),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_spec_that_was_tampered_with_is_refused(spec: str, own_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(own_file)
    refusal(with_header(path, spec=spec))
