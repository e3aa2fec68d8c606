"""Bicubic upsampling as MATLAB's imresize does it: an operator of torch, which `trace` writes as a Resize.

Half-pixel centres and the cubic kernel of a = -0.5 (torch has that of -0.75). Beyond the border a map goes on with its
last row or column, as in ONNX and TensorRT and in MATLAB of those years; later releases mirror it there, which changes
the outermost two pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

A = -0.5


def _weights(out: int, into: int, like: Tensor) -> Tensor:
    """The out x into matrix that takes a column of `into` pixels to `out`, at least as many."""
    centre = (torch.arange(out, dtype=torch.float64) + 0.5) * (into / out) - 0.5
    taps = centre.floor()[:, None] + torch.arange(-1.0, 3.0, dtype=torch.float64)
    x = (centre[:, None] - taps).abs()
    near = ((A + 2) * x - (A + 3)) * x**2 + 1
    far = A * (((x - 5) * x + 8) * x - 4)
    matrix = torch.zeros(out, into, dtype=torch.float64)
    matrix.scatter_add_(1, taps.long().clamp(0, into - 1), torch.where(x <= 1, near, far))
    return matrix.to(like)


@torch.library.custom_op("refinenet_edge::resize_cubic", mutates_args=())
def _resize_cubic(x: Tensor, size: Sequence[int]) -> Tensor:
    rows, columns = _weights(size[0], x.shape[2], x), _weights(size[1], x.shape[3], x)
    return rows @ x @ columns.T


@_resize_cubic.register_fake
def _(x: Tensor, size: Sequence[int]) -> Tensor:
    return x.new_empty((*x.shape[:2], *size))


def _remember(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.taken = inputs[0].shape[2:]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    rows, columns = (_weights(out, into, gradient) for out, into in zip(gradient.shape[2:], ctx.taken, strict=True))
    return rows.T @ gradient @ columns, None


_resize_cubic.register_autograd(_backward, setup_context=_remember)


def resize_cubic(x: Tensor, size: Sequence[int]) -> Tensor:
    """`x`, NCHW, at `size` = (height, width), which is no smaller than it."""
    return _resize_cubic(x, list(size))
