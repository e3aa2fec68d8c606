"""The same work in this process or on Ray: pieces in, results out, in the order of the pieces.

A worker is made once and given pieces as it takes them, so memory does not grow with the work. On Ray each is an actor
of a Ray Data pool, with a CPU, and with a GPU where the backend wants one: that has a piece there when it is done with
the last frames of another, so that the GPU goes on. Ray begins a piece again whenever its worker is gone, with its
machine or because of a piece, and then it has a worker for itself; `TRIES` times, then it comes back without a result.
Ray's own limit would not do: it counts every call to a machine that is gone, and those are over in a second.
"""

import contextlib
import importlib
import inspect
import itertools
import logging
import os
import pickle
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from refinenet_edge.cluster.storage import CLUSTER
from refinenet_edge.errors import InputError, MissingExtra, RefineNetEdgeError

TRIES = 4  # of a piece whose worker dies
AT_ONCE = 2  # pieces that a worker with a GPU has: it is at the last frames of one and the first of the next
IN_FLIGHT = 2  # times as many a worker is given: the next is there when one is done. Of fewer Ray adds no workers

Piece = TypeVar("Piece", contravariant=True)
Result = TypeVar("Result", covariant=True)
Item = TypeVar("Item")
Found = TypeVar("Found")

logger = logging.getLogger(__name__)


class Worker(Generic[Piece, Result]):
    """A piece -> its result. One that goes on with the next piece before it has the result of the last has `each`."""

    def __call__(self, piece: Piece, /) -> Result:
        raise NotImplementedError

    def each(self, pieces: Iterable[Piece], /) -> Iterator[Result]:
        """The result of each of `pieces`, in their order."""
        return map(self, pieces)

    def close(self) -> None:
        """Give back what it holds, if it holds something."""


def as_one(
    pieces: Iterable[Sequence[Item]], work: Callable[[Iterator[Item]], Iterator[Found]]
) -> Iterator[tuple[Sequence[Item], list[Found]]]:
    """Each of `pieces`, none empty, with what `work` makes of its items, one of each, as a stream of those of all."""
    taken: deque[Sequence[Item]] = deque()

    def items() -> Iterator[Item]:
        for piece in pieces:
            taken.append(piece)
            yield from piece

    results = work(items())
    for first in results:
        piece = taken.popleft()
        yield piece, [first, *itertools.islice(results, len(piece) - 1)]


@dataclass(frozen=True)
class LocalPool:
    """One worker, in this process; `threads` of each worker, 0: as many as there are cores; `remote`: elsewhere."""

    threads: int = 0
    remote: bool = False

    def run(self, make: Callable[[], Worker[Piece, Result]], pieces: Sequence[Piece]) -> Iterator[Result | None]:
        """The result of every piece, in order; None: its worker died each time. What a worker raises is raised here."""
        if not pieces:
            return
        with contextlib.closing(make()) as worker:
            yield from worker.each(pieces)


@dataclass(frozen=True)
class RayPool:
    """Actors on the Ray cluster that this process is connected to; `size` None: as many as it has room for."""

    gpus: int = 0
    size: int | None = None
    threads: int = 1
    remote: bool = True

    def run(self, make: Callable[[], Worker[Piece, Result]], pieces: Sequence[Piece]) -> Iterator[Result | None]:
        if not pieces:
            return
        from ray.data import ActorPoolStrategy, from_items

        tries = _tries()
        rows = [{"piece": pickle.dumps((index, piece))} for index, piece in enumerate(pieces)]
        dataset = from_items(rows, override_num_blocks=len(rows))
        context = dataset.context
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        room, at_once = min(self.size or self._room(), len(rows)), AT_ONCE if self.gpus else 1
        calls, asked = {"max_concurrent_calls_per_actor": at_once}, {}
        if not calls.keys() & inspect.signature(ActorPoolStrategy).parameters.keys():  # an older Ray has another name
            calls, asked = {}, {"max_concurrency": at_once}
        in_flight = IN_FLIGHT * at_once
        strategy = ActorPoolStrategy(
            min_size=1, initial_size=room, max_size=self.size, max_tasks_in_flight_per_actor=in_flight, **calls
        )
        results = dataset.flat_map(
            _RayWorker,
            fn_constructor_args=(make, os.getcwd(), tries),
            compute=strategy,
            num_cpus=self.threads,
            num_gpus=self.gpus,
            **asked,
        )
        for row in results.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, RefineNetEdgeError):
                raise result
            yield result

    def _room(self) -> int:
        import ray

        there = ray.cluster_resources()
        room = int(there.get("CPU", 0)) // self.threads
        return max(1, min(room, int(there.get("GPU", 0)) // self.gpus) if self.gpus else room)


Pool = LocalPool | RayPool


def in_pieces(
    pool: Pool,
    make: Callable[[], Worker[Sequence[Item], Result]],
    items: Sequence[Item],
    size: int,
    named: Callable[[Item, Item], str],
) -> Iterator[Result]:
    """`pool.run` for `size` of `items` after the other. Raises `RefineNetEdgeError` where a worker dies of some.

    `named`: from which item to which, in words.
    """
    pieces = [items[start : start + size] for start in range(0, len(items), size)]
    for piece, result in zip(pieces, pool.run(make, pieces), strict=True):
        if result is None:
            raise RefineNetEdgeError(f"a worker died each time it had {named(piece[0], piece[-1])}")
        yield result


@contextlib.contextmanager
def open_pool(ray: str, *, gpus: int = 0, size: int | None = None) -> Iterator[Pool]:
    """The pool that `--ray` means: "off", "auto", or the address of a cluster.

    "auto": the cluster that runs here or that RAY_ADDRESS names, else a new one on this machine. Workers take a CPU and
    `gpus` GPUs each. Raises `MissingExtra` without ray, `InputError` without such a cluster, or without the GPUs.
    """
    if ray == "off":
        yield LocalPool()
        return
    try:
        library = importlib.import_module("ray")
        importlib.import_module("ray.data")  # it needs more than ray does
    except ModuleNotFoundError as exc:
        raise MissingExtra(f"--ray {ray}: {exc.name} is not installed: {CLUSTER}, or leave --ray out") from exc
    for name in ("ray", "ray.data"):  # it tells of every step
        logging.getLogger(name).setLevel(logging.ERROR)
    ours = not library.is_initialized()
    try:
        if ours:
            _connect(library, ray)
        if gpus and not library.cluster_resources().get("GPU"):
            raise InputError("the bundle is for a GPU, and the Ray cluster has none: name --backend openvino")
        yield RayPool(gpus=gpus, size=size)
    finally:
        if ours:
            library.shutdown()


def _connect(library: Any, address: str) -> None:
    try:
        library.init(None if address == "auto" else address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as exc:
        raise InputError(f"there is no Ray cluster at {address} ({exc}): start one with ray start --head") from exc


class _RayWorker:
    """A worker on Ray, for the pieces that it has at once; in `Stream`'s thread, whoever's call brings a piece."""

    def __init__(self, make: Callable[[], Worker[Any, Any]], folder: str, tries: Any) -> None:
        with contextlib.suppress(OSError):  # a relative path means the same wherever this folder is there
            os.chdir(folder)
        self._stream = Stream(make, _Remote(tries))

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        # what yields is run in the thread of each call, what returns in one for all calls of an actor
        index, piece = pickle.loads(row["piece"])
        yield {"result": pickle.dumps(self._stream.result(index, piece))}


class Tries:
    """How often each piece was begun: an actor beside the driver, which does not die of a piece."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, index: int, beside: bool) -> int:
        """How often, this time too; 0: it may not be `beside` others, as a worker may have died of it."""
        if beside and self._begun[index]:
            return 0
        self._begun[index] += 1
        return self._begun[index]

    def done(self, index: int) -> None:
        """No worker dies of it: where one dies before its result has come away, it is begun as if it were new."""
        del self._begun[index]


class _Remote(Tries):
    """That of an actor."""

    def __init__(self, actor: Any) -> None:
        import ray

        self._actor, self._get = actor, ray.get

    def begin(self, index: int, beside: bool) -> int:
        return int(self._get(self._actor.begin.remote(index, beside)))

    def done(self, index: int) -> None:
        self._get(self._actor.done.remote(index))


@dataclass(eq=False)
class _Asked:
    index: int
    piece: Any
    answer: SimpleQueue[Any] = field(default_factory=SimpleQueue)  # one, when it is there


class Stream:
    """A worker for pieces that several threads bring: one thread works on them, as one stream where more are there.

    It is made with its first piece: what that raises is a result like others, not a dead actor.
    """

    def __init__(self, make: Callable[[], Worker[Any, Any]], tries: Tries) -> None:
        self._make, self._tries = make, tries
        self._worker: Worker[Any, Any] | None = None
        self._asked: SimpleQueue[_Asked] = SimpleQueue()
        threading.Thread(target=self._work, name="worker", daemon=True).start()

    def result(self, index: int, piece: Any) -> Any:
        """What the worker makes of `piece`, or the error of it; None where it was begun too often."""
        asked = _Asked(index, piece)
        self._asked.put(asked)
        return asked.answer.get()

    def _work(self) -> None:
        following: _Asked | None = None
        while True:
            following = self._pieces(following or self._asked.get())

    def _pieces(self, first: _Asked) -> _Asked | None:
        """Work on `first` and what is there when the worker asks for more; the piece that is to go alone after them."""
        at_work: deque[_Asked] = deque()
        left: list[_Asked] = []

        def pieces() -> Iterator[Any]:
            for asked in self._there(first):
                at_work.append(asked)  # before all that may fail: it is answered then
                begun = self._tries.begin(asked.index, asked is not first)
                if not begun:
                    left.append(at_work.pop())
                    return
                if begun > TRIES:
                    at_work.pop().answer.put(None)
                    continue
                yield asked.piece
                if begun > 1:
                    return

        try:
            if self._worker is None:
                self._worker = self._make()
            for result in self._worker.each(pieces()):
                self._tries.done(at_work[0].index)
                at_work.popleft().answer.put(result)
        except Exception as exc:
            error = RefineNetEdgeError(str(exc))  # in words: not every exception survives pickling
            if not isinstance(exc, RefineNetEdgeError):  # a mistake of ours: it must not pass for a dead worker
                logger.exception("a worker failed")
                error = RefineNetEdgeError(f"a worker failed: {type(exc).__name__}: {exc}")
            for asked in at_work or [first]:
                asked.answer.put(error)
        return left[0] if left else None

    def _there(self, first: _Asked) -> Iterator[_Asked]:
        yield first
        with contextlib.suppress(Empty):
            while True:
                yield self._asked.get_nowait()


def _tries() -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Tries).remote()
