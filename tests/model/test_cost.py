"""What a network costs, held to the papers and to the traced graph."""

from __future__ import annotations

from math import prod

import pytest
import torch

from refinenet_edge.errors import InputError
from refinenet_edge.model import MODELS
from refinenet_edge.model.cost import cost
from tests.conftest import ODD, Traced, network

# millions: Light-Weight RefineNet (BMVC 2018) table 1; RefineNet-101 there too
PAPER = {"rf101": 118.0, "rf_lw50": 27.0, "rf_lw101": 46.0, "rf_lw152": 62.0, "rf_lw_mbv2": 3.3}


@pytest.mark.parametrize("name", PAPER)
def test_the_parameters_are_those_of_the_paper(name: str) -> None:
    assert cost(name, 21, (64, 64)).parameters / 1e6 == pytest.approx(PAPER[name], rel=0.015)


@pytest.mark.parametrize("name", ["rf_lw_mbv2", "rf_lw50"])
def test_the_multiplications_are_those_of_the_graph(traced: Traced, name: str) -> None:
    macs = sum(
        prod(map(int, node.inputs[1].shape)) * prod(map(int, node.outputs[0].shape[2:]))
        for node in traced(name, ODD).graph
        if node.op_type == "Conv"
    )
    assert cost(name, 21, ODD).macs == macs


def test_the_parameters_are_those_of_the_module() -> None:
    assert cost("rf_lw_mbv2", 21, (64, 64)).parameters == sum(p.numel() for p in network("rf_lw_mbv2").parameters())


def test_four_times_the_pixels_cost_four_times_as_much() -> None:
    small, large = cost("rf_lw_mbv2", 21, (128, 256)), cost("rf_lw_mbv2", 21, (256, 512))
    assert large.macs == 4 * small.macs
    assert large.parameters == small.parameters


def test_a_class_more_is_a_filter_more() -> None:
    fewer, more = cost("rf_lw_mbv2", 20, (64, 64)), cost("rf_lw_mbv2", 21, (64, 64))
    assert more.parameters - fewer.parameters == 256 * 9 + 1
    assert more.macs - fewer.macs == 256 * 9 * 16 * 16


def test_nothing_is_allocated_nor_drawn() -> None:
    before = torch.random.get_rng_state()
    assert cost("rf152", 255, (2048, 2048)).macs > 1e12
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_network_has_a_cost() -> None:
    assert all(cost(name, 21, (64, 64)).macs > 0 for name in MODELS)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(InputError, match="no model named 'resnet'"):
        cost("resnet", 21, (64, 64))
