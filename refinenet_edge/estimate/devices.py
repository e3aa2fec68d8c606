"""GPUs by their published peaks: those of devices.toml, and a user's own in a file of the same format."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from refinenet_edge.errors import InputError
from refinenet_edge.recipe import read_table, record_of

TENSOR = ("tf32", "fp16", "int8", "fp8")
CUDA = ("fp32", "fp16")


@dataclass(frozen=True)
class Device:
    """One GPU and its memory at the clocks of `mode`; devices.toml says what the fields are and their units.

    Raises `InputError` naming the field that does not fit.
    """

    title: str
    mode: str
    sm: str
    gpu_mhz: float
    tensor_tflops: Mapping[str, float]
    cuda_tflops: Mapping[str, float]
    bandwidth_gbs: float
    cache_mib: float
    memory_gb: float
    source: tuple[str, ...]
    link_gbs: float | None = None

    def __post_init__(self) -> None:
        for field, known in (("tensor_tflops", TENSOR), ("cuda_tflops", CUDA)):
            rates: Mapping[str, float] = getattr(self, field)
            for precision, rate in rates.items():
                if precision not in known:
                    raise InputError(f"{field}: no precision {precision!r}; there are {', '.join(known)}")
                _require_positive(f"{field}.{precision}", rate)
        for precision in CUDA:
            if precision not in self.cuda_tflops:
                raise InputError(f"cuda_tflops.{precision}: missing")
        for field in ("gpu_mhz", "bandwidth_gbs", "cache_mib", "memory_gb", "link_gbs"):
            value = getattr(self, field)
            if value is not None:
                _require_positive(field, value)
        if not self.source or not all(line.strip() for line in self.source):
            raise InputError("source: say where the figures are from")

    @property
    def precisions(self) -> tuple[str, ...]:
        """What engines can be built in: int8 and fp8 where the tensor cores multiply them."""
        return ("fp32", "fp16", *(name for name in ("int8", "fp8") if name in self.tensor_tflops))


def _require_positive(what: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"{what}: {value} is not a positive number")


@cache
def devices() -> Mapping[str, Device]:
    """The devices that come with the package, by name."""
    with resources.as_file(resources.files("refinenet_edge.estimate") / "devices.toml") as path:
        return read_devices(path)


def find_device(name: str) -> tuple[str, Device]:
    """The device of that name, or the only one in the TOML file of that path. Raises `InputError`."""
    if name in devices():
        return name, devices()[name]
    path = Path(name)
    if path.suffix != ".toml" and not path.exists():
        raise InputError(f"no device {name!r}; there are {', '.join(devices())}, or the path of a TOML file")
    own = read_devices(path)
    if len(own) != 1:
        raise InputError(f"{path} holds {len(own)} devices ({', '.join(own) or 'none'}): expected exactly one")
    return next(iter(own.items()))


def read_devices(path: Path) -> dict[str, Device]:
    """Name -> device of a file in the format of devices.toml. Raises `InputError` naming what does not fit."""
    tables = read_table(path, "file")
    return {name: record_of(Device, table, f"{path}, device {name!r}") for name, table in tables.items()}
