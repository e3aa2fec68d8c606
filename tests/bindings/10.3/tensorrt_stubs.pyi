"""TensorRT 10.3: what this package calls of it. Read in NVIDIA/TensorRT at v10.3.0, types of 10.16."""
from collections.abc import Sequence
from typing import Any, overload
from typing_extensions import Buffer

class TensorRt:
    __version__: str
    float16: TensorRt.DataType

    class Builder:

        def __init__(self, logger: TensorRt.ILogger) -> None:
            ...

        def create_network(self, flags: int=...) -> TensorRt.INetworkDefinition:
            ...

        def create_builder_config(self) -> TensorRt.IBuilderConfig:
            ...

        def create_optimization_profile(self) -> TensorRt.IOptimizationProfile:
            ...

        def build_serialized_network(self, network: TensorRt.INetworkDefinition, config: TensorRt.IBuilderConfig) -> TensorRt.IHostMemory | None:
            ...

    class BuilderFlag:
        name: str

        def __int__(self) -> int:
            ...
        VERSION_COMPATIBLE: TensorRt.BuilderFlag
        REFIT: TensorRt.BuilderFlag

    class DataType:
        name: str

        def __int__(self) -> int:
            ...
        FLOAT: TensorRt.DataType
        HALF: TensorRt.DataType
        INT8: TensorRt.DataType
        UINT8: TensorRt.DataType
        INT32: TensorRt.DataType
        INT64: TensorRt.DataType
        BOOL: TensorRt.DataType

    class EngineInspector:

        def get_engine_information(self, format: TensorRt.LayerInformationFormat) -> str:
            ...

    class ErrorCodeTRT:
        name: str

        def __int__(self) -> int:
            ...

    class ExecutionContextAllocationStrategy:
        name: str

        def __int__(self) -> int:
            ...
        USER_MANAGED: TensorRt.ExecutionContextAllocationStrategy

    class HardwareCompatibilityLevel:
        name: str

        def __int__(self) -> int:
            ...
        AMPERE_PLUS: TensorRt.HardwareCompatibilityLevel

    class IBuilderConfig:

        def set_memory_pool_limit(self, pool: TensorRt.MemoryPoolType, pool_size: int) -> None:
            ...
        progress_monitor: TensorRt.IProgressMonitor
        profiling_verbosity: TensorRt.ProfilingVerbosity

        def add_optimization_profile(self, profile: TensorRt.IOptimizationProfile) -> int:
            ...

        def set_flag(self, flag: TensorRt.BuilderFlag) -> None:
            ...
        hardware_compatibility_level: TensorRt.HardwareCompatibilityLevel

        def create_timing_cache(self, serialized_timing_cache: Buffer) -> TensorRt.ITimingCache | None:
            ...

        def set_timing_cache(self, cache: TensorRt.ITimingCache, ignore_mismatch: bool) -> bool:
            ...

    class ICudaEngine:

        @property
        def num_io_tensors(self) -> int:
            ...

        @property
        def refittable(self) -> bool:
            ...

        @property
        def num_optimization_profiles(self) -> int:
            ...

        def get_tensor_name(self, index: int) -> str:
            ...

        def get_tensor_mode(self, name: str) -> TensorRt.TensorIOMode:
            ...

        @overload
        def get_tensor_format(self, name: str) -> TensorRt.TensorFormat:
            ...

        @overload
        def get_tensor_format(self, name: str, profile_index: int) -> TensorRt.TensorFormat:
            ...

        @overload
        def get_tensor_format_desc(self, name: str) -> str:
            ...

        @overload
        def get_tensor_format_desc(self, name: str, profile_index: int) -> str:
            ...

        def get_tensor_dtype(self, name: str) -> TensorRt.DataType:
            ...

        def get_tensor_shape(self, name: str) -> Sequence[int]:
            ...

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Sequence[int]]:
            ...

        def create_execution_context(self, strategy: TensorRt.ExecutionContextAllocationStrategy | None=...) -> TensorRt.IExecutionContext | None:
            ...

        def create_engine_inspector(self) -> TensorRt.EngineInspector:
            ...

    class IErrorRecorder:

        def __init__(self) -> None:
            ...

        def num_errors(self) -> int:
            ...

        def get_error_code(self, arg0: int) -> TensorRt.ErrorCodeTRT:
            ...

        def get_error_desc(self, arg0: int) -> str:
            ...

        def has_overflowed(self) -> bool:
            ...

        def clear(self) -> None:
            ...

        def report_error(self, arg0: TensorRt.ErrorCodeTRT, arg1: str) -> bool:
            ...

    class IExecutionContext:
        profiler: TensorRt.IProfiler

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            ...

        @overload
        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            ...

        @overload
        def set_input_shape(self, name: str, shape: list[int]) -> bool:
            ...

        @overload
        def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
            ...

        def get_tensor_shape(self, name: str) -> Sequence[int]:
            ...

        def set_tensor_address(self, name: str, memory: int) -> bool:
            ...

        def update_device_memory_size_for_shapes(self) -> int:
            ...

        def set_device_memory(self, memory: int, size: int) -> None:
            ...

        def execute_async_v3(self, stream_handle: int) -> bool:
            ...

    class IHostMemory:

        def __buffer__(self, flags: int, /) -> memoryview:
            ...

    class ILogger:

        def __init__(self) -> None:
            ...

        class Severity:
            name: str
            INTERNAL_ERROR: TensorRt.ILogger.Severity
            ERROR: TensorRt.ILogger.Severity
            WARNING: TensorRt.ILogger.Severity
            INFO: TensorRt.ILogger.Severity
            VERBOSE: TensorRt.ILogger.Severity

        def log(self, severity: TensorRt.ILogger.Severity, msg: str) -> None:
            ...

    class INetworkDefinition:

        @property
        def num_inputs(self) -> int:
            ...

        @property
        def num_outputs(self) -> int:
            ...

        def get_input(self, index: int) -> TensorRt.ITensor:
            ...

        def get_output(self, index: int) -> TensorRt.ITensor:
            ...

    class IOptimizationProfile:

        def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
            ...

    class IProfiler:

        def __init__(self) -> None:
            ...

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            ...

    class IProgressMonitor:

        def __init__(self) -> None:
            ...

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            ...

        def phase_finish(self, phase_name: str) -> None:
            ...

        def step_complete(self, phase_name: str, step: int) -> bool:
            ...

    class ITensor:
        dtype: TensorRt.DataType
        shape: Sequence[int]
        allowed_formats: int

    class ITimingCache:

        def serialize(self) -> TensorRt.IHostMemory:
            ...

    class LayerInformationFormat:
        name: str

        def __int__(self) -> int:
            ...
        JSON: TensorRt.LayerInformationFormat

    class MemoryPoolType:
        name: str

        def __int__(self) -> int:
            ...
        WORKSPACE: TensorRt.MemoryPoolType

    class NetworkDefinitionCreationFlag:
        name: str

        def __int__(self) -> int:
            ...
        STRONGLY_TYPED: TensorRt.NetworkDefinitionCreationFlag

    class OnnxParser:

        def __init__(self, network: TensorRt.INetworkDefinition, logger: TensorRt.ILogger) -> None:
            ...

        def parse(self, model: Buffer, path: str=...) -> bool:
            ...

        @property
        def num_errors(self) -> int:
            ...

        def get_error(self, index: int) -> Any:
            ...

    class ParserError:

        def desc(self) -> str:
            ...

        def node_name(self) -> str:
            ...

    class ProfilingVerbosity:
        name: str

        def __int__(self) -> int:
            ...
        DETAILED: TensorRt.ProfilingVerbosity

    class Refitter:

        def __init__(self, engine: TensorRt.ICudaEngine, logger: TensorRt.ILogger) -> None:
            ...

        @overload
        def set_named_weights(self, name: str, weights: TensorRt.Weights) -> bool:
            ...

        @overload
        def set_named_weights(self, name: str, weights: TensorRt.Weights, location: Any) -> bool:
            ...

        def get_missing_weights(self) -> list[str]:
            ...

        def refit_cuda_engine(self) -> bool:
            ...

    class Runtime:

        def __init__(self, logger: TensorRt.ILogger) -> None:
            ...
        error_recorder: TensorRt.IErrorRecorder
        engine_host_code_allowed: bool

        @overload
        def deserialize_cuda_engine(self, serialized_engine: Buffer) -> TensorRt.ICudaEngine | None:
            ...

        @overload
        def deserialize_cuda_engine(self, stream_reader: Any) -> TensorRt.ICudaEngine | None:
            ...

    class TensorFormat:
        name: str

        def __int__(self) -> int:
            ...
        LINEAR: TensorRt.TensorFormat
        HWC8: TensorRt.TensorFormat

    class TensorIOMode:
        name: str

        def __int__(self) -> int:
            ...
        INPUT: TensorRt.TensorIOMode
        OUTPUT: TensorRt.TensorIOMode

    class Weights:

        @overload
        def __init__(self, type: TensorRt.DataType | None=...) -> None:
            ...

        @overload
        def __init__(self, type: TensorRt.DataType, ptr: int, count: int) -> None:
            ...

        @overload
        def __init__(self, a: Any) -> None:
            ...
