"""A session without a network: for tests, and for trying an application before there is an engine."""

from __future__ import annotations

from collections.abc import Callable

from refinenet_edge.records import TensorSpec
from refinenet_edge.runtime.session import Feeds, Outputs, Session


class FakeSession(Session):
    """`handler` is called with the checked feeds and returns the outputs by name; what it raises comes through.

    FakeSession(lambda feeds: {"logits": ...}, inputs=(TensorSpec(...),), outputs=(TensorSpec(...),))
    """

    def __init__(
        self, handler: Callable[[Feeds], Outputs], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        super().__init__("fake", inputs, outputs)
        self._handler = handler

    def _run(self, feeds: Feeds) -> Outputs:
        return self._handler(feeds)
