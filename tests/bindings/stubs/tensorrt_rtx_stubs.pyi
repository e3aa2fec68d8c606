"""What this package calls of TensorRT-RTX 1.7 alone. Made by generate.py."""

from collections.abc import Sequence
from typing import Any, overload

from typing_extensions import Buffer

class TensorRt:
    __version__: str

    class ComputeCapability:
        name: str
        def __int__(self) -> int: ...

    class CudaGraphStrategy:
        name: str
        def __int__(self) -> int: ...
        WHOLE_GRAPH_CAPTURE: TensorRt.CudaGraphStrategy

    class ExecutionContextAllocationStrategy:
        name: str
        def __int__(self) -> int: ...

    class IBuilderConfig:
        num_compute_capabilities: int
        def set_compute_capability(self, compute_capability: TensorRt.ComputeCapability, index: int) -> bool: ...

    class ICudaEngine:
        @overload
        def create_execution_context(self, strategy: TensorRt.ExecutionContextAllocationStrategy | None = ...) -> TensorRt.IExecutionContext | None: ...
        @overload
        def create_execution_context(self, runtime_config: TensorRt.IRuntimeConfig | None = ...) -> TensorRt.IExecutionContext | None: ...
        def create_runtime_config(self) -> TensorRt.IRuntimeConfig | None: ...

    class IExecutionContext:
        pass

    class IHostMemory:
        def __buffer__(self, flags: int, /) -> memoryview: ...

    class IRuntimeCache:
        def serialize(self) -> TensorRt.IHostMemory | None: ...
        def deserialize(self, blob: Buffer) -> bool: ...

    class IRuntimeConfig:
        cuda_graph_strategy: TensorRt.CudaGraphStrategy
        def create_runtime_cache(self) -> TensorRt.IRuntimeCache | None: ...
        def set_runtime_cache(self, cache: TensorRt.IRuntimeCache | None = ...) -> bool: ...
