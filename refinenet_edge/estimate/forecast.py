"""What to expect above the bound: fitted to published measurements by benchmarks/estimate_check.py.

    expected = BOUND_FACTOR · bound + kernels · KERNEL_CYCLES / clock of the GPU

The second term is what the bound leaves out: a kernel takes its time to launch, fill and drain, whatever it does. The
measurements are of TensorRT, batch 1, on ResNets, FCN, PSPNet, VGG-16, MobileNet-v2 and YOLOv8, on Jetson Nano, Xavier,
Orin and Thor, T4, RTX 3090, RTX 4080, L4 and A100; each is in benchmarks/results/estimate/published.json. Nine of ten
lie within SPREAD times what the other devices' measurements made expect. Faster were the A100 and the L4, whose kernels
were launched as one CUDA graph, as the runtime does here. None is of RefineNet: nobody has published one. Of
batches none was taken: that the second term is shared by their frames is reckoned.
"""

from refinenet_edge.estimate.devices import Device

BOUND_FACTOR = 2.3
KERNEL_CYCLES = 23_000
SPREAD = (0.52, 1.63)


def expected(bound_ms: float, kernels: int, device: Device, batch: int = 1) -> tuple[float, float, float]:
    """Ms of a frame: lowest, middle and highest; never below the bound. Kernels are launched once for a `batch`."""
    middle = BOUND_FACTOR * bound_ms + kernels * KERNEL_CYCLES / (device.gpu_mhz * 1e3) / batch
    low, high = SPREAD
    return max(bound_ms, low * middle), middle, high * middle
