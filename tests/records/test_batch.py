"""How many frames at once: as the command line has it and back."""

import pytest

from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.records import Batch, from_json, to_json


@pytest.mark.parametrize(
    ("text", "batch"),
    [
        ("1", Batch()),
        ("4", Batch(4, 4, 4)),
        ("1:8", Batch(1, 8, 8)),
        ("1:4:8", Batch(1, 4, 8)),
        ("1:1:8", Batch(1, 1, 8)),
        ("256", Batch(256, 256, 256)),
    ],
)
def test_is_written_as_it_is_read(text: str, batch: Batch) -> None:
    assert Batch.parse(text) == batch
    assert str(batch) == text
    assert from_json(Batch, to_json(batch)) == batch


def test_more_words_than_needed_mean_the_same() -> None:
    assert Batch.parse("4:4") == Batch.parse("4:4:4") == Batch.parse("4")
    assert Batch.parse("1:8:8") == Batch.parse("1:8")


@pytest.mark.parametrize("text", ["", "0", "257", "8:1", "1:9:8", "0:8", "1:300"])
def test_what_is_out_of_order_or_too_much_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"batch .*expected"):
        Batch.parse(text)


@pytest.mark.parametrize("text", ["many", "-1", "1:", ":8", "1:2:4:8", "1.5", "1 : 8", "٤", "9999999"])
def test_what_is_no_batch_is_refused_with_how_it_is_written(text: str) -> None:
    with pytest.raises(InputError, match=r"expected N, LEAST:MOST or LEAST:BEST:MOST frames, such as 4 or 1:8"):
        Batch.parse(text)


def test_one_that_is_not_trusted_is_checked() -> None:
    with pytest.raises(BundleError, match="a batch of 8:1"):
        from_json(Batch, '{"least": 8}')


@pytest.mark.parametrize(("text", "fixed"), [("1", True), ("4", True), ("1:8", False), ("1:1:8", False)])
def test_is_fixed_or_free(text: str, fixed: bool) -> None:
    assert Batch.parse(text).fixed is fixed


def test_takes_what_lies_between() -> None:
    assert [frames for frames in range(10) if Batch(2, 4, 8).takes(frames)] == [2, 3, 4, 5, 6, 7, 8]
