"""The library of each backend: its Python module, how it gets onto a machine, and the error where it is not there.

OpenVINO and ONNX Runtime tell their makers that they are used, and write an id for it into the home folder. Nobody who
runs a model here was asked, so both are told not to before they are imported.
"""

import importlib
import os
import sys
from types import ModuleType

from refinenet_edge.errors import MissingExtra

# of the backends that run a plan; those on the CPU are called as their module
MODULES = {
    "tensorrt": "tensorrt",
    "tensorrt-lean": "tensorrt_lean",
    "tensorrt-dispatch": "tensorrt_dispatch",
    "tensorrt-rtx": "tensorrt_rtx",
}
INSTALL = {
    "tensorrt": "on Jetson it comes with JetPack (apt install python3-libnvinfer), elsewhere: pip install tensorrt",
    "tensorrt-lean": "pip install tensorrt_lean",
    "tensorrt-dispatch": "pip install tensorrt_dispatch",
    "tensorrt-rtx": "pip install 'refinenet-edge[rtx]'",
    "openvino": "pip install 'refinenet-edge[cpu]'",
    "onnxruntime": "pip install 'refinenet-edge[cpu]'",
}
BACKENDS = tuple(INSTALL)


def load_library(backend: str) -> ModuleType:
    """The Python module of one of `BACKENDS`. Raises `MissingExtra` with the way to get it."""
    module = MODULES.get(backend, backend)
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it fails, which is fine
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as exc:  # a broken installation may raise anything
        if isinstance(exc, ModuleNotFoundError) and exc.name == module:
            raise MissingExtra(f"{module} is not installed: {INSTALL[backend]}") from exc
        broken = f"{module} does not import ({type(exc).__name__}: {exc})"
        raise MissingExtra(f"{broken}; install it again: {INSTALL[backend]}") from exc
