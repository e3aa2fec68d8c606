"""The authors' models, against `tests.authors`: their logits, and files that only resemble one."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refinenet_edge.errors import CheckpointError, InputError
from refinenet_edge.model import load_checkpoint
from refinenet_edge.model.cubic import resize_cubic
from refinenet_edge.model.matconvnet import read_network
from refinenet_edge.runtime.frame import prepare
from tests import authors

Writer = Callable[[authors.Saved, Path], Path]


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def tiny(path: Path, channels: int = 5, change: Callable[[authors.Saved], None] | None = None, **how: Any) -> Path:
    """A network of few weights, changed before it is written: enough for all that is not arithmetic."""
    saved = authors.network(50, channels, tiny=True, **how)
    if change:
        change(saved)
    saved.config = authors.config(saved)
    return authors.write_5(saved, path / "refinenet.mat")


# --- whole networks


def test_the_authors_logits(tmp_path: Path) -> None:
    """On a frame whose coarse sides are odd, so that no map is enlarged by exactly two."""
    saved = authors.network(101, 151, improved=True)
    path = authors.write_73(saved, tmp_path / "refinenet.mat")
    module = load_checkpoint(path)
    path.unlink()  # half a gigabyte
    assert (module.spec.name, module.spec.crp) == ("rf101", "conv_pool")
    image = np.random.default_rng(1).integers(0, 256, (45, 70, 3), np.uint8)
    expected = authors.logits(saved, image)[:, 1:]  # void is the first
    actual = module(torch.from_numpy(prepare(np.ascontiguousarray(image[:, :, ::-1]), module.spec.preprocessing)))
    assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("depth", "write", "improved"),
    [(50, authors.write_73, False), (101, authors.write_5, False), (152, authors.write_5, True)],
)
def test_every_tensor_is_where_its_layer_is(depth: int, write: Writer, improved: bool, tmp_path: Path) -> None:
    saved = authors.network(depth, 7, tiny=True, improved=improved)
    state, modules, spec = read_network(write(saved, tmp_path / "refinenet.mat"), None)
    assert (spec.name, spec.num_classes, spec.crp) == (f"rf{depth}", 7, "conv_pool" if improved else "pool_conv")
    params = saved.encoder.params | saved.decoder.params
    filters = {name.removesuffix("_filter"): value for name, value in params.items() if name.endswith("_filter")}
    assert {key for key in state if key.endswith("weight") and state[key].ndim == 4} == {
        *(f"{name}.weight" for name in filters),
        "final_loss.weight",
    }
    for name, value in filters.items():
        assert np.array_equal(state[f"{name}.weight"].numpy(), value.transpose(3, 2, 0, 1))
    sixth = "res4f_branch2b" if depth == 50 else "res4b5_branch2b"
    assert modules[sixth] == "encoders.0.layer3.5.conv2"
    assert modules["res3a_branch1"] == "encoders.0.layer2.0.downsample.0"
    assert modules["bn3a_branch1"] == "encoders.0.layer2.0.downsample.1"
    assert modules["p_ims1d2_outl1_dimred"] == "refine4.adapt.0.0"
    assert modules["adapt_input_path4_b2_conv"] == "refine1.adapt.0.2.conv1"
    assert modules["adapt_input_path2_b2_joint_varout_dimred"] == "refine3.mrf.convs.0"
    assert modules["mflow_conv_g1_b3_joint_varout_dimred"] == "refine3.mrf.convs.1"
    assert modules["final_loss"] == "classifier"


def test_sigma_is_divided_by_and_a_bias_is_part_of_the_mean(tmp_path: Path) -> None:
    saved = authors.network(50, 5, tiny=True)
    state = read_network(authors.write_5(saved, tmp_path / "refinenet.mat"), None).state
    (mean, sigma), params = saved.encoder.params["bn_conv1_moments"].T, saved.encoder.params
    assert np.allclose(state["bn_conv1.weight"], params["bn_conv1_mult"].ravel() / sigma)
    assert np.allclose(state["bn_conv1.running_mean"], mean - params["conv1_bias"].ravel())
    assert np.allclose(state["bn_conv1.running_var"] + 1e-5, 1)
    assert "conv1.bias" not in state


# --- classes


@pytest.mark.parametrize(
    ("channels", "labels", "kept"),
    [
        (22, "voc", slice(0, 21)),
        (20, "cityscapes", slice(0, 19)),
        (41, "nyu40", slice(0, 40)),
        (7, None, slice(0, 7)),
        (60, None, slice(0, 60)),
        (38, "sun37", slice(1, 38)),
        (151, "ade150", slice(1, 151)),
    ],
)
def test_void_is_left_out_of_every_data_set(
    channels: int, labels: str | None, kept: slice, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = authors.network(50, channels, tiny=True)
    path = authors.write_5(saved, tmp_path / "refinenet.mat")
    with caplog.at_level(logging.WARNING):
        state, _, spec = read_network(path, None)
    assert spec.num_classes == len(state["final_loss.weight"]) == len(range(channels)[kept])
    assert np.array_equal(state["final_loss.bias"].numpy(), saved.classifier["biases"].ravel()[kept])
    assert [labels in record.getMessage() for record in caplog.records if labels] == ([True] if labels else [])
    assert len(caplog.records) == bool(labels)
    assert read_network(path, channels).spec.num_classes == channels  # asked for: kept


# --- what is no RefineNet


def block(saved: authors.Saved, name: str) -> dict[str, Any]:
    return layer(saved, name)["block"]


def layer(saved: authors.Saved, name: str) -> dict[str, Any]:
    return next(x for x in saved.encoder.layers + saved.decoder.layers if x["name"] == name)


def set_(name: str, field: str, value: Any) -> Callable[[authors.Saved], None]:
    return lambda saved: block(saved, name).update({field: value})


def wired(name: str, *inputs: str) -> Callable[[authors.Saved], None]:
    return lambda saved: layer(saved, name).update(inputs=list(inputs))


def remove(name: str) -> Callable[[authors.Saved], None]:
    return lambda saved: saved.decoder.layers.remove(layer(saved, name))


def one_more(saved: authors.Saved) -> None:
    saved.decoder.relu("aside", saved.output, "aside_varout")


def two_encoders(saved: authors.Saved) -> None:
    infos = saved.config.ref["group_infos"]
    infos.append(infos[2])


ANOTHER: dict[str, tuple[Callable[[authors.Saved], None], str]] = {
    "stride on the 3x3": (set_("res3a_branch2a", "stride", np.ones((1, 2))), "res3a_branch2a has stride"),
    "strides that differ": (set_("res3a_branch2a", "stride", np.array([[1.0, 2.0]])), "res3a_branch2a has stride"),
    "no padding": (set_("p_ims1d2_outl2_dimred", "pad", np.zeros((1, 4))), "outl2_dimred has pad"),
    "padding on one side": (set_("pool1", "pad", np.array([[0.0, 1, 0, 1]])), "pool1 has pad"),
    "dilated": (set_("res5a_branch2b", "dilate", np.full((1, 2), 2.0)), "res5a_branch2b has dilate"),
    "average pooling": (set_("mflow_conv_g1_pool1", "method", "avg"), "mflow_conv_g1_pool1 has method"),
    "leaky": (set_("mflow_conv_g2_b1_conv_relu", "leak", np.full((1, 1), 0.1)), "conv_relu has leak"),
    "a text for a number": (set_("pool1", "stride", "2"), "pool1 has stride '2'"),
    "two shortcuts": (wired("res2a", "bn2a_branch2c", "bn2a_branch2c"), "res2a adds bn2a_branch2c, bn2a_branch2c"),
    "an identity after its ReLU": (
        wired(
            "mflow_conv_g2_b1_joint",
            "mflow_conv_g2_b1_prev_relu_varout",
            "mflow_conv_g2_b1_conv_relu_varout_dimred_varout",
        ),
        "mflow_conv_g2_b1_joint adds",
    ),
    "no sum of the paths": (remove("mflow_joint_g3"), "a RefineNet with 5 paths"),
    "a layer aside": (one_more, "it also has aside"),
    "no bias": (
        lambda saved: layer(saved, "mflow_conv_g3_b2_conv").update(params=[]),
        "has no numbers|should have a bias",
    ),
    "a bias": (
        lambda saved: layer(saved, "p_ims1d2_outl1_dimred").update(params=["p_ims1d2_outl1_dimred_filter"] * 2),
        "outl1_dimred should have no bias",
    ),
    "no numbers": (lambda saved: saved.encoder.params.update(conv1_filter="text"), "conv1 has no"),
    "one moment": (
        lambda saved: saved.encoder.params.update(bn_conv1_moments=np.ones((1, 3), np.float32)),
        "bn_conv1 has no mean and sigma",
    ),
    "a classifier with a stride": (lambda saved: saved.classifier.update(stride=np.full((1, 1), 2.0)), "classifier is"),
    "no classifier": (lambda saved: saved.classifier.pop("filters"), "1 encoders, 1 decoders and 0 classifiers"),
    "another depth": (
        lambda saved: saved.encoder.layers.remove(layer(saved, "bn5c_branch2c")),
        "its encoder has 52 batch norms",
    ),
}


@pytest.mark.parametrize("what", ANOTHER)
def test_another_network_is_refused_by_its_layer(what: str, tmp_path: Path) -> None:
    change, said = ANOTHER[what]
    path = tiny(tmp_path, change=change)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_checkpoint(path)
    assert "refinenet.mat" in str(caught.value)


def test_two_image_scales_are_refused(tmp_path: Path) -> None:
    saved = authors.network(50, 5, tiny=True)
    two_encoders(saved)
    with pytest.raises(CheckpointError, match="on 2 image scales, which is not supported"):
        load_checkpoint(authors.write_5(saved, tmp_path / "refinenet.mat"))


def test_the_encoder_before_training_is_refused(tmp_path: Path) -> None:
    saved = authors.network(50, 5, tiny=True)
    saved.config = authors.RefObj(authors.saveobj(saved.encoder))
    with pytest.raises(CheckpointError, match="1 encoders, 0 decoders and 0 classifiers"):
        load_checkpoint(authors.write_5(saved, tmp_path / "imagenet-resnet-50-dag.mat"))


def test_shapes_and_values_are_refused_by_the_layer_s_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no complete rf50 .* conv1\.weight \(1x1x7x7, not 64x3x7x7\)"):
        load_checkpoint(tiny(tmp_path))


def test_what_the_file_says_is_not_for_the_caller_to_say(tmp_path: Path) -> None:
    path = tiny(tmp_path, improved=True)
    with pytest.raises(CheckpointError, match="has its pooling as conv_pool: leave --crp pool_conv out"):
        load_checkpoint(path, crp="pool_conv")
    with pytest.raises(InputError, match="bicubically"):
        load_checkpoint(path, align_corners=True)


# --- upsampling


def test_bicubic_of_fixed_numbers() -> None:
    """Keys' kernel with a = -0.5 at 0.25, 0.75, 1.25 and 1.75 pixels, by hand; beyond the ends they are repeated."""
    near, mid, far, out = 0.8671875, 0.2265625, -0.0703125, -0.0234375
    column = torch.tensor([0.0, 0, 1, 0, 0])[None, None, :, None]
    expected = [0, out, far, mid, near, near, mid, far, out, 0]
    assert resize_cubic(column, (10, 1)).flatten().tolist() == pytest.approx(expected)
    end = torch.tensor([1.0, 0, 0])[None, None, :, None]
    expected = [out + mid + near, far + near, out + mid, far, out, 0]
    assert resize_cubic(end, (6, 1)).flatten().tolist() == pytest.approx(expected)


def test_bicubic_is_the_authors() -> None:
    x = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(1))
    for size in ((10, 16), (9, 15), (5, 15), (5, 8)):
        assert torch.allclose(resize_cubic(x, size), authors.imresize(x, size), atol=1e-6)


def test_bicubic_can_be_trained_through() -> None:
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        assert torch.autograd.gradcheck(lambda x: resize_cubic(x, (6, 7)), (x,))
