"""The library of each backend: its Python module, how it gets onto a machine, and the error where it is not there.

OpenVINO and ONNX Runtime tell their makers that they are used, and write an id for it into the home folder. Nobody who
runs a model here was asked, so both are told not to before they are imported.
"""

import contextlib
import importlib
import importlib.metadata
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
# what may compute, and the distributions that bring it
DISTRIBUTIONS = {
    "numpy": ("numpy",),
    "cv2": ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    "torch": ("torch",),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    "cuda-bindings": ("cuda-bindings",),
    "pycuda": ("pycuda",),
}


def version_of(*distributions: str) -> str | None:
    """The release of the first of these that is installed; None: none is."""
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


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
