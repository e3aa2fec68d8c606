"""The one seam between the toolkit and what runs a network: `Session`.

    name, inputs, outputs
    run({input name: array}) -> {output name: array}
    close()

Feeds are checked here, once, so that a wrong shape is the same clear error on every backend and never a crash inside
one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.errors import InputError, require
from refinenet_edge.records import TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11, Jetson has 3.10

Feeds = Mapping[str, npt.NDArray[Any]]
Model = Path | bytes | Callable[[], bytes]  # an ONNX file, its bytes, or what reads them each time they are needed
Outputs = dict[str, npt.NDArray[Any]]

PROFILED_RUNS = 10


@dataclass(frozen=True)
class LayerTime:
    """One layer as the backend runs it: its name, what the backend calls it, and median ms of a run."""

    name: str
    kind: str
    ms: float


def medians(runs: Iterable[Iterable[LayerTime]]) -> list[LayerTime]:
    """The median of each layer over `runs`, in the order of the first of them."""
    times: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for layer in run:
            times.setdefault((layer.name, layer.kind), []).append(layer.ms)
    return [LayerTime(name, kind, statistics.median(ms)) for (name, kind), ms in times.items()]


class Session:
    """A loaded network; a subclass has `_run` and, if it holds something, `_release`.

    `name` is the backend: "openvino", "tensorrt" ...; `inputs` is what run() takes and `outputs` what it returns, with
    numpy's names of dtypes; a dimension that varies is a name. `requests`: how many runs may be on their way at once,
    each from a thread of its own; 1: it is used from one thread at a time. `on_gpu`: it computes there, while the
    host goes on.
    """

    on_gpu = False

    def __init__(
        self, name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], requests: int = 1
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self.requests = requests
        self._closed = False

    def run(self, feeds: Feeds) -> Outputs:
        """Run the network once. The outputs belong to the session and may be overwritten by its next run: copy to keep.

        They are the caller's where several `requests` may be on their way.
        Raises `InputError` when `feeds` does not fit `inputs`, or after close().
        """
        self.check_open()
        check_feeds(self.inputs, feeds)
        return self._run({name: np.ascontiguousarray(array) for name, array in feeds.items()})

    def layer_times(self, feeds: Feeds) -> list[LayerTime]:
        """Every layer's time, in order: medians of `PROFILED_RUNS` runs of a copy of the network that is timed.

        Raises `InputError` where the backend does not say.
        """
        self.check_open()
        check_feeds(self.inputs, feeds)
        return medians(self._profiled_runs(feeds))

    def check_open(self) -> None:
        """Raise `InputError` after close()."""
        if self._closed:
            raise InputError(f"the {self.name} session is closed: open another")

    def close(self) -> None:
        """Give back memory and device; a second call does nothing. Outputs end with the session."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, feeds: Feeds) -> Outputs:
        """Run checked, C-contiguous feeds."""
        raise NotImplementedError

    def _profiled_runs(self, feeds: Feeds) -> list[list[LayerTime]]:
        """The layers of each of `PROFILED_RUNS` runs, those before them not counted."""
        raise InputError(f"{self.name} does not say how long its layers take")

    def _release(self) -> None:
        """Give back what the session holds; called once."""


class FakeSession(Session):
    """A session without a network, for tests and for trying an application before there is an engine.

    `handler` is called with the checked feeds and returns the outputs by name; what it raises comes through.

    FakeSession(lambda feeds: {"logits": ...}, inputs=(TensorSpec(...),), outputs=(TensorSpec(...),))
    """

    def __init__(
        self,
        handler: Callable[[Feeds], Outputs],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        requests: int = 1,
    ) -> None:
        super().__init__("fake", inputs, outputs, requests)
        self._handler = handler

    def _run(self, feeds: Feeds) -> Outputs:
        return self._handler(feeds)


def check_feeds(inputs: tuple[TensorSpec, ...], feeds: Feeds) -> None:
    """Raise `InputError` unless `feeds` has exactly the names, dtypes and shapes of `inputs`."""
    require(feeds, Mapping, "feeds")
    if set(feeds) != {spec.name for spec in inputs}:
        raise InputError(f"the network takes {[spec.name for spec in inputs]}, it was fed {list(feeds)}")
    for spec in inputs:
        array = feeds[spec.name]
        if not isinstance(array, np.ndarray):
            raise InputError(f"input {spec.name!r} takes a numpy array, it was fed {type(array).__name__}")
        fits = len(array.shape) == len(spec.shape) and all(
            side == want if isinstance(want, int) else side > 0
            for side, want in zip(array.shape, spec.shape, strict=True)
        )
        # the second test: a big-endian array has the right name and the wrong bytes
        if array.dtype.name != spec.dtype or not array.dtype.isnative or not fits:
            takes = f"{spec.dtype} {'x'.join(map(str, spec.shape))}"
            fed = f"{array.dtype} {'x'.join(map(str, array.shape))}"
            raise InputError(f"input {spec.name!r} takes {takes}, it was fed {fed}")
