"""Nodes that pass their input through go."""

from __future__ import annotations

import numpy as np

from refinenet_edge.fusion.remove_identities import REWRITE
from tests.conftest import apply, graph, operators


def test_an_identity_goes() -> None:
    model = graph("a = Identity(x) b = Relu(a) c = Identity(b) y = Neg(c)")
    assert apply(REWRITE, model).fired == 2
    assert operators(model) == ["Relu", "Neg"]


def test_an_identity_before_the_output_goes_and_the_name_stays() -> None:
    model = graph("a = Relu(x) y = Identity(a)")
    apply(REWRITE, model)
    assert operators(model) == ["Relu"]
    assert model.graph.outputs[0].name == "y"


def test_an_identity_from_input_to_output_stays() -> None:
    model = graph("y = Identity(x)")
    assert apply(REWRITE, model).fired == 0
    assert operators(model) == ["Identity"]


def test_a_dropout_outside_training_goes() -> None:
    model = graph("a = Dropout(x) b = Relu(a) c = Dropout(b, r, t) y = Neg(c)", r=np.float32(0.5), t=np.array(False))
    assert apply(REWRITE, model).fired == 2
    assert operators(model) == ["Relu", "Neg"]


def test_a_dropout_in_training_stays() -> None:
    model = graph("a = Relu(x) y = Dropout <seed = 1> (a, r, t)", r=np.float32(0.5), t=np.array(True))
    assert apply(REWRITE, model).fired == 0
    assert operators(model) == ["Relu", "Dropout"]


def test_a_dropout_that_may_be_told_to_train_stays() -> None:
    model = graph("y = Dropout(x, r, t)", inputs="float[1,8,5,7] x, bool t", r=np.float32(0.5))
    REWRITE(model)
    assert operators(model) == ["Dropout"]


def test_a_dropout_whose_mask_is_read_stays() -> None:
    model = graph("a, m = Dropout(x) f = Cast <to = 1> (m) y = Add(a, f)")
    assert apply(REWRITE, model).fired == 0
    assert operators(model) == ["Dropout", "Cast", "Add"]


def test_an_older_dropout_before_the_output_goes() -> None:
    model = graph("a = Relu(x) y = Dropout <ratio = 0.5> (a)", opset=10)
    assert apply(REWRITE, model).fired == 1
    assert operators(model) == ["Relu"]
    assert model.graph.outputs[0].name == "y"
