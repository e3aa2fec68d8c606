"""Hold `refinenet-edge estimate` to published measurements of TensorRT on networks that everybody knows.

    python benchmarks/estimate_check.py                -> benchmarks/results/estimate/published.json

The networks are written down here as the kernels that a builder makes of them: convolutions with their sums and
activations, pools, resizes. Nothing is run. What a publication measured beyond the network (a tail, an upload) only
makes it slower. A measurement below the bound would prove the bound wrong: the script then fails. What it fits are the
constants of refinenet_edge/estimate/forecast.py.

Left out: FCN and DeepLabV3 of kentaroy47/benchmark-FP32-FP16-INT8-with-TensorRT, whose boards are not said for sure (if
the last table is of the Nano, as its neighbours are, it is faster than that chip can multiply).
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from machine import save
from rich.console import Console
from rich.table import Table

from refinenet_edge.estimate.bound import bound
from refinenet_edge.estimate.devices import devices, read_devices
from refinenet_edge.estimate.kernels import WIDTH, Kernel

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PUBLISHED = Path(__file__).with_name("estimate_published.toml")
OTHERS = Path(__file__).with_name("estimate_devices.toml")  # GPUs that are no targets of ours


@dataclass(frozen=True)
class Map:
    channels: int
    height: int
    width: int

    @property
    def elements(self) -> int:
        return self.channels * self.height * self.width


class Net:
    """Adds up kernels as a network is written down; every map is as wide as the precision says."""

    def __init__(self, precision: str, height: int, width: int) -> None:
        self.precision = precision
        self.image = Map(3, height, width)
        self.kernels: list[Kernel] = []

    def conv(
        self, x: Map, out: int, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1, add: Map | None = None
    ) -> Map:
        """Padded to keep the size; `add` is a map that its kernel sums on."""
        y = Map(out, -(-x.height // stride), -(-x.width // stride))
        weights = out * x.channels // groups * kernel * kernel
        self._kernel(
            [x, y, *([add] if add else [])],
            weights=weights * WIDTH[self.precision],
            macs=weights * y.height * y.width,
            tensor_cores=groups < x.channels,
            winograd=(kernel, stride, groups, dilation) == (3, 1, 1, 1),
        )
        return y

    def pool(self, x: Map, stride: int = 1) -> Map:
        y = Map(x.channels, -(-x.height // stride), -(-x.width // stride))
        self._kernel([x, y])
        return y

    def resized(self, x: Map, height: int, width: int) -> Map:
        y = Map(x.channels, height, width)
        self._kernel([x, y])
        return y

    def linear(self, x: Map, out: int) -> Map:
        """Global pooling and a dense layer."""
        return self.conv(self.resized(x, 1, 1), out, 1)

    def _kernel(self, maps: list[Map], macs: int = 0, weights: int = 0, **form: bool) -> None:
        moved = sum(each.elements for each in maps) * WIDTH[self.precision]
        self.kernels.append(Kernel("network", macs, self.precision, maps=moved, weights=weights, **form))


def _basic(net: Net, x: Map, channels: int, stride: int, dilation: int) -> Map:
    skip = x if stride == 1 and x.channels == channels else net.conv(x, channels, 1, stride)
    return net.conv(net.conv(x, channels, 3, stride), channels, 3, add=skip)


def _bottleneck(net: Net, x: Map, channels: int, stride: int, dilation: int) -> Map:
    skip = x if stride == 1 and x.channels == 4 * channels else net.conv(x, 4 * channels, 1, stride)
    y = net.conv(net.conv(x, channels, 1), channels, 3, stride, dilation=dilation)
    return net.conv(y, 4 * channels, 1, add=skip)


RESNETS: dict[int, tuple[Callable[[Net, Map, int, int, int], Map], tuple[int, ...]]] = {
    18: (_basic, (2, 2, 2, 2)),
    34: (_basic, (3, 4, 6, 3)),
    50: (_bottleneck, (3, 4, 6, 3)),
    101: (_bottleneck, (3, 4, 23, 3)),
    152: (_bottleneck, (3, 8, 36, 3)),
}


def _trunk(
    net: Net, depth: int, x: Map, strides: tuple[int, ...] = (1, 2, 2, 2), dilations: tuple[int, ...] = (1,) * 4
) -> Map:
    block, counts = RESNETS[depth]
    for stage, count in enumerate(counts):
        for place in range(count):
            x = block(net, x, 64 << stage, strides[stage] if place == 0 else 1, dilations[stage])
    return x


def resnet(net: Net, depth: int) -> None:
    """torchvision's, 1000 classes."""
    net.linear(_trunk(net, depth, net.pool(net.conv(net.image, 64, 7, 2), 2)), 1000)


def fcn_resnet18(net: Net) -> None:
    """jetson-inference's segNet: stride 32, head of 128 channels, 21 classes."""
    x = _trunk(net, 18, net.pool(net.conv(net.image, 64, 7, 2), 2))
    net.conv(net.conv(x, 128, 3), 21, 1)


def _dilated_resnet50(net: Net) -> Map:
    """The ResNetV1c-50-d8 of mmsegmentation: three convolutions for a stem, stride 8."""
    x = net.conv(net.conv(net.conv(net.image, 32, 3, 2), 32, 3), 64, 3)
    return _trunk(net, 50, net.pool(x, 2), (1, 2, 1, 1), (1, 1, 2, 4))


def fcn_r50_d8(net: Net) -> None:
    """mmsegmentation's, 19 classes; without the resize of the logits and their argmax."""
    x = _dilated_resnet50(net)
    y = net.conv(net.conv(x, 512, 3), 512, 3)
    net.conv(net.conv(Map(x.channels + y.channels, y.height, y.width), 512, 3), 19, 1)


def pspnet_r50_d8(net: Net) -> None:
    """mmsegmentation's, 19 classes; without the resize of the logits and their argmax."""
    x = _dilated_resnet50(net)
    for bins in (1, 2, 3, 6):
        net.resized(net.conv(net.resized(x, bins, bins), 512, 1), x.height, x.width)
    net.conv(net.conv(Map(x.channels + 4 * 512, x.height, x.width), 512, 3), 19, 1)


def vgg16(net: Net) -> None:
    """The features of torchvision's, without the dense layers."""
    x = net.image
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = net.conv(x, channels, 3)
        x = net.pool(x, 2)


def mobilenet_v2(net: Net) -> None:
    """torchvision's, 1000 classes."""
    x = net.conv(net.image, 32, 3, 2)
    for expansion, channels, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for place in range(count):
            step = stride if place == 0 else 1
            hidden = expansion * x.channels
            y = net.conv(x, hidden, 1) if expansion > 1 else x
            y = net.conv(y, hidden, 3, step, groups=hidden)
            x = net.conv(y, channels, 1, add=x if step == 1 and channels == x.channels else None)
    net.linear(net.conv(x, 1280, 1), 1000)


def yolov8(net: Net, depth: float, width: float, most: int) -> None:
    """Ultralytics' detector, 80 classes, up to the raw outputs of its heads."""
    c = [int(min(channels, most) * width) for channels in (64, 128, 256, 512, 1024)]

    def c2f(x: Map, out: int, count: int, shortcut: bool) -> Map:
        count, half = round(count * depth), out // 2
        part = Map(half, x.height, x.width)
        net.conv(x, out, 1)
        for _ in range(count):
            part = net.conv(net.conv(part, half, 3), half, 3, add=part if shortcut else None)
        return net.conv(Map((2 + count) * half, x.height, x.width), out, 1)

    def joined(x: Map, y: Map) -> Map:
        return Map(x.channels + y.channels, y.height, y.width)

    x = net.conv(net.conv(net.image, c[0], 3, 2), c[1], 3, 2)
    x = net.conv(c2f(x, c[1], 3, True), c[2], 3, 2)
    p3 = c2f(x, c[2], 6, True)
    p4 = c2f(net.conv(p3, c[3], 3, 2), c[3], 6, True)
    x = c2f(net.conv(p4, c[4], 3, 2), c[4], 3, True)
    x = net.conv(x, c[4] // 2, 1)
    for _ in range(3):
        x = net.pool(x)
    p5 = net.conv(Map(4 * x.channels, x.height, x.width), c[4], 1)
    up4 = c2f(joined(net.resized(p5, p4.height, p4.width), p4), c[3], 3, False)
    out3 = c2f(joined(net.resized(up4, p3.height, p3.width), p3), c[2], 3, False)
    out4 = c2f(joined(net.conv(out3, c[2], 3, 2), up4), c[3], 3, False)
    out5 = c2f(joined(net.conv(out4, c[3], 3, 2), p5), c[4], 3, False)
    boxes, scores = max(16, c[2] // 4, 64), max(c[2], 80)
    for x in (out3, out4, out5):
        net.conv(net.conv(net.conv(x, boxes, 3), boxes, 3), 64, 1)
        net.conv(net.conv(net.conv(x, scores, 3), scores, 3), 80, 1)


NETWORKS: dict[str, Callable[[Net], None]] = {
    **{f"resnet{depth}": lambda net, depth=depth: resnet(net, depth) for depth in RESNETS},
    "fcn-resnet18": fcn_resnet18,
    "fcn-r50-d8": fcn_r50_d8,
    "pspnet-r50-d8": pspnet_r50_d8,
    "vgg16_bn": vgg16,
    "mobilenet_v2": mobilenet_v2,
    "yolov8n": lambda net: yolov8(net, 1 / 3, 0.25, 1024),
    "yolov8s": lambda net: yolov8(net, 1 / 3, 0.5, 1024),
    "yolov8m": lambda net: yolov8(net, 2 / 3, 0.75, 768),
}


def kernels_of(name: str, precision: str, height: int, width: int) -> list[Kernel]:
    """The kernels of a network of `NETWORKS` on one image."""
    net = Net(precision, height, width)
    NETWORKS[name](net)
    return net.kernels


@dataclass(frozen=True)
class Case:
    """One published figure, ms of one image, beside its bound.

    `factor` is measured / bound, `off` measured / expected; `cacheless_ms` would be the bound without an L2.
    """

    device: str
    network: str
    precision: str
    size: tuple[int, int]
    gpu_mhz: float
    kernels: int
    bound_ms: float
    measured_ms: float
    factor: float
    off: float
    cacheless_ms: float
    source: str


def cases() -> list[Case]:
    """Every measurement of estimate_published.toml."""
    known = {**devices(), **read_devices(OTHERS)}
    found = []
    for entry in tomllib.loads(PUBLISHED.read_text())["measured"]:
        name, precision, size = entry["device"], entry["precision"], tuple(entry["size"])
        device = known[name]
        cacheless = dataclasses.replace(device, cache_mib=1e-9)
        measured = entry.get("ms") or {network: 1000 / fps for network, fps in entry["fps"].items()}
        for network, ms in measured.items():
            kernels = kernels_of(network, precision, *size)
            least = bound(kernels, precision, device)
            without = bound(kernels, precision, cacheless).ms
            figures = (least.ms, ms, ms / least.ms, ms / least.expected_ms[1], without)
            rounded = (round(figure, 4) for figure in figures)
            found.append(Case(name, network, precision, size, device.gpu_mhz, len(kernels), *rounded, entry["source"]))
    return found


def fit(found: list[Case]) -> tuple[float, int]:
    """BOUND_FACTOR and KERNEL_CYCLES of forecast.py: the least mean of |log measured / expected|."""
    tried = [(round(0.1 * tenths, 1), 1000 * thousands) for tenths in range(10, 41) for thousands in range(51)]
    return min(tried, key=lambda these: float(np.abs(np.log(_off(found, *these))).mean()))


def spread(found: list[Case]) -> tuple[float, float]:
    """SPREAD of forecast.py: nine of ten measured / expected, each expected from what the other devices gave."""
    off: list[float] = []
    for device in {case.device for case in found}:
        constants = fit([case for case in found if case.device != device])
        off += _off([case for case in found if case.device == device], *constants).tolist()
    low, high = np.percentile(off, [5, 95])
    return round(float(low), 2), round(float(high), 2)


def _off(found: list[Case], factor: float, cycles: int) -> npt.NDArray[np.float64]:
    bounds, measured, clocks, kernels = (
        np.array([getattr(case, field) for case in found], float)
        for field in ("bound_ms", "measured_ms", "gpu_mhz", "kernels")
    )
    off: npt.NDArray[np.float64] = measured / (factor * bounds + kernels * cycles / (clocks * 1e3))
    return off


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="The result file.")
def main(out: Path | None) -> None:
    found = cases()
    table = Table("device", "network", "", "size", "bound ms", "measured ms", "factor", "off")
    for case in found:
        size = "x".join(map(str, case.size))
        figures = f"{case.bound_ms:.3f}", f"{case.measured_ms:.3f}", f"{case.factor:.2f}", f"{case.off:.2f}"
        table.add_row(case.device, case.network, case.precision, size, *figures)
    console = Console()
    console.print(table)
    factor, cycles = fit(found)
    low, high = spread(found)
    long = [case.factor for case in found if case.bound_ms >= 1]
    console.print(f"{len(found)} cases: expected = {factor} bound + kernels · {cycles} / clock, {low} to {high} times")
    console.print(f"measured / bound where that is 1 ms or more: {min(long):.2f} to {max(long):.2f}")
    if wrong := [case for case in found if case.factor < 1]:
        raise click.ClickException(f"measured below the bound: {wrong}")
    record = {
        "bound_factor": factor,
        "kernel_cycles": cycles,
        "spread": [low, high],
        "factor_from_1_ms": [min(long), statistics.median(long), max(long)],
        "cases": [dataclasses.asdict(case) for case in found],
    }
    console.print(f"written to {save(record, 'published.json', out, 'estimate')}")


if __name__ == "__main__":
    main()
