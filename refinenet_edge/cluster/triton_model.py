"""A model of Triton's Python backend: frames in, their labels out, by the runtime and the exact head of this package.

`refinenet-edge export-triton` copies this file into a model repository as model.py, with the bundle beside it. The
server's Python must have refinenet-edge and what runs the bundle. A request has one of

    image    [1, bytes]     uint8: a PNG, JPEG, BMP or WebP file
    frame    [n, h, w, 3]   uint8, BGR

and is answered with `labels` [n, h, w], uint8. On a CPU several requests are on their way at once, each on a core or
some; `execute` hands them over and returns, so that those of the next batch need not wait for the last of this one, and
each is answered as soon as it is done (Triton 24.06 and later). On a GPU the frames of a batch are segmented together.
A request that cannot be answered gets an error of its own.

Tensors go in and out by DLPack, not by `as_numpy` and `Tensor(name, array)`, and none is of BYTES: where Triton's
backend was built for numpy 1, as that of nvidia-pytriton 0.7.0 is, and numpy 2 is installed, those give arrays of one
repeated element, send nothing, and kill the process.
"""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import triton_python_backend_utils as triton

from refinenet_edge.errors import InputError, RefineNetEdgeError
from refinenet_edge.frames.images import decode_image
from refinenet_edge.records import Frame, Mask
from refinenet_edge.runtime import Segmenter
from refinenet_edge.runtime.in_flight import AHEAD

T = TypeVar("T")
Given = bytes | np.ndarray  # an encoded file, or frames
Masks = list[Mask] | list[Mask | RefineNetEdgeError] | Exception  # of a request


class TritonPythonModel:
    """What Triton makes of this file, once for each instance."""

    def initialize(self, args: dict[str, str]) -> None:
        backend = json.loads(args["model_config"])["parameters"]["backend"]["string_value"]
        bundle = Path(args["model_repository"]) / args["model_version"] / "bundle"
        self._segmenter = Segmenter(bundle, backend, throughput=True)
        self._at_once = ThreadPoolExecutor(self._segmenter.in_flight)
        self._room = threading.Semaphore(AHEAD * self._segmenter.in_flight)

    def execute(self, requests: list[Any]) -> None:
        if self._segmenter.in_flight > 1:
            for request in requests:
                self._hand_over(request)
            return
        for request, found in zip(requests, self._together(requests), strict=True):
            _answer(request.get_response_sender(), found)

    def finalize(self) -> None:
        self._at_once.shutdown()  # what was handed over is answered first
        self._segmenter.close()

    def _hand_over(self, request: Any) -> None:
        """Begin with a request when there is room: Triton gives more as soon as `execute` returns."""
        self._room.acquire()
        given = _or_error(_given, request)
        if isinstance(given, np.ndarray):
            given = given.copy()  # Triton takes the request's memory back when `execute` returns
        self._at_once.submit(self._segment, given, request.get_response_sender())

    def _segment(self, given: Given | Exception, sender: Any) -> None:
        def masks(given: Given) -> list[Mask]:
            return [self._segmenter.segment(frame) for frame in _frames(given)]

        try:
            _answer(sender, given if isinstance(given, Exception) else _or_error(masks, given))
        except Exception as exc:  # nobody waits for what this returns
            triton.Logger.log_error(f"an answer could not be sent: {exc}")
        finally:
            self._room.release()

    def _together(self, requests: list[Any]) -> Iterator[Masks]:
        """On a GPU: all frames of the batch at once."""
        taken = [_or_error(lambda one: _frames(_given(one)), request) for request in requests]
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


def _answer(sender: Any, masks: Masks) -> None:
    sender.send(_response(masks), flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _response(masks: Masks) -> Any:
    each = [masks] if isinstance(masks, Exception) else masks
    found = next((one for one in each if isinstance(one, Exception)), None)
    if found is not None:
        said = str(found) if isinstance(found, RefineNetEdgeError) else f"{type(found).__name__}: {found}"
        return triton.InferenceResponse(error=triton.TritonError(said))
    labels = np.stack([mask.labels for mask in each if isinstance(mask, Mask)])
    return triton.InferenceResponse([triton.Tensor.from_dlpack("labels", labels)])


def _given(request: Any) -> Given:
    images, frames = (triton.get_input_tensor_by_name(request, name) for name in ("image", "frame"))
    if (images is None) == (frames is None):
        raise InputError("a request has an image (an encoded file) or a frame (BGR, uint8), one of them")
    if frames is not None:
        return np.from_dlpack(frames)
    files = np.from_dlpack(images)
    if len(files) != 1:
        raise InputError(f"a request has one image, this has {len(files)}: send them one by one")
    return bytes(files[0].tobytes())


def _frames(given: Given) -> list[Frame]:
    return [decode_image(given, "of the request")] if isinstance(given, bytes) else list(given)
