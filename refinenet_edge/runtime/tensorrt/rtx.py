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
        self._kept = path.read_bytes() if path.is_file() else b""
        if self._kept and not cache.deserialize(self._kept):
            logger.info("%s is of another release, driver or GPU: the kernels are compiled again", path)

    def save(self) -> None:
        """Keep what was compiled since it was read."""
        found = bytes(self.cache.serialize())
        if found != self._kept:
            keep(self._path, found)
            self._kept = found


def make_context(module: Any, loaded: Any, digest: str, capability: str) -> tuple[Any, RuntimeCache]:
    """An execution context (None: refused) for the engine `loaded` by `module`, and its cache.

    `digest` is the plan's. Inside `Cuda.use()`: the cache asks for the GPU.
    """
    trt, engine = cast("type[TensorRt]", module), cast("TensorRt.ICudaEngine", loaded)
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    path = cache_folder() / f"{digest[:32]}-{capability}-{trt.__version__}.rtx"
    cache = RuntimeCache(config.create_runtime_cache(), path)
    config.set_runtime_cache(cache.cache)
    return engine.create_execution_context(config), cache
