"""The same work in this process or on Ray: pieces in, results out, in the order of the pieces.

A worker is made once and called with a piece at a time, so memory does not grow with the work. On Ray each is an actor
of a Ray Data pool, with a CPU, and with a GPU where the backend wants one. Ray begins a piece again whenever its worker
is gone, with its machine or because of the piece; `TRIES` times, then it comes back without a result. Ray's own limit
would not do: it counts every call to a machine that is gone, and those are over in a second.
"""

import contextlib
import importlib
import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from refinenet_edge.cluster.storage import CLUSTER
from refinenet_edge.errors import InputError, MissingExtra, RefineNetEdgeError

TRIES = 4  # of a piece whose worker dies
IN_FLIGHT = 2  # pieces a worker is given: the next one is there when one is done

Piece = TypeVar("Piece", contravariant=True)
Result = TypeVar("Result", covariant=True)

logger = logging.getLogger(__name__)


class Worker(Protocol[Piece, Result]):
    def __call__(self, piece: Piece, /) -> Result: ...

    def close(self) -> None:
        """Give back what it holds, if it holds something."""
        return


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
            for piece in pieces:
                yield worker(piece)


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
        room = min(self.size or self._room(), len(rows))
        strategy = ActorPoolStrategy(
            min_size=1, initial_size=room, max_size=self.size, max_tasks_in_flight_per_actor=IN_FLIGHT
        )
        results = dataset.map(
            _RayWorker,
            fn_constructor_args=(make, os.getcwd(), tries),
            compute=strategy,
            num_cpus=self.threads,
            num_gpus=self.gpus,
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
    """A worker on Ray. It is made with its first piece: what that raises is a result like others, not a dead actor."""

    def __init__(self, make: Callable[[], Worker[Any, Any]], folder: str, tries: Any) -> None:
        with contextlib.suppress(OSError):  # a relative path means the same wherever this folder is there
            os.chdir(folder)
        self._make, self._tries = make, tries
        self._worker: Worker[Any, Any] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        index, piece = pickle.loads(row["piece"])
        result: Any
        if ray.get(self._tries.begin.remote(index)) > TRIES:
            return {"result": pickle.dumps(None)}
        try:
            if self._worker is None:
                self._worker = self._make()
            result = self._worker(piece)
        except RefineNetEdgeError as exc:  # in words: not every exception survives pickling
            result = RefineNetEdgeError(str(exc))
        except Exception as exc:  # a mistake of ours: it must not pass for a dead worker
            logger.exception("a worker failed")
            result = RefineNetEdgeError(f"a worker failed: {type(exc).__name__}: {exc}")
        return {"result": pickle.dumps(result)}


class _Tries:
    """How often each piece was begun: an actor beside the driver, which does not die of a piece."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, index: int) -> int:
        self._begun[index] += 1
        return self._begun[index]


def _tries() -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(_Tries).remote()
