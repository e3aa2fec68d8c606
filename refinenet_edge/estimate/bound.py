"""A lower bound of the time of a frame: what its kernels must do, against what a GPU can do at most.

    time of a kernel >= max(2·MACs / rate, bytes through the memory / bandwidth) + bytes to and from the host / link
    time of a block  >= the sum over its kernels; of a frame, over its blocks

rate       dense, of the tensor cores in the kernel's precision, TF32 for float32 (TensorRT's default). A depthwise
           convolution gets that of the CUDA cores: one channel in, one out is no matrix product. So does everything
           where the GPU has no such tensor cores. On CUDA cores a plain 3x3 convolution may do with 2.25 times fewer
           multiplications (Winograd's F(2x2, 3x3), Lavin and Gray 2016), and the faster of the two counts.
memory     what a kernel reads may still be in the L2, the size of which is taken off its maps once; and of the weights
           that share of all weights which the L2 can hold from one frame to the next. Without that it is no bound:
           networks were measured below it (docs/measurements.md).
left out   launches, which dominate small frames on fast GPUs; waves that do not fill the SMs; bandwidth and clocks that
           are not reached; conversions of layout and of int8 that a builder adds; padding of channels.

With several frames at once each of these is of all of them, and a frame's share is what is said: weights are read once.

So a GPU is never faster, as long as its kernels are those of the graph; a builder may merge more, such as two
convolutions that read the same map. How much slower it is, forecast.py says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from refinenet_edge.errors import GraphError
from refinenet_edge.estimate.devices import Device
from refinenet_edge.estimate.forecast import expected
from refinenet_edge.estimate.kernels import Kernel
from refinenet_edge.records import Size

WINOGRAD = 2.25
Binding = Literal["compute", "memory", "link"]


@dataclass(frozen=True)
class BlockBound:
    """One block of the model: `bytes` go through the GPU's memory, `link_bytes` to or from the host's.

    `ms` is the bound, and `bound_by` what most of it is spent on.
    """

    block: str
    kernels: int
    macs: int
    bytes: int
    link_bytes: int
    ms: float
    bound_by: Binding


@dataclass(frozen=True)
class Bound:
    """Frame to labels in one precision, blocks in the order of the network; `kernels` are launched for each batch.

    No frame takes less than `ms`, and no more than `frames_per_second` follow one another. `expected_ms` is where a
    measurement should lie (forecast.py): lowest, middle, highest.
    """

    precision: str
    kernels: int
    ms: float
    frames_per_second: float
    expected_ms: tuple[float, float, float]
    blocks: tuple[BlockBound, ...]


@dataclass(frozen=True)
class Bounds:
    """A model on a device, in each precision that the device has."""

    model: str
    size: Size
    device_name: str
    device: Device
    bounds: tuple[Bound, ...]
    batch: int = 1  # frames at once; all else is of one of them


def bound(kernels: Sequence[Kernel], precision: str, device: Device, batch: int = 1) -> Bound:
    """The bound of a frame by `kernels`, which are of `precision` and for one, on `device`, `batch` of them at once.

    Weights are read, and kernels are launched, once for all. Raises `GraphError` when they do nothing.
    """
    cache = int(device.cache_mib * 2**20)
    weights = sum(kernel.weights for kernel in kernels)
    fetched = max(0.0, 1 - cache / weights) if weights else 0.0  # of the weights, every frame
    blocks: dict[str, list[tuple[Kernel, int]]] = {}
    for kernel in kernels:
        through_memory = (max(0, batch * kernel.maps - cache) + round(fetched * kernel.weights)) // batch
        blocks.setdefault(kernel.block, []).append((kernel, through_memory))
    by_block = tuple(_block_bound(name, moved, device) for name, moved in blocks.items())
    ms = sum(block.ms for block in by_block)
    if not ms:
        raise GraphError("there is nothing to bound: no convolution, and every map fits into the L2")
    return Bound(precision, len(kernels), ms, 1000 / ms, expected(ms, len(kernels), device, batch), by_block)


def _block_bound(name: str, moved: Sequence[tuple[Kernel, int]], device: Device) -> BlockBound:
    """The bound of a block: its kernels, each with the bytes that it moves through the GPU's memory."""
    spent: dict[Binding, float] = {"compute": 0.0, "memory": 0.0, "link": 0.0}
    link = 0
    for kernel, through_memory in moved:
        compute = 2 * kernel.macs / (rate(kernel, device) * 1e9)
        memory = through_memory / (device.bandwidth_gbs * 1e6)
        spent["compute" if compute > memory else "memory"] += max(compute, memory)
        if device.link_gbs is not None:
            spent["link"] += kernel.link / (device.link_gbs * 1e6)
            link += kernel.link
    macs, through = sum(kernel.macs for kernel, _ in moved), sum(through_memory for _, through_memory in moved)
    by = max(spent, key=lambda binding: spent[binding])
    return BlockBound(name, len(moved), macs, through, link, sum(spent.values()), by)


def rate(kernel: Kernel, device: Device) -> float:
    """TFLOPS (TOPS) at which `device` multiplies for `kernel` at best."""
    precision = kernel.arithmetic
    cuda = device.cuda_tflops["fp32" if precision == "fp32" else "fp16"]
    if kernel.winograd and precision in ("fp32", "fp16"):
        cuda *= WINOGRAD
    tensor = device.tensor_tflops.get("tf32" if precision == "fp32" else precision, 0.0)
    return max(cuda, tensor if kernel.tensor_cores else 0.0)
