"""What TensorRT-RTX alone has: CUDA graphs of its own, and kernels that it compiles on the device and keeps on disk.

Its context records the engine as a graph from the second run on, for each shape. The cache on disk is for one plan, one
release and one kind of GPU; a stale one costs the first run its time and is replaced.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from refinenet_edge.runtime.cache import cache_folder, keep

if TYPE_CHECKING:
    from tensorrt_rtx_stubs import TensorRt  # the bindings' types: tests/bindings

logger = logging.getLogger(__name__)


class RuntimeCache:
    """The kernels of one context, kept at `path`."""

    def __init__(self, cache: TensorRt.IRuntimeCache, path: Path) -> None:
        self.cache, self._path = cache, path
        try:
            self._kept = path.read_bytes()
        except OSError:  # none yet, or none that can be read
            self._kept = b""
        if self._kept and not cache.deserialize(self._kept):
            logger.info("%s is of another release, driver or GPU: the kernels are compiled again", path)

    def save(self) -> None:
        """Keep what was compiled since it was read. Never raises: without it the next start only takes longer."""
        try:
            data = self.cache.serialize()
            kernels = b"" if data is None else bytes(data)
        except Exception as exc:  # whatever the bindings make of a failure
            logger.info("TensorRT-RTX does not give its kernels to keep: %s", exc)
            return
        if kernels and kernels != self._kept:
            keep(self._path, kernels)
            self._kept = kernels


def make_context(module: Any, loaded: Any, digest: str, capability: str) -> tuple[Any, RuntimeCache | None]:
    """An execution context (None: refused) for the engine `loaded` by `module`, and its cache, if it has one.

    `digest` is the plan's. Inside `Cuda.use()`: the cache asks for the GPU.
    """
    trt, engine = cast("type[TensorRt]", module), cast("TensorRt.ICudaEngine", loaded)
    config = engine.create_runtime_config()
    if config is None:
        return None, None
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    kernels, cache = config.create_runtime_cache(), None
    if kernels is not None:
        path = cache_folder() / f"{digest[:32]}-{capability}-{trt.__version__}.rtx"
        cache = RuntimeCache(kernels, path)
        config.set_runtime_cache(kernels)
    return engine.create_execution_context(config), cache


def wrong_gpu(module: Any, capability: str) -> str:
    """Why TensorRT-RTX runs nothing on a GPU of `capability` ("sm_90"), by its own list of GPUs; "" where it does."""
    names = getattr(module.ComputeCapability, "__members__", {})
    known = sorted(int(name[2:]) for name in names if name.startswith("SM"))
    number = int(capability.removeprefix("sm_"))
    if not known or number in known or number > known[-1]:
        return ""
    listed = ", ".join(f"sm_{each}" for each in known)
    return f"tensorrt-rtx is made for {listed} and newer, this GPU is {capability}: build with --backend tensorrt"
