"""Run an ONNX graph on the CPU with OpenVINO: the twin of the engine where there is no NVIDIA GPU."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refinenet_edge.errors import BundleError, RefineNetEdgeError, require
from refinenet_edge.records import TensorSpec
from refinenet_edge.runtime.libraries import load_library
from refinenet_edge.runtime.session import PROFILED_RUNS, Feeds, LayerTime, Model, Outputs, Session

# float32 arithmetic, so that a CPU with half-precision units gives the same labels as one without
CONFIG = {"INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoSession(Session):
    """`model` (see `Model`) on the CPU; its tensors keep their dtypes, float16 included.

    `threads` 0: as many as there are cores. Errors call it `name`. `throughput`: as many requests as OpenVINO finds
    best for frames per second, each with memory of its own; else one, soonest done, whose outputs are views of
    OpenVINO's memory, overwritten by the next run().
    Raises `BundleError` for an unusable model.
    """

    def __init__(self, model: Model, threads: int = 0, name: str = "the model", *, throughput: bool = False) -> None:
        require(model, (Path, bytes, Callable), "model")
        self._model = model
        self._config: dict[str, Any] = {**CONFIG, **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
        self._config["PERFORMANCE_HINT"] = "THROUGHPUT" if throughput else "LATENCY"
        try:
            self._compiled = _compiled(model, self._config)
            requests = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) if throughput else 1
            self._idle = [self._compiled.create_infer_request() for _ in range(requests)]
        except RefineNetEdgeError:
            raise
        except Exception as exc:  # the front end's errors have no base of their own
            raise BundleError(
                f"OpenVINO cannot load {model if isinstance(model, Path) else name}: {_reason(exc)}"
            ) from exc
        super().__init__("openvino", _specs(self._compiled.inputs), _specs(self._compiled.outputs), requests)

    def _run(self, feeds: Feeds) -> Outputs:
        idle, compiled = self._idle, self._compiled
        try:
            request = idle.pop()
        except IndexError:  # more threads than requests pay, or an interrupt took one with it
            self.check_open()
            request = compiled.create_infer_request()
        try:
            # a request's memory is the next thread's
            values = request.infer(dict(feeds), share_inputs=True, share_outputs=self.requests == 1)
        except RuntimeError as exc:
            raise RefineNetEdgeError(f"OpenVINO failed on {[array.shape for array in feeds.values()]}: {exc}") from exc
        finally:
            idle.append(request)
        return {spec.name: values[i] for i, spec in enumerate(self.outputs)}

    def _profiled_runs(self, feeds: Feeds) -> list[list[LayerTime]]:
        request = _compiled(self._model, {**self._config, "PERF_COUNT": "YES"}).create_infer_request()
        runs = []
        for _ in range(1 + PROFILED_RUNS):
            request.infer(dict(feeds), share_inputs=True)
            layers = [info for info in request.get_profiling_info() if info.real_time]
            runs.append([LayerTime(i.node_name, i.exec_type, i.real_time.total_seconds() * 1000) for i in layers])
        return runs[1:]

    def _release(self) -> None:
        self._idle, self._compiled = [], None


def _reason(exc: Exception) -> str:
    """What OpenVINO says that it is, of much that it says."""
    text = str(exc)
    if unknown := re.search(r"^-- (No conversion rule found .*)$", text, re.MULTILINE):
        return unknown[1]
    for operator, said in re.findall(r"^-- (\S+) with a message:\n(.*?)(?=\n\n|\Z)", text, re.MULTILINE | re.DOTALL):
        reason = said.strip().splitlines()[-1]
        if "rank has to be known" not in reason:  # which comes of another that failed
            return f"{operator}: {reason}"
    lines = [line for line in text.splitlines() if line.strip()] or [type(exc).__name__]
    # below where it was raised, above where to read on
    return next((line.removeprefix("-- ") for line in lines if line.startswith("-- ")), lines[-1])


def _compiled(model: Model, config: dict[str, Any]) -> Any:
    openvino = load_library("openvino")
    # as ONNX: told nothing, OpenVINO guesses the format, and its own has the weights in another file
    front_end = openvino.frontend.FrontEndManager().load_by_framework("onnx")
    source = str(model) if isinstance(model, Path) else io.BytesIO(model if isinstance(model, bytes) else model())
    return openvino.Core().compile_model(front_end.convert(front_end.load(source, False)), "CPU", config)


def _specs(ports: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            port.any_name,
            port.element_type.to_dtype().name,
            tuple(f"dim{axis}" if dim.is_dynamic else dim.get_length() for axis, dim in enumerate(port.partial_shape)),
        )
        for port in ports
    )
