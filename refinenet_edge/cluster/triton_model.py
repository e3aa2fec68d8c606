"""A model of Triton's Python backend: frames in, their labels out, by the runtime and the exact head of this package.

`refinenet-edge export-triton` copies this file into a model repository as model.py, with the bundle beside it. The
server's Python must have refinenet-edge and what runs the bundle. A request has one of

    image    [n, 1]         PNG, JPEG, BMP or WebP files, as bytes
    frame    [n, h, w, 3]   uint8, BGR

and is answered with `labels` [n, h, w], uint8; so n images of one request are of one size. A request that cannot be
answered gets an error of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.images import decode_image
from refinenet_edge.records import Frame
from refinenet_edge.runtime import Segmenter


class TritonPythonModel:
    """What Triton makes of this file, once for each instance."""

    def initialize(self, args: dict[str, str]) -> None:
        backend = json.loads(args["model_config"])["parameters"]["backend"]["string_value"]
        bundle = Path(args["model_repository"]) / args["model_version"] / "bundle"
        self._segmenter = Segmenter(bundle, backend)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        self._segmenter.close()

    def _answer(self, request: Any) -> Any:
        try:
            labels = [self._segmenter.segment(frame).labels for frame in _frames(request)]
            if len({one.shape for one in labels}) > 1:
                raise InputError("the images of one request are of several sizes: send them one by one")
            return triton.InferenceResponse([triton.Tensor("labels", np.stack(labels))])
        except RefineNetEdgeError as exc:
            return triton.InferenceResponse(error=triton.TritonError(str(exc)))
        except Exception as exc:  # a mistake of ours is this request's error, not the others'
            return triton.InferenceResponse(error=triton.TritonError(f"{type(exc).__name__}: {exc}"))


def _frames(request: Any) -> Iterable[Frame]:
    images, frames = (triton.get_input_tensor_by_name(request, name) for name in ("image", "frame"))
    if (images is None) == (frames is None):
        raise InputError("a request has an image (an encoded file) or a frame (BGR, uint8), one of them")
    if frames is not None:
        return list(frames.as_numpy())
    return [decode_image(data, "of the request") for data in images.as_numpy().ravel()]
