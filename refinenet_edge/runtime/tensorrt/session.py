"""Run an engine with TensorRT, its lean or dispatch runtime, or TensorRT-RTX: the same calls on each.

Only calls that TensorRT 10.3, 10.13, 10.16, 11.4 and RTX 1.7 all have are made here; what RTX alone has is in rtx.py.
`make check` types this file against the bindings of each (tests/bindings).

It has not run a plan on hardware yet: the tests drive it with a fake that has only what each release has. `run`
takes and gives host arrays; device_path.py queues the engine between the kernels that prepare frames and make labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.records import TensorSpec
from refinenet_edge.runtime.cuda import Buffer, Cuda
from refinenet_edge.runtime.session import PROFILED_RUNS, Feeds, LayerTime, Outputs, Session
from refinenet_edge.runtime.tensorrt import rtx
from refinenet_edge.runtime.tensorrt.engine import Engine, Shapes, by

if TYPE_CHECKING:
    from tensorrt_stubs import TensorRt  # the bindings' types: tests/bindings
    from typing_extensions import Self  # typing has it from Python 3.11, Jetson has 3.10

SMALLEST_SCRATCH = 256  # bytes: an engine may need none, and there is no address of none


class Context:
    """An execution context of `engine` on the stream of `cuda`. Used inside `Cuda.use()`.

    `profiler`: the context reports its layers' times to it, and has memory of its own. Raises `RefineNetEdgeError` when
    TensorRT refuses.
    """

    def __init__(self, engine: Engine, cuda: Cuda, profiler: Any = None) -> None:
        self._engine, self._cuda = engine, cuda
        self.cache: rtx.RuntimeCache | None = None
        self.shapes: Shapes = {}  # of the inputs, as last set
        self._profile = 0
        self._scratch = (0, 0)  # address and size
        # activations go into the device's scratch memory, which all contexts on the stream share; but TensorRT-RTX's
        # graphs want memory that is the context's own
        self._shares = profiler is None and engine.backend != "tensorrt-rtx"
        strategy = engine.trt.ExecutionContextAllocationStrategy
        context: TensorRt.IExecutionContext | None
        if profiler is None and engine.backend == "tensorrt-rtx":
            context, self.cache = rtx.make_context(engine.trt, engine.engine, engine.digest, cuda.capability)
        else:
            context = engine.engine.create_execution_context(strategy.USER_MANAGED if self._shares else strategy.STATIC)
        if context is None:
            raise self._failure("cannot make an execution context")
        self._context = context
        if profiler is not None:
            context.profiler = profiler

    def set_shapes(self, inputs: Shapes) -> Shapes:
        """Choose the shapes of the inputs; NCHW shape of every input and output.

        Raises `InputError` with the range when no profile of the engine takes them.
        """
        context, engine = self._context, self._engine
        self.shapes = {}  # until all is done
        profile = engine.profile_for(inputs)
        if profile != self._profile:
            if not context.set_optimization_profile_async(profile, self._cuda.stream):
                raise self._failure(f"cannot change to profile {profile}")
            self._profile = profile
        for name, shape in inputs.items():
            if not context.set_input_shape(name, shape):
                raise InputError(f"the engine does not take {name!r} of {by(shape)}: {engine.errors.said()}")
        names = [spec.name for spec in (*engine.inputs, *engine.outputs)]
        shapes = {name: engine.sides(context.get_tensor_shape(name), name) for name in names}
        self.shapes = inputs
        return shapes

    def ready(self) -> int:
        """Make sure of the memory that activations need with the shapes last set; its address, 0 if not ours.

        Called before every `queue`, outside of any capture.
        """
        if not self._shares:
            return 0
        needed = self._context.update_device_memory_size_for_shapes()
        if needed <= 0 and self._engine.engine.device_memory_size_v2:  # it needs some: 0 says that the call failed
            raise self._failure("cannot say how much memory the engine needs")
        needed = max(needed, SMALLEST_SCRATCH)
        address = self._cuda.scratch(needed)
        if (address, needed) != self._scratch:
            self._context.set_device_memory(address, needed)
            self._scratch = (address, needed)
        return address

    def queue(self, addresses: Mapping[str, int]) -> None:
        """Queue the engine on its stream, for the shapes last set, from and to device memory in the engine's layout."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._failure(f"refused the memory of {name!r}")
        if not self._context.execute_async_v3(self._cuda.stream):
            raise self._failure("could not run the engine")

    def _failure(self, what: str) -> RefineNetEdgeError:
        return RefineNetEdgeError(f"{self._engine.backend} {what}: {self._engine.errors.said()}")

    def release(self) -> None:
        """Give the context back; a second call does nothing. RTX's kernels are kept, unless the GPU is lost."""
        if not hasattr(self, "_context"):
            return
        if self.cache is not None and not self._cuda.lost:
            self.cache.save()
        del self._context, self.cache


class TrtSession(Session):
    """`engine` on the stream of `cuda`, both of which it owns from then on: `open` makes them.

    Raises `CudaError` when the GPU refuses (out of memory).
    """

    on_gpu = True

    def __init__(self, engine: Engine, cuda: Cuda) -> None:
        super().__init__(engine.backend, engine.inputs, engine.outputs)
        self.cuda = cuda
        self.channel_last = engine.channel_last
        self._engine = engine
        self._scope = cuda.scope()
        self._buffers: dict[str, Buffer] = {}
        try:
            with cuda.use():
                self.context = Context(engine, cuda)
        except BaseException:
            cuda.finish(engine.release)
            cuda.close()
            raise

    @classmethod
    def open(cls, bundle: Bundle, backend: str = "tensorrt", *, allow_host_code: bool = False) -> Self:
        """A session of `bundle`'s plan, on the current GPU. Raises as `Engine`, and `CudaError`."""
        cuda = Cuda()
        try:
            with cuda.use():
                engine = Engine(bundle, backend, cuda.capability, allow_host_code)
        except BaseException:
            cuda.close()
            raise
        return cls(engine, cuda)

    def _run(self, feeds: Feeds) -> Outputs:
        with self.cuda.use():
            return self._run_on(self.context, feeds)

    def _run_on(self, context: Context, feeds: Feeds) -> Outputs:
        shapes = context.set_shapes({name: feed.shape for name, feed in feeds.items()})
        self._feed(feeds, shapes)
        context.ready()
        context.queue({name: buffer.address for name, buffer in self._buffers.items()})
        return self._fetch(shapes)

    def _feed(self, feeds: Feeds, shapes: Shapes) -> None:
        """Queue the feeds to the device, as the engine wants them laid out."""
        sizes = {spec.name: _size(spec, shapes[spec.name]) for spec in (*self.inputs, *self.outputs)}
        if any(name not in self._buffers or size > self._buffers[name].host.nbytes for name, size in sizes.items()):
            self._scope.close()
            self._buffers = {}  # until all are made
            self._scope = self.cuda.scope()
            self._buffers = {name: Buffer(self._scope, size) for name, size in sizes.items()}
        for name, feed in feeds.items():
            buffer = self._buffers[name]
            laid_out = feed.transpose(self._axes(name, feed.ndim))
            np.copyto(buffer.host[: feed.nbytes].view(feed.dtype).reshape(laid_out.shape), laid_out)
            buffer.upload(self.cuda.stream, feed.nbytes)

    def _fetch(self, shapes: Shapes) -> Outputs:
        """Wait for the outputs; new arrays."""
        for spec in self.outputs:
            self._buffers[spec.name].download(self.cuda.stream, _size(spec, shapes[spec.name]))
        self.cuda.provider.synchronize(self.cuda.stream)
        outputs = {}
        for spec in self.outputs:
            axes = self._axes(spec.name, len(shapes[spec.name]))
            laid_out = tuple(shapes[spec.name][axis] for axis in axes)
            data = self._buffers[spec.name].host[: _size(spec, laid_out)].copy()
            outputs[spec.name] = data.view(spec.dtype).reshape(laid_out).transpose(np.argsort(axes))
        return outputs

    def _axes(self, name: str, rank: int) -> tuple[int, ...]:
        """How NCHW, or labels of no channel, lie in memory."""
        return (0, 2, 3, 1) if name in self.channel_last else tuple(range(rank))

    def capturable(self) -> bool:
        """Whether the engine may be captured in a CUDA graph; TensorRT-RTX captures by itself."""
        return self.cuda.provider.graphs is not None and self.name != "tensorrt-rtx"

    def _profiled_runs(self, feeds: Feeds) -> list[list[LayerTime]]:
        runs = []
        with self.cuda.use():
            profiler = _make_profiler(self._engine.trt)
            context = Context(self._engine, self.cuda, profiler)
            try:
                for _ in range(1 + PROFILED_RUNS):
                    profiler.times.clear()
                    self._run_on(context, feeds)
                    runs.append([LayerTime(name, "", ms) for name, ms in profiler.times])
            finally:
                context.release()
        return runs[1:]

    def _release(self) -> None:
        try:
            self.cuda.finish(self._give_back)
        finally:
            self.cuda.close()

    def _give_back(self) -> None:
        self.context.release()  # first: it uses the engine
        self._engine.release()
        self._scope.close()


def _size(spec: TensorSpec, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * np.dtype(spec.dtype).itemsize


def _make_profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.append((layer_name, ms))

    return Profiler()
