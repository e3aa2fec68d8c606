"""Example pictures of a page: what differs is marked, and nothing of a record is taken as it is."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from refinenet_edge.errors import InputError
from refinenet_edge.frames.images import decode_image
from refinenet_edge.report import page
from refinenet_edge.report.examples import MARK, views
from tests.report.made_up import example, judged_run, picture
from tests.report.test_html import Page


def shown(address: str) -> Any:
    kind, _, data = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    return decode_image(base64.b64decode(data), "shown").astype(int)


def test_a_subject_is_held_to_the_first_and_that_to_the_truth() -> None:
    (view,) = views(judged_run())
    fp32, int8 = view.seen
    assert (fp32.key, fp32.name, fp32.against, fp32.share) == (1, "fp32", "the truth", 5 / 50)  # where truth is known
    assert (int8.key, int8.name, int8.against, int8.share) == (2, "int8", "fp32", 10 / 50)
    marked = shown(int8.difference)
    assert np.abs(marked[:, 2:6] - MARK).max() < 40 and np.abs(marked[:, 16:] - 50).max() < 40
    assert view.classes == (0, 1, 2)
    assert np.abs(shown(view.frame) - 150).max() < 5
    assert np.abs(shown(int8.mask)[:, 2:6] - (202, 75, 75)).max() < 40  # half a dog, blue


def test_without_the_labels_of_the_first_the_truth_is_the_measure() -> None:
    (view,) = views(judged_run(examples=(example(labels={"int8": example().labels["int8"]}),)))
    (int8,) = view.seen
    assert (int8.against, int8.share) == ("the truth", 5 / 50)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"frame": "no base64!"}, "no picture"),
        ({"frame": base64.b64encode(b"<svg onload=alert(1)>").decode()}, "no picture"),
        ({"truth": picture(np.zeros((40, 51)))}, r"\(40, 51\)"),
        ({"frame": picture(np.zeros((2, 1025, 3)), ".jpg")}, "1024 pixels"),
    ],
    ids=["text", "another format", "another size", "large"],
)
def test_what_is_no_example_is_refused(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        views(judged_run(examples=(example(**change),)))


def test_a_class_has_its_iou_and_the_points_to_the_first() -> None:
    seen = Page(page([("a", judged_run())]))
    assert seen.table("IoU in % of each class, on scenes:1:20, and the points to fp32.") == [
        ["class", "1 fp32", "2 int8"],
        ["nothing", "73.00", "72.40 -0.60"],
        ["cat", "50.00", "50.00 +0.00"],
        ["dog", "–", "–"],
        ["mean", "61.50", "61.20 -0.30"],
    ]


def test_examples_are_on_the_page() -> None:
    seen = Page(page([("a", judged_run())]))
    pictures = [attrs["src"] or "" for tag, attrs in seen.tags if tag == "img"]
    assert len(pictures) == 6 and all(shown(address).shape == (40, 50, 3) for address in pictures)
    assert all(attrs["alt"] for tag, attrs in seen.tags if tag == "img")
    assert "fp32 : 10.00 % not as in the truth" in seen.text and "int8 : 20.00 % otherwise" in seen.text
    assert "rgb(255, 0, 0)" in " ".join(seen.values("style"))


def test_without_a_judge_there_are_none() -> None:
    seen = Page(
        page([("a", judged_run(subjects=judged_run().subjects[2:], measurements=(), examples=(), classes=None))])
    )
    assert not [tag for tag, _ in seen.tags if tag == "img"] and "IoU of each class" not in seen.text
