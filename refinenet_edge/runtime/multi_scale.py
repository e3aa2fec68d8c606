"""Frame -> mask at several scales and mirrored: the class scores (softmax) of all passes, averaged at the frame's size.

What is kept of a pass are its small logits; scores at the frame's size exist for a block of rows at a time. Frames and
labels are prepared on the CPU whatever runs the network.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from refinenet_edge.bundle import Bundle
from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.records import SMALLEST_SIDE, WHOLE, Frame, Inference, Mask, MultiScale, Size
from refinenet_edge.runtime.frame_path import Network
from refinenet_edge.runtime.head import Logits, Pass, average_softmax
from refinenet_edge.runtime.host_path import HostPath

if TYPE_CHECKING:
    from refinenet_edge.runtime.frame import DeviceImage


class MultiScalePath(HostPath):
    """`FramePath` of a `MultiScale`. Raises `InputError` where the network's size is fixed and another is asked for."""

    whole = False

    def __init__(self, network: Network, inference: MultiScale) -> None:
        super().__init__(network)
        self._inference = inference
        self._paths = [HostPath(one) for one in (network, *network.beside)]
        size = network.frame_spec.size
        if size is not None and not network.beside and inference != MultiScale(flip=inference.flip):
            raise InputError(
                f"{network.origin} takes {size[0]}x{size[1]} pixels only, whatever the scale: build it with --dynamic, "
                "or at other sizes, too, and name those --with it; --flip alone needs neither"
            )

    def _segment(self, frame: Frame | DeviceImage) -> Mask:
        return self._label(self._passes(frame), (frame.shape[0], frame.shape[1]))

    def staged(self, frame: Frame | DeviceImage) -> tuple[Mask, dict[str, float]]:
        """`FramePath.staged`: passes, which is preparing and the engine of each, and head."""
        times = [time.perf_counter()]
        passes = self._passes(frame)
        times.append(time.perf_counter())
        mask = self._label(passes, (frame.shape[0], frame.shape[1]))
        times.append(time.perf_counter())
        return mask, {"passes": 1000 * (times[1] - times[0]), "head": 1000 * (times[2] - times[1])}

    def scores(self, frame: Frame | DeviceImage) -> Iterator[tuple[slice, Logits]]:
        """Rows of `frame` and their averaged class scores, C x rows x width float32."""
        return average_softmax(self._passes(frame), (frame.shape[0], frame.shape[1]))

    def _passes(self, frame: Frame | DeviceImage) -> list[Pass]:
        size = frame.shape[0], frame.shape[1]
        passes = []
        for path in self._paths:
            spec = path.network.frame_spec
            sizes: list[Size | None] = [*self._inference.sizes(size)] if spec.size is None else [None]
            for scaled, scale in zip(sizes, self._inference.scales, strict=False):
                if scaled:
                    _require_large_enough(scaled, scale)
            views = list(itertools.product(sizes, (False, True)[: 1 + self._inference.flip]))
            images = (path.image(_mirrored(frame) if mirrored else frame, scaled) for scaled, mirrored in views)
            for logits, (_, mirrored) in zip(path.views(images), views, strict=True):
                passes.append(Pass(logits, spec.upsample, spec.spans(size), mirrored))
        return passes

    def _label(self, passes: list[Pass], size: Size) -> Mask:
        network = self.network
        labels = np.empty(size, np.uint8)
        confidence = np.empty(size, np.uint8) if network.confidence else None
        try:
            for rows, scores in average_softmax(passes, size):
                labels[rows] = scores.argmax(axis=0)
                if confidence is not None:
                    confidence[rows] = np.rint(255 * np.minimum(scores.max(axis=0), 1))
        except BundleError as exc:
            raise BundleError(f"{network.origin}: {exc}") from exc
        return Mask(labels, network.labels, confidence)


def at_sizes(inference: Inference, bundle: Bundle, beside: Sequence[Bundle]) -> Inference:
    """`inference` with `bundle` and the same network at other sizes `beside` it: a `MultiScale` of their sizes.

    Without any beside, as it is. Raises `InputError` unless all have fixed sizes and the same classes, and neither
    scales nor tiles are asked for.
    """
    if not beside:
        return inference
    sizes = [one.manifest.frame.size for one in (bundle, *beside)]
    flip = isinstance(inference, MultiScale) and inference.flip
    if None in sizes or inference not in (WHOLE, MultiScale(flip=flip)):
        raise InputError(
            "bundles at other sizes, --with, take the place of --scales and --tiles, and all have a fixed size: leave "
            "the one or the other out"
        )
    for one in beside:
        if one.manifest.labels.names != bundle.manifest.labels.names:
            raise InputError(f"bundles {one.path} and {bundle.path} have different classes: nothing to average")
    areas = [size[0] * size[1] for size in sizes if size]
    scales = tuple(round(math.sqrt(area / areas[0]), 4) for area in areas)
    return MultiScale(scales, flip, bundles=tuple(one.digest for one in beside))


def _mirrored(frame: Frame | DeviceImage) -> Frame:
    return np.ascontiguousarray(frame[:, ::-1])  # type: ignore[index]


def _require_large_enough(size: Size, scale: float) -> None:
    if min(size) < SMALLEST_SIDE:
        raise InputError(
            f"the frame is {size[0]}x{size[1]} pixels at scale {scale:g}, a network needs {SMALLEST_SIDE} a side: "
            "leave that scale out"
        )
