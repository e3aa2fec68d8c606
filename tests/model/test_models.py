"""The networks keep their contract, and their blocks compute what the paper draws."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from refinenet_edge.errors import InputError
from refinenet_edge.model import MODELS, create, load_checkpoint
from refinenet_edge.model.blocks import (
    BlockStyle,
    ChainedResidualPooling,
    CrpOrder,
    MultiResolutionFusion,
    ResidualConvUnit,
    bilinear,
)
from tests.ports import PORTS, Form, Port, mbv2_logits, mbv2_shapes, random_state, resnet_logits

PUBLISHED = ("rf50", "rf101", "rf152", "rf_lw50", "rf_lw101", "rf_lw152", "rf_lw_mbv2")  # by the papers' authors
NAMES = (*PUBLISHED, "rf_lw_effnet_lite0")
FULL, LIGHT = PUBLISHED[:3], NAMES[3:]
LAYOUTS: dict[str, Port] = {port.network: port for layout, port in PORTS.items() if not port.collapse_ind}
SIZES = [(64, 64), (97, 130)]


def quarter(side: int) -> int:
    return math.ceil(math.ceil(side / 2) / 2)


def image(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@functools.cache
def drawn(name: str, num_classes: int = 21, **variant: Any) -> Any:
    """A network without storage: shapes and structure only."""
    with torch.device("meta"):
        return create(name, num_classes, **variant).eval()


def shape_of(net: nn.Module, height: int, width: int) -> tuple[int, ...]:
    return tuple(net(torch.empty(1, 3, height, width, device="meta")).shape)


def parts(net: nn.Module) -> Counter[str]:
    return Counter(type(part).__name__ for part in net.modules())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On maps as small as these a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- every network


def test_all_eight_networks_are_listed() -> None:
    assert set(MODELS) == set(NAMES)


@pytest.fixture(scope="class", params=NAMES)
def net(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return create(request.param, 5).eval()


class TestEveryNetwork:
    @torch.no_grad()
    def test_logits_are_at_a_quarter_finite_and_reproducible(self, net: Any) -> None:
        x = image(33, 64)
        kept = x.clone()
        logits = net(x)
        assert logits.shape == (1, 5, 9, 16)
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()
        assert logits.std() > 0
        assert torch.equal(net(x), logits)
        assert torch.equal(x, kept)

    @torch.no_grad()
    def test_images_of_a_batch_do_not_meet(self, net: Any) -> None:
        x = image(20, 33, batch=2)
        apart = torch.cat([net(x[:1]), net(x[1:])])
        assert (net(x) - apart).abs().max() <= 1e-4 * apart.abs().max()

    def test_the_spec_says_what_it_is(self, net: Any) -> None:
        assert net.spec.name in NAMES
        assert (net.spec.num_classes, net.spec.cascade, net.spec.scales) == (5, 4, 1)
        assert (net.spec.crp, net.spec.crp_blocks, net.spec.align_corners) == ("pool_conv", 4, True)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_at_a_quarter(name: str, height: int, width: int) -> None:
    assert shape_of(drawn(name), height, width) == (1, 21, quarter(height), quarter(width))


@torch.no_grad()
def test_a_frame_of_nyu_size() -> None:
    assert create("rf_lw_mbv2", 40).eval()(image(468, 625)).shape == (1, 40, 117, 157)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_published_network(name: str) -> None:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    published = LAYOUTS[name].shapes(21)
    expected = Counter(shape for key, shape in published.items() if not key.endswith(buffers))
    assert Counter(tuple(p.shape) for p in drawn(name).parameters()) == expected


@pytest.mark.parametrize(
    ("name", "millions"), [("rf101", 118.05), ("rf_lw50", 27.36), ("rf_lw101", 46.35), ("rf_lw152", 61.99)]
)
def test_parameter_counts_are_the_published_ones(name: str, millions: float) -> None:
    assert sum(p.numel() for p in drawn(name).parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", ["rf_lw_mbv2", "rf_lw_effnet_lite0", "rf50"])
def test_training_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    net = create(name, 3)
    assert net.training
    net(image(33, 40, batch=2)).square().mean().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize(
    ("name", "expected"), [("rf50", 3), ("rf101", 3), ("rf_lw50", 2), ("rf_lw_mbv2", 0), ("rf_lw_effnet_lite0", 0)]
)
def test_dropout_acts_where_the_authors_have_it(name: str, expected: int) -> None:
    """Half of the 1/16 and 1/32 taps, and for RefineNet itself half of what the classifier sees."""
    with torch.device("meta"):
        net = create(name, 21)
    dropped: list[int] = []
    for part in net.modules():
        if isinstance(part, nn.Dropout):
            assert part.p == 0.5
            part.register_forward_hook(lambda part, args, out: dropped.append(out.shape[1]))
    net(torch.empty(2, 3, 64, 64, device="meta"))
    assert sorted(dropped) == [256, 1024, 2048][-expected:] if expected else not dropped


# --- variants


@pytest.mark.parametrize("crp", ["pool_conv", "conv_pool"])
@pytest.mark.parametrize("scales", [1, 2])
@pytest.mark.parametrize("cascade", [1, 2, 4])
def test_every_variant_gives_logits_at_a_quarter(cascade: int, scales: int, crp: CrpOrder) -> None:
    net = drawn("rf50", 6, cascade=cascade, scales=scales, crp=crp)
    assert (net.spec.cascade, net.spec.scales, net.spec.crp) == (cascade, scales, crp)
    assert shape_of(net, 97, 130) == (1, 6, 25, 33)


@pytest.mark.parametrize(("name", "scales"), [("rf50", 1), ("rf50", 2), ("rf_lw50", 1), ("rf_lw_mbv2", 1)])
def test_every_size_gives_logits_at_a_quarter(name: str, scales: int) -> None:
    net = drawn(name, 3, scales=scales)

    @settings(max_examples=5, deadline=None, derandomize=True)
    @given(height=st.integers(8, 300), width=st.integers(8, 300))
    def holds(height: int, width: int) -> None:
        assert shape_of(net, height, width) == (1, 3, quarter(height), quarter(width))

    holds()


@pytest.mark.parametrize(
    ("cascade", "scales", "blocks", "fusions", "units"),
    [
        # two units per backbone path, three after each pooling; a lone path has nothing to fuse
        (4, 1, 4, 3, 4 * 2 + 4 * 3),
        (2, 1, 2, 2, 4 * 2 + 2 * 3),
        (1, 1, 1, 1, 4 * 2 + 1 * 3),
        (4, 2, 4, 4, 8 * 2 + 4 * 3),
        (2, 2, 2, 2, 8 * 2 + 2 * 3),
        (1, 2, 1, 1, 8 * 2 + 1 * 3),
    ],
)
def test_blocks_are_as_many_as_in_the_paper(cascade: int, scales: int, blocks: int, fusions: int, units: int) -> None:
    found = parts(drawn("rf50", cascade=cascade, scales=scales))
    assert found["ChainedResidualPooling"] == blocks
    assert found["MultiResolutionFusion"] == fusions
    assert found["ResidualConvUnit"] == units
    assert found["Bottleneck"] == scales * 16


@pytest.mark.parametrize("name", LIGHT)
def test_light_weight_networks_have_no_residual_units(name: str) -> None:
    found = parts(drawn(name))
    assert found["ResidualConvUnit"] == 0
    assert found["ChainedResidualPooling"] == 4


@pytest.mark.parametrize("crp_blocks", [1, 2, 4])
def test_the_length_of_the_pooling_chain_is_chosen(crp_blocks: int) -> None:
    longest, chosen = drawn("rf_lw50"), drawn("rf_lw50", crp_blocks=crp_blocks)
    per_link = 512 * 512 + 3 * 256 * 256
    missing = sum(p.numel() for p in longest.parameters()) - sum(p.numel() for p in chosen.parameters())
    assert missing == (4 - crp_blocks) * per_link


FORMS = [Form(pool_first=False), Form(align_corners=False), Form(False, False)]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("name", ["rf_lw_mbv2", "rf50"])
@torch.no_grad()
def test_crp_order_and_align_corners_reach_every_block(name: str, form: Form, full50: Any, mobile: Any) -> None:
    state, published = mobile if name == "rf_lw_mbv2" else full50
    crp: CrpOrder = "pool_conv" if form.pool_first else "conv_pool"
    with torch.device("meta"):
        net = create(name, 21, crp=crp, align_corners=form.align_corners).eval()
    net.load_state_dict(published, assign=True)
    x = image(50, 65)
    expected = (mbv2_logits if name == "rf_lw_mbv2" else resnet_logits)(state, x, form)
    assert (net(x) - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("form", FORMS, ids=str)
@torch.no_grad()
def test_the_ports_tell_the_variants_apart(form: Form, mobile: Any) -> None:
    state, _ = mobile
    x = image(50, 65)
    logits = mbv2_logits(state, x)
    assert (mbv2_logits(state, x, form) - logits).abs().max() > 1e-2 * logits.abs().max()


@pytest.fixture(scope="module")
def full50(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded("rf50", tmp_path_factory)


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded("rf_lw_mbv2", tmp_path_factory)


def loaded(name: str, folders: pytest.TempPathFactory) -> Any:
    """A published state_dict and the same weights under our names."""
    state = random_state(LAYOUTS[name].shapes(21))
    path = folders.mktemp("models") / "weights.pth"
    torch.save(state, path)
    module = load_checkpoint(path)
    path.unlink()
    return state, module.state_dict()


# --- what nobody described


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError) as caught:
        create("rf18", 21)
    assert "rf18" in str(caught.value)
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize(
    "argument",
    [
        {"cascade": 3},
        {"cascade": 0},
        {"scales": 3},
        {"scales": 0},
        {"crp": "pool"},
        {"crp_blocks": 0},
        {"crp_blocks": -1},
        {"num_classes": 0},
        {"num_classes": -1},
        {"num_classes": 256},
    ],
    ids=str,
)
def test_a_bad_argument_is_named(argument: dict[str, Any]) -> None:
    arguments = {"num_classes": 21, **argument}
    with pytest.raises(InputError, match=next(iter(argument))), torch.device("meta"):
        create("rf50", **arguments)


@pytest.mark.parametrize("variant", [{"cascade": 1}, {"cascade": 2}, {"scales": 2}], ids=str)
@pytest.mark.parametrize("name", LIGHT)
def test_light_weight_networks_have_one_wiring(name: str, variant: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=name), torch.device("meta"):
        create(name, 21, **variant)


# --- blocks, by hand


def fill(module: nn.Module) -> dict[str, Tensor]:
    """Random values for every parameter, by name."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return dict(module.named_parameters())


@torch.no_grad()
def test_rcu_adds_to_the_value_before_its_relu() -> None:
    unit = ResidualConvUnit(1)
    for parameter in unit.parameters():
        parameter.zero_()
    unit.conv1.weight[..., 1, 1] = 2
    unit.get_parameter("conv1.bias").fill_(1)
    unit.conv2.weight[..., 1, 1] = -1
    x = torch.tensor([-3.0, 0.0, 2.0]).reshape(1, 1, 1, 3)
    #         x - relu(2 relu(x) + 1)
    assert unit(x).flatten().tolist() == [-4.0, -1.0, -3.0]
    assert x.flatten().tolist() == [-3.0, 0.0, 2.0]  # not changed in place


@torch.no_grad()
def test_rcu_convolves_3x3_with_a_bias_in_the_first_only() -> None:
    unit = ResidualConvUnit(4)
    assert {key: tuple(p.shape) for key, p in unit.named_parameters()} == {
        "conv1.weight": (4, 4, 3, 3),
        "conv1.bias": (4,),
        "conv2.weight": (4, 4, 3, 3),
    }
    p = fill(unit)
    x = torch.randn(2, 4, 7, 9)
    inner = F.relu(F.conv2d(F.relu(x), p["conv1.weight"], p["conv1.bias"], padding=1))
    assert torch.allclose(unit(x), x + F.conv2d(inner, p["conv2.weight"], padding=1), atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("order", ["pool_conv", "conv_pool"])
@pytest.mark.parametrize(("activation", "reference"), [(nn.ReLU, F.relu), (nn.ReLU6, F.relu6)])
@torch.no_grad()
def test_crp_chains_and_sums(activation: Any, reference: Any, order: Any, blocks: int, kernel: int) -> None:
    block = ChainedResidualPooling(4, BlockStyle(kernel, crp_blocks=blocks, crp=order, activation=activation))
    weights = list(fill(block).values())
    assert [tuple(w.shape) for w in weights] == [(4, 4, kernel, kernel)] * blocks
    x = 5 * torch.randn(2, 4, 9, 11)
    total = link = reference(x)
    for weight in weights:
        if order == "pool_conv":
            link = F.conv2d(F.max_pool2d(link, 5, 1, 2), weight, padding=kernel // 2)
        else:
            link = F.max_pool2d(F.conv2d(link, weight, padding=kernel // 2), 5, 1, 2)
        total = total + link
    assert torch.allclose(block(x), total, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_crp_pools_negative_values_at_the_border_as_they_are() -> None:
    """Zero padding of the pool would let a 0 win over the negative second link."""
    block = ChainedResidualPooling(1, BlockStyle(1, crp_blocks=2))
    first, second = block.parameters()
    first.fill_(-1)
    second.fill_(1)
    x = torch.full((1, 1, 3, 3), 2.0)
    # 2, then -2, then max(-2) = -2
    assert block(x).flatten().tolist() == [-2.0] * 9


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
@torch.no_grad()
def test_mrf_convolves_then_upsamples_to_the_largest_and_sums(kernel: int, align_corners: bool) -> None:
    upsample = partial(bilinear, align_corners=align_corners)
    fusion = MultiResolutionFusion([4, 6, 3], 4, [False, False, True], BlockStyle(kernel, upsample=upsample))
    weights = list(fill(fusion).values())
    assert [tuple(w.shape) for w in weights] == [(4, c, kernel, kernel) for c in (4, 6, 3)]
    fine, same, coarse = torch.randn(2, 4, 9, 12), torch.randn(2, 6, 9, 12), torch.randn(2, 3, 5, 6)
    up = F.interpolate(
        F.conv2d(coarse, weights[2], padding=kernel // 2), (9, 12), mode="bilinear", align_corners=align_corners
    )
    expected = sum((F.conv2d(x, w, padding=kernel // 2) for x, w in zip((fine, same), weights, strict=False)), start=up)
    assert torch.allclose(fusion(fine, same, coarse), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("align_corners", "expected"),
    [(True, [0.0, 1.0, 2.0, 3.0]), (False, [0.0, 0.75, 2.25, 3.0])],
    ids=["corners", "pixels"],
)
@torch.no_grad()
def test_mrf_upsamples_fixed_numbers(align_corners: bool, expected: list[float]) -> None:
    style = BlockStyle(1, upsample=partial(bilinear, align_corners=align_corners))
    fusion = MultiResolutionFusion([1, 1], 1, [False, True], style)
    for parameter in fusion.parameters():
        parameter.fill_(1)
    fused = fusion(torch.full((1, 1, 1, 4), 10.0), torch.tensor([0.0, 3.0]).reshape(1, 1, 1, 2))
    assert fused.flatten().tolist() == pytest.approx([10 + value for value in expected], abs=1e-5)


def test_mobile_port_has_every_tap() -> None:
    """The table behind the MobileNet-v2 tests: 24 at 1/4, 32 at 1/8, 64 and 96 at 1/16, 160 and 320 at 1/32."""
    shapes = mbv2_shapes(21)
    assert [shapes[f"conv{layer}.weight"][1] for layer in range(3, 9)] == [24, 32, 64, 96, 160, 320]
