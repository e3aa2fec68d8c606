"""A model of Triton's Python backend: frames in, their labels out, by the runtime and the exact head of this package.

`refinenet-edge export-triton` copies this file into a model repository as model.py, with the bundle beside it. The
server's Python must have refinenet-edge and what runs the bundle. A request has one of

    image    [1, bytes]     uint8: a PNG, JPEG, BMP or WebP file
    frame    [n, h, w, 3]   uint8, BGR

and is answered with `labels` [n, h, w], uint8, as soon as it is done, whatever else is in its batch (Triton 24.06 and
later). A request that cannot be answered gets an error of its own.

Tensors go in and out by DLPack, not by `as_numpy` and `Tensor(name, array)`, and none is of BYTES: where Triton's
backend was built for numpy 1, as that of nvidia-pytriton 0.7.0 is, and numpy 2 is installed, those give arrays of one
repeated element, send nothing, and kill the process.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.frames.images import decode_image
from refinenet_edge.records import Frame
from refinenet_edge.runtime import Segmenter


class TritonPythonModel:
    """What Triton makes of this file, once for each instance."""

    def initialize(self, args: dict[str, str]) -> None:
        backend = json.loads(args["model_config"])["parameters"]["backend"]["string_value"]
        bundle = Path(args["model_repository"]) / args["model_version"] / "bundle"
        self._segmenter = Segmenter(bundle, backend)

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            # at once: in what is returned the first of a batch would wait for its last
            request.get_response_sender().send(self._answer(request), flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        self._segmenter.close()

    def _answer(self, request: Any) -> Any:
        try:
            labels = np.stack([self._segmenter.segment(frame).labels for frame in _frames(request)])
            return triton.InferenceResponse([triton.Tensor.from_dlpack("labels", labels)])
        except RefineNetEdgeError as exc:
            return triton.InferenceResponse(error=triton.TritonError(str(exc)))
        except Exception as exc:  # a mistake of ours is this request's error, not the others'
            return triton.InferenceResponse(error=triton.TritonError(f"{type(exc).__name__}: {exc}"))


def _frames(request: Any) -> Iterable[Frame]:
    images, frames = (triton.get_input_tensor_by_name(request, name) for name in ("image", "frame"))
    if (images is None) == (frames is None):
        raise InputError("a request has an image (an encoded file) or a frame (BGR, uint8), one of them")
    if frames is not None:
        return list(np.from_dlpack(frames))
    files = np.from_dlpack(images)
    if len(files) != 1:
        raise InputError(f"a request has one image, this has {len(files)}: send them one by one")
    return [decode_image(files[0].tobytes(), "of the request")]
