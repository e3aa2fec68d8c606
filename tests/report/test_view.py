"""What is worth having, and the order of stages and blocks."""

from __future__ import annotations

from refinenet_edge.bench.verdicts import rows
from refinenet_edge.report.view import blocks, stages, undominated
from tests.report.made_up import SMALL, full_run, measured, run, subject


def best(**points: tuple[float, float | None]) -> set[str]:
    """The names of those that none beats; a point is (ms, mIoU)."""
    found = rows(
        run(
            subjects=tuple(subject(name, "fp32", miou) for name, (_, miou) in points.items()),
            measurements=tuple(measured(name, ms / 22) for name, (ms, _) in points.items()),
        ),
        SMALL,
    )
    return {row.subject.name for row in found if row.key in undominated(found)}


def test_none_that_is_beaten_in_both_is_worth_having() -> None:
    assert best(exact=(20, 0.7), fast=(10, 0.6), poor=(21, 0.6), slow=(30, 0.69)) == {"exact", "fast"}


def test_as_fast_and_less_accurate_is_beaten() -> None:
    assert best(a=(10, 0.6), b=(10, 0.7), c=(20, 0.7)) == {"b"}


def test_equals_do_not_beat_each_other() -> None:
    assert best(a=(10, 0.6), b=(10, 0.6)) == {"a", "b"}


def test_what_was_not_judged_is_left_out() -> None:
    assert best(a=(10, 0.6), peer=(5, None)) == {"a"}


def test_rows_have_their_numbers_of_the_run() -> None:
    found = rows(run(measurements=(measured("int8", 0.5),)), SMALL)
    assert [(row.key, row.subject.name, row.verdict) for row in found] == [(2, "int8", None)]


def test_stages_come_in_the_order_of_a_frame() -> None:
    given = measured("fp32", 1.0, stages={"other": (1.0,), "draw": (3.0, 5.0), "read": (2.0,), "head": ()})
    assert list(stages(given).items()) == [("read", 2.0), ("draw", 4.0), ("other", 1.0)]


def test_the_most_costly_block_comes_first_and_so_its_layers() -> None:
    made = full_run()
    first, second = blocks(made, made.subject("int8"))
    assert (first.name, first.ms, second.name, second.ms) == ("refine1.crp", 9.0, "encoder.layer1", 3.0)
    assert [layer.name for layer in second.layers] == ["conv2", "conv1"]
    assert blocks(made, made.subject("fp32")) == ()
