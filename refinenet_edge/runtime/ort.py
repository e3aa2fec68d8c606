"""Run an ONNX graph on the CPU with ONNX Runtime: the reference, and the twin where OpenVINO is not installed."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refinenet_edge.errors import BundleError, RefineNetEdgeError, require
from refinenet_edge.records import TensorSpec
from refinenet_edge.runtime.in_flight import cores, most_requests
from refinenet_edge.runtime.libraries import load_library
from refinenet_edge.runtime.session import PROFILED_RUNS, Feeds, LayerTime, Model, Outputs, Session

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
KERNEL = "_kernel_time"  # how the profile ends the name of a node's computation
ERRORS_ONLY = 3  # log severity: the default prints optimiser warnings that nobody can act on


def open_onnxruntime(
    model: Model,
    *,
    threads: int = 0,
    optimised: bool = True,
    as_written: bool = False,
    arena: bool = True,
    on_gpu: bool = False,
    profile: str = "",
) -> Any:
    """ONNX Runtime's own session of `model` (see `Model`). Raises whatever ONNX Runtime raises.

    `threads` 0: as many as there are cores. `optimised` False: node by node as the graph says. `as_written`: Q/DQ stay
    nodes of their own and convolutions float, as FP8 must. `arena` False: memory is not kept for the next run.
    `on_gpu`: by CUDA in float32, where this ONNX Runtime has it. `profile`: where the times of the nodes go.
    """
    ort = load_library("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    options.enable_cpu_mem_arena = arena
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    providers: list[Any] = ["CPUExecutionProvider"]
    if on_gpu and "CUDAExecutionProvider" in ort.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))  # float32, as the graph says
    if not isinstance(model, Path):  # told nothing, it guesses the format from the bytes
        options.add_session_config_entry("session.load_model_format", "ONNX")
    source = str(model) if isinstance(model, Path) else model if isinstance(model, bytes) else model()
    return ort.InferenceSession(source, options, providers=providers)


class OrtSession(Session):
    """`model` (see `Model`) on the CPU; outputs are new arrays. The options are `open_onnxruntime`'s.

    Errors call it `name`. `throughput`: as many requests as `most_requests`, which share the threads, instead of one
    that has them all. Raises `BundleError` for an unusable model.
    """

    def __init__(
        self,
        model: Model,
        as_written: bool = False,
        threads: int = 0,
        name: str = "the model",
        *,
        optimised: bool = True,
        throughput: bool = False,
    ) -> None:
        require(model, (Path, bytes, Callable), "model")
        requests = most_requests(threads) if throughput else 1
        threads = (threads or cores()) // requests if throughput else threads
        self._open = functools.partial(
            open_onnxruntime, model, as_written=as_written, threads=threads, optimised=optimised
        )
        try:
            self._session = self._open()
        except RefineNetEdgeError:
            raise
        except Exception as exc:  # its error classes are private and have no base of their own
            what = model if isinstance(model, Path) else name
            raise BundleError(f"ONNX Runtime cannot load {what}: {exc}") from exc
        super().__init__(
            "onnxruntime", _specs(self._session.get_inputs()), _specs(self._session.get_outputs()), requests
        )

    def _run(self, feeds: Feeds) -> Outputs:
        session = self._session
        if session is None:  # closed by another thread since
            self.check_open()
        try:
            values = session.run(None, dict(feeds))
        except Exception as exc:
            shapes = [array.shape for array in feeds.values()]
            raise RefineNetEdgeError(f"ONNX Runtime failed on {shapes}: {exc}") from exc
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def _profiled_runs(self, feeds: Feeds) -> list[list[LayerTime]]:
        with tempfile.TemporaryDirectory() as folder:
            session = self._open(profile=str(Path(folder, "profile")))
            for _ in range(1 + PROFILED_RUNS):
                session.run(None, dict(feeds))
            events = json.loads(Path(session.end_profiling()).read_text())
        kernels = [
            LayerTime(event["name"].removesuffix(KERNEL), event["args"]["op_name"], event["dur"] / 1000)
            for event in events
            if event["name"].endswith(KERNEL)
        ]
        each = len(kernels) // (1 + PROFILED_RUNS)
        return [kernels[start : start + each] for start in range(each, len(kernels), each)]

    def _release(self) -> None:
        self._session = None


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            tensor.name,
            DTYPES.get(tensor.type, tensor.type),
            tuple(f"dim{axis}" if dim is None else dim for axis, dim in enumerate(tensor.shape)),
        )
        for tensor in tensors
    )
