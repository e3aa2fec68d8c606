"""examples/train_scenes.py on a tiny plan: what it writes, and that a stopped run goes on as if it had not stopped."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from refinenet_edge.labels import SCENES
from refinenet_edge.model import load_checkpoint

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_scenes.py"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take many times as long when the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_scenes", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_scenes"] = module  # dataclasses and the loader's workers look it up
    spec.loader.exec_module(module)
    # the tests of a whole suite share this process with other libraries' threads, which a forked worker can wait for
    module.WORKERS = 0
    return module


def tiny(example: ModuleType, **changes: Any) -> Any:
    plan = {
        "steps": 4,
        "crop_share": 0.5,
        "full_share": 0.25,
        "frame": 96,
        "crop": 48,
        "scenes": 2,
        "small": ((64, 3),),
    }
    return example.Plan(**(plan | {"validate_every": 2, "quick": 1, "thorough": 2} | changes))


def losses(out: Path) -> list[float]:
    with (out / "curve.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_run_writes_its_curve_weights_and_card(example: ModuleType, tmp_path: Path) -> None:
    trainer = example.Trainer(tiny(example), tmp_path, torch.device("cpu"))
    assert trainer.run()
    card = trainer.finish()
    with (tmp_path / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["images"] for row in rows] == ["4", "8", "11", "13"]  # two steps of crops, small frames, full
    assert [bool(row["val_miou"]) for row in rows] == [False, True, False, True]
    assert json.loads((tmp_path / "card.json").read_text("utf-8")) == json.loads(json.dumps(card))
    assert list(card["iou"]) == list(SCENES.names)
    assert card["steps"] == 4
    module = load_checkpoint(tmp_path / "rf_lw_mbv2_scenes.safetensors", num_classes=8)
    assert module(torch.zeros(1, 3, 64, 64)).shape == (1, 8, 16, 16)


def test_a_stopped_run_goes_on_with_the_same_samples_and_losses(example: ModuleType, tmp_path: Path) -> None:
    plan = tiny(example, validate_every=100)
    assert example.Trainer(plan, tmp_path / "whole", torch.device("cpu")).run()
    assert not example.Trainer(plan, tmp_path / "parts", torch.device("cpu")).run(until=2)
    again = example.Trainer(plan, tmp_path / "parts", torch.device("cpu"))
    assert again.step == 2
    assert again.run()
    np.testing.assert_allclose(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-2)


def test_stopping_keeps_what_was_trained(example: ModuleType, tmp_path: Path) -> None:
    trainer = example.Trainer(tiny(example), tmp_path, torch.device("cpu"))
    trainer.stop = True  # as Ctrl-C does
    assert not trainer.run()
    assert example.Trainer(tiny(example), tmp_path, torch.device("cpu")).step == 1


def test_another_plan_does_not_go_on_in_the_same_folder(example: ModuleType, tmp_path: Path) -> None:
    example.Trainer(tiny(example), tmp_path, torch.device("cpu")).save()
    with pytest.raises(example.click.ClickException, match="another run"):
        example.Trainer(tiny(example, seed=2), tmp_path, torch.device("cpu"))


def test_a_sample_is_a_function_of_its_number(example: ModuleType) -> None:
    batches = example.Batches(tiny(example))
    images, labels = batches[1]
    assert images.shape == (4, 3, 48, 48)
    assert labels.shape == (4, 48, 48)
    assert bool((batches[1][1] == labels).all())
    assert batches[2][0].shape == (3, 3, 64, 64)
    assert batches[3][0].shape == (2, 3, 96, 96)


def test_iou_of_a_perfect_and_of_a_constant_network(example: ModuleType) -> None:
    class Constant(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(image), 8, 16, 16)
            logits[:, 2] = 1
            return logits

    ious = example.iou_per_class(Constant(), 2, 64, torch.device("cpu"), fast=False)
    truths = np.stack([example.scene(example.VALIDATION, index, (64, 64))[1] for index in range(2)])
    assert ious[2] == pytest.approx((truths == 2).mean())
    assert ious[0] == 0
