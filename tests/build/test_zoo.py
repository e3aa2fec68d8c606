"""Whatever graph comes, its bundle computes what ONNX Runtime makes of the file, or the build refuses with a sentence.

Every file is built in a process of its own, which may break. `make zoo` draws many more.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.build.attempt import Attempts, Job, Outcome
from tests.build.drawn import Drawn, files
from tests.build.foreign import NAMES
from tests.build.foreign import SIZE as FOREIGN_SIZE

DRAWS = int(os.environ.get("ZOO", "1000"))
PARTS = 8
FIRST = int(os.environ.get("ZOO_SEED", "0"))
FEW = 0.2  # of the drawn may be refused: OpenVINO has no unpooling, among others
OPTIONS = st.fixed_dictionaries(
    {"backend": st.sampled_from(("openvino", "onnxruntime"))},
    optional={
        "dynamic": st.just(True),  # where its sides are free
        "preprocess": st.sampled_from(("imagenet", "caffe", "tf", "0-1", "none")),
        "order": st.sampled_from(("rgb", "bgr")),
    },
)


@pytest.fixture(scope="module")
def attempts() -> Iterator[Attempts]:
    child = Attempts()
    yield child
    child.close()


def assert_sensible(outcome: Outcome, rough: bool = False) -> None:
    """Refused with a sentence that says what next, or the same. A jump may move single pixels of `rough` graphs."""
    assert not outcome.broken, outcome.broken
    if outcome.refused:
        assert "\n" not in outcome.refused
        assert len(outcome.refused) < 1000
        assert any(word in outcome.refused for word in ("build", "export", "--")), outcome.refused
        return
    assert outcome.exact or (rough and outcome.labels >= 0.99), outcome


# OpenVINO weighs another way where it shrinks
REFUSED = {("openvino", name) for name in NAMES if "antialias" in name}


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_computes_what_somebodys_network_does(name: str, attempts: Attempts) -> None:
    for backend in ("openvino", "onnxruntime"):
        options = {"backend": backend, "size": FOREIGN_SIZE}
        outcome = attempts(Job(name, FOREIGN_SIZE, options, labels_only="softmax" in name))
        assert_sensible(outcome)
        assert bool(outcome.refused) == ((backend, name) in REFUSED), outcome.refused


@pytest.mark.parametrize("part", range(PARTS))
def test_a_bundle_computes_what_the_drawn_file_does_or_is_refused(part: int, attempts: Attempts) -> None:
    seen: Counter[bool] = Counter()
    print(f"these draws again: ZOO={DRAWS} ZOO_SEED={FIRST}")

    @seed(PARTS * FIRST + part)
    @settings(max_examples=DRAWS // PARTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(drawn=files(), options=OPTIONS)
    def check(drawn: Drawn, options: dict[str, Any]) -> None:
        dynamic = drawn.free and options.get("dynamic", False)
        others = ((drawn.size[0] + 16, drawn.size[1] + 24), (40, 56)) if dynamic else ()
        outcome = attempts(Job(drawn.data, drawn.size, {"size": drawn.size, **options, "dynamic": dynamic}, others))
        seen[bool(outcome.refused)] += 1
        assert_sensible(outcome, drawn.rough)

    check()
    assert seen[True] <= FEW * max(seen.total(), 100)
