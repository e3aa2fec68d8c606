"""Training drawn scenes on a tiny plan: what a run writes, and that a stopped one goes on as if it had not stopped."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

pytest.importorskip("torch")
import torch
import training
from train_scenes import Batches, Plan, SceneTask, ValidationScenes
from training import Trainer, confusion, iou_per_class

from refinenet_edge.labels import SCENES
from refinenet_edge.model import load_checkpoint
from refinenet_edge.scenes import VALIDATION, scene


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take many times as long when the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole suite shares this process with other libraries' threads, which a forked worker can wait for."""
    monkeypatch.setattr(training, "WORKERS", 0)


def tiny(**changes: Any) -> SceneTask:
    plan = {
        "steps": 4,
        "crop_share": 0.5,
        "full_share": 0.25,
        "frame": 96,
        "crop": 48,
        "scenes": 2,
        "small": ((64, 3),),
    }
    return SceneTask(Plan(**(plan | {"validate_every": 2, "quick": 1, "thorough": 2} | changes)))


def losses(out: Path) -> list[float]:
    with (out / "curve.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_run_writes_its_curve_weights_and_card(tmp_path: Path) -> None:
    trainer = Trainer(tiny(), tmp_path, torch.device("cpu"))
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


def test_a_stopped_run_goes_on_with_the_same_samples_and_losses(tmp_path: Path) -> None:
    plan = tiny(validate_every=100)
    assert Trainer(plan, tmp_path / "whole", torch.device("cpu")).run()
    assert not Trainer(plan, tmp_path / "parts", torch.device("cpu")).run(until=2)
    again = Trainer(plan, tmp_path / "parts", torch.device("cpu"))
    assert again.step == 2
    assert again.run()
    np.testing.assert_allclose(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-2)


def test_stopping_keeps_what_was_trained(tmp_path: Path) -> None:
    trainer = Trainer(tiny(), tmp_path, torch.device("cpu"))
    trainer.stop = True  # as Ctrl-C does
    assert not trainer.run()
    assert Trainer(tiny(), tmp_path, torch.device("cpu")).step == 1


def test_another_plan_does_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    Trainer(tiny(), tmp_path, torch.device("cpu")).save()
    with pytest.raises(click.ClickException, match="another run"):
        Trainer(tiny(seed=2), tmp_path, torch.device("cpu"))


def test_a_sample_is_a_function_of_its_number() -> None:
    batches = Batches(tiny().schedule)
    images, labels = batches[1]
    assert images.shape == (4, 3, 48, 48)
    assert labels.shape == (4, 48, 48)
    assert bool((batches[1][1] == labels).all())
    assert batches[2][0].shape == (3, 3, 64, 64)
    assert batches[3][0].shape == (2, 3, 96, 96)


def test_iou_of_a_perfect_and_of_a_constant_network() -> None:
    class Constant(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(image), 8, 16, 16)
            logits[:, 2] = 1
            return logits

    images = ValidationScenes(2, 64)
    ious = iou_per_class(confusion(Constant(), images, 8, torch.device("cpu"), fast=False))
    truths = np.stack([scene(VALIDATION, index, (64, 64))[1] for index in range(2)])
    assert ious[2] == pytest.approx((truths == 2).mean())
    assert ious[0] == 0
