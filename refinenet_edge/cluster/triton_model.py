"""A model of Triton's Python backend: frames in, their labels out, by the runtime and the exact head of this package.

`refinenet-edge export-triton` copies this file into a model repository as model.py, with the bundle beside it. The
server's Python must have refinenet-edge and what runs the bundle. A request has one of

    image    [1, bytes]     uint8: a PNG, JPEG, BMP or WebP file
    frame    [n, h, w, 3]   uint8, BGR

and is answered with `labels` [n, h, w], uint8. On a CPU several requests are on their way at once, each on a core or
some, and each is answered as soon as it is done, whatever else is in its batch (Triton 24.06 and later); on a GPU the
frames of a batch are segmented together. A request that cannot be answered gets an error of its own.

Tensors go in and out by DLPack, not by `as_numpy` and `Tensor(name, array)`, and none is of BYTES: where Triton's
backend was built for numpy 1, as that of nvidia-pytriton 0.7.0 is, and numpy 2 is installed, those give arrays of one
repeated element, send nothing, and kill the process.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import triton_python_backend_utils as triton

from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.frames.images import decode_image
from refinenet_edge.records import Frame, Mask
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.in_flight import Workers

T = TypeVar("T")
Masks = list[Mask] | list[Mask | RefineNetEdgeError] | Exception  # of a request


class TritonPythonModel:
    """What Triton makes of this file, once for each instance."""

    def initialize(self, args: dict[str, str]) -> None:
        backend = json.loads(args["model_config"])["parameters"]["backend"]["string_value"]
        bundle = Path(args["model_repository"]) / args["model_version"] / "bundle"
        self._segmenter = Segmenter(bundle, backend, throughput=True)
        self._workers = Workers(self._segmenter.in_flight)

    def execute(self, requests: list[Any]) -> None:
        masks = self._side_by_side(requests) if self._segmenter.in_flight > 1 else self._together(requests)
        for request, found in zip(requests, masks, strict=True):
            # at once: in what is returned the first of a batch would wait for its last
            request.get_response_sender().send(_response(found), flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        self._workers.close()
        self._segmenter.close()

    def _side_by_side(self, requests: list[Any]) -> Iterator[Masks]:
        """On a CPU: those of a request as soon as they are done, of several requests at once."""

        def masks(request: Any) -> Masks:
            return [self._segmenter.segment(frame) for frame in _frames(request)]

        return self._workers.in_order(partial(_or_error, masks), requests)

    def _together(self, requests: list[Any]) -> Iterator[Masks]:
        """On a GPU: all frames of the batch at once."""
        taken = [_or_error(_frames, request) for request in requests]
        frames = [frame for each in taken if not isinstance(each, Exception) for frame in each]
        found = _or_error(self._segmenter.segment_batch, frames)
        if isinstance(found, Exception):
            yield from (each if isinstance(each, Exception) else found for each in taken)
            return
        rest = iter(found)
        yield from (each if isinstance(each, Exception) else [next(rest) for _ in each] for each in taken)


def _or_error(work: Callable[[Any], T], given: Any) -> T | Exception:
    try:
        return work(given)
    except Exception as exc:  # a mistake of ours is this request's error, too, not the others'
        return exc


def _response(masks: Masks) -> Any:
    each = [masks] if isinstance(masks, Exception) else masks
    found = next((one for one in each if isinstance(one, Exception)), None)
    if found is not None:
        said = str(found) if isinstance(found, RefineNetEdgeError) else f"{type(found).__name__}: {found}"
        return triton.InferenceResponse(error=triton.TritonError(said))
    labels = np.stack([mask.labels for mask in each if isinstance(mask, Mask)])
    return triton.InferenceResponse([triton.Tensor.from_dlpack("labels", labels)])


def _frames(request: Any) -> list[Frame]:
    images, frames = (triton.get_input_tensor_by_name(request, name) for name in ("image", "frame"))
    if (images is None) == (frames is None):
        raise InputError("a request has an image (an encoded file) or a frame (BGR, uint8), one of them")
    if frames is not None:
        return list(np.from_dlpack(frames))
    files = np.from_dlpack(images)
    if len(files) != 1:
        raise InputError(f"a request has one image, this has {len(files)}: send them one by one")
    return [decode_image(files[0].tobytes(), "of the request")]
