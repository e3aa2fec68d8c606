"""Which layers quantising harms: the worst first, found as far as they are asked for.

The harm of some layers is the error that rounding them, and no others, makes in the logits of a few frames:

    harm = sum |rounded - float|² / sum |float - mean float|²

Layers err almost independently, so a group harms at least as much as its worst member. So all layers are measured
together, and the group that harms most is halved until it is a single layer: that one is next. The k worst of n layers
take about 2 k log2(n / k) measurements instead of n, and what was never told apart is known to matter less.
"""

import heapq
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from refinenet_edge.precision.switches import Switchboard
from refinenet_edge.runtime.in_flight import Workers

Group = tuple[str, ...]


class Ranking:
    """`names`, in an order that keeps neighbours together, by what `harm` says of a group of them."""

    def __init__(self, names: Sequence[str], harm: Callable[[Group], float]) -> None:
        self._harm = harm
        self.measured = 0
        self.worst: list[tuple[Group, float]] = []  # single layers, in order
        self._rest: list[tuple[float, int, Group]] = []  # a heap; the number keeps equals in the order of the graph
        self._push(tuple(names))

    def __len__(self) -> int:
        return len(self.worst) + sum(len(group) for _, _, group in self._rest)

    def first(self, count: int) -> list[str]:
        """The `count` worst layers, or all there are."""
        while len(self.worst) < count and self._rest:
            harm, _, group = heapq.heappop(self._rest)
            if len(group) == 1:
                self.worst.append((group, -harm))
            else:
                half = len(group) // 2
                self._push(group[:half])
                self._push(group[half:])
        return [group[0] for group, _ in self.worst[:count]]

    def groups(self) -> list[tuple[Group, float]]:
        """All layers: the worst one by one, then what was not told apart, the most harmful group first."""
        return [*self.worst, *((group, -harm) for harm, _, group in sorted(self._rest))]

    def _push(self, group: Group) -> None:
        if group:
            self.measured += 1
            heapq.heappush(self._rest, (-self._harm(group), self.measured, group))


class LogitNoise:
    """The harm of groups of the layers of `board` on prepared `images` (1x3xhxw each).

    A group whose logits are not finite harms infinitely.
    """

    def __init__(self, board: Switchboard, images: Sequence[npt.NDArray[np.float32]]) -> None:
        self._board, self._images = board, images
        self.runs = 0
        self._expected = self._logits(())
        self._variance = float(np.square(self._expected - self._expected.mean()).sum())

    def __call__(self, group: Group) -> float:
        error = float(np.square(self._logits(group) - self._expected).sum()) / max(self._variance, 1e-30)
        return error if math.isfinite(error) else math.inf

    def _logits(self, rounded: Group) -> npt.NDArray[np.float64]:
        session = self._board.keeping(set(self._board.layers) - set(rounded))
        (source,), (target,) = session.inputs, session.outputs
        self.runs += len(self._images)

        def flat(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
            return np.asarray(session.run({source.name: image})[target.name], np.float64).ravel()

        with Workers(session.requests) as workers:
            return np.concatenate(list(workers.in_order(flat, self._images)))
