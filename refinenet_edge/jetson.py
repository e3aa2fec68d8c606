"""What a Jetson says of itself: board, L4T, JetPack, CUDA, TensorRT, power mode, clocks, memory, DLA.

Everything is read from files below a root folder; no command is run and nothing is changed. What a file does not say,
or says in a way that is not understood, is None: nothing is filled in.

Nothing here was ever read from a board by us. Where the files are and what they look like is from NVIDIA's
documentation (nvpmodel, jetson_clocks, L4T) and from what people posted of theirs:

    proc/device-tree/model, compatible   the board and its chip, ended by NUL
    etc/nv_tegra_release                 "# R36 (release), REVISION: 4.3, GCID: ..." (Thor: jetson_stats issue 711)
    var/lib/dpkg/status                  Debian's packages: nvidia-jetpack, libnvinfer10
    usr/local/cuda/version.json          the CUDA toolkit
    var/lib/nvpmodel/status              "pmode:0002"; etc/nvpmodel.conf names the modes: what `nvpmodel -q` prints
    sys/class/devfreq/*, sys/devices/system/cpu/cpufreq/policy*    what jetson_clocks sets
    proc/meminfo                         memory, which CPU and GPU share
    sys/bus/platform/devices/*.nvdla*    a DLA core each; usr/lib/.../libnvdla_compiler.so compiles for them

`JETPACKS` is from NVIDIA's documentation, support matrices and reports of what boards had installed; rows that were
only remembered are left out.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from refinenet_edge.files import read_text
from refinenet_edge.memory import Memory, machine_memory

Release = tuple[int, ...]
CHIPS = {"tegra234": "sm_87", "tegra264": "sm_110"}  # Orin, Thor
GPU_CLOCK = re.compile(r"gpu-gpc-\d+|[0-9a-f]+\.(gpu|ga10b)")  # of devfreq: Thor; Orin, kernel 6 and 5
LIBRARIES = "usr/lib/aarch64-linux-gnu"


@dataclass(frozen=True)
class JetPack:
    """A JetPack release: CUDA as it comes with it, the TensorRT 10 releases that pair with it ("major.minor")."""

    name: str
    cuda: str
    tensorrt: tuple[str, ...]


# L4T (major, minor) -> what belongs to it. TensorRT 10.7 is the last 10.x built for JetPack 6
JETPACKS: Mapping[Release, JetPack] = {
    (36, 4): JetPack("6.1 or 6.2", "12.6", ("10.3", "10.7")),
    (36, 5): JetPack("6.2.2", "12.6", ("10.3", "10.7")),
    (38, 2): JetPack("7.0", "13.0", ("10.13",)),
    (38, 4): JetPack("7.1", "13.0", ("10.13",)),
    (39, 2): JetPack("7.2", "13.2", ("10.16",)),
}


@dataclass(frozen=True)
class PowerMode:
    """The mode that nvpmodel has set; `names` are all modes of the board, and has `id` unless the files disagree."""

    id: int
    names: Mapping[int, str]


@dataclass(frozen=True)
class ClockRange:
    """The range a clock may run in, and the highest it could be set to (None: not said). MHz."""

    name: str
    low: float
    high: float
    top: float | None


@dataclass(frozen=True)
class Board:
    """A Jetson. None: it does not say."""

    model: str | None
    chip: str | None  # "tegra234"
    l4t: Release | None
    jetpack: str | None  # Debian's version of nvidia-jetpack, as are the next two of theirs
    tensorrt: str | None
    python_tensorrt: str | None
    cuda: str | None
    power: PowerMode | None
    clocks: tuple[ClockRange, ...]
    memory: Memory | None
    dla_cores: int | None
    dla_compiler: bool

    @property
    def capability(self) -> str | None:
        """The compute capability of the chip's GPU, such as "sm_87"."""
        return CHIPS.get(self.chip or "")

    @property
    def pairing(self) -> JetPack | None:
        """The JetPack release of its L4T, and what pairs with that."""
        return JETPACKS.get(self.l4t[:2]) if self.l4t else None


def read_board(root: Path = Path("/")) -> Board | None:
    """The Jetson whose files are below `root`; None when nothing there says that it is one."""
    model = read_text(root / "proc/device-tree/model")
    chip = re.search(r"nvidia,(tegra\d+)", read_text(root / "proc/device-tree/compatible"))
    release = read_text(root / "etc/nv_tegra_release")
    if not release and chip is None and "jetson" not in model.lower():
        return None
    packages = _packages(root)
    return Board(
        model=model or None,
        chip=chip[1] if chip else None,
        l4t=_l4t(release),
        jetpack=_first(packages, "nvidia-jetpack", "nvidia-jetpack-runtime", "nvidia-jetpack-dev"),
        tensorrt=_first(packages, "libnvinfer11", "libnvinfer10", "libnvinfer8"),
        python_tensorrt=_first(packages, "python3-libnvinfer"),
        cuda=_cuda(root),
        power=_power(root),
        clocks=tuple(dict.fromkeys(_clocks(root))),  # clusters of cores are alike on most boards
        memory=machine_memory(root),
        dla_cores=_dla_cores(root),
        dla_compiler=any(_has_content(path) for path in (root / LIBRARIES).glob("*/libnvdla_compiler.so*")),
    )


def builder_gpus(folder: Path) -> frozenset[str]:
    """The compute capabilities that TensorRT's builder libraries in `folder` name; empty when they name none.

    From about 10.8 on there is a libnvinfer_builder_resource_smNN.so for each; before, one file for all.
    """
    names = (path.name for path in folder.glob("libnvinfer_builder_resource_sm*"))
    return frozenset(f"sm_{match[1]}" for name in names if (match := re.search(r"_sm(\d+)", name)))


def version_numbers(version: str) -> Release:
    """The leading numbers of a version: "10.3.0.30-1+cuda12.5" -> (10, 3, 0, 30)."""
    match = re.match(r"\d{1,9}(\.\d{1,9})*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _number(path: Path) -> int | None:
    text = read_text(path)
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _l4t(release: str) -> Release | None:
    match = re.search(r"\bR(\d{1,9}) \(release\), REVISION: (\d[\d.]*)", release)
    return (int(match[1]), *version_numbers(match[2])) if match else None


def _packages(root: Path) -> dict[str, str]:
    """The installed Debian packages and their versions."""
    packages = {}
    for stanza in read_text(root / "var/lib/dpkg/status").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version): (.+)$", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed") and {"Package", "Version"} <= fields.keys():
            packages[fields["Package"]] = fields["Version"]
    return packages


def _first(packages: Mapping[str, str], *names: str) -> str | None:
    return next((packages[name] for name in names if name in packages), None)


def _cuda(root: Path) -> str | None:
    try:
        version = json.loads(read_text(root / "usr/local/cuda/version.json"))["cuda"]["version"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return version if isinstance(version, str) and version_numbers(version) else None


def _power(root: Path) -> PowerMode | None:
    mode = re.search(r"pmode:\s*(\d{1,9})", read_text(root / "var/lib/nvpmodel/status"))
    modes = re.findall(
        r"^<\s*POWER_MODEL\s+ID=(\d{1,9})\s+NAME=(\S+)\s*>", read_text(root / "etc/nvpmodel.conf"), re.MULTILINE
    )
    return PowerMode(int(mode[1]), {int(index): name for index, name in modes}) if mode else None


def _clocks(root: Path) -> Iterator[ClockRange]:
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        if GPU_CLOCK.fullmatch(folder.name):
            steps = map(int, re.findall(r"\d{1,18}", read_text(folder / "available_frequencies")))
            yield from _clock("GPU", folder, "", max(steps, default=None), 1e6)
    for folder in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*")):
        yield from _clock("CPU", folder, "scaling_", _number(folder / "cpuinfo_max_freq"), 1e3)


def _clock(name: str, folder: Path, prefix: str, top: int | None, unit: float) -> Iterator[ClockRange]:
    low, high = (_number(folder / f"{prefix}{end}_freq") for end in ("min", "max"))
    if low is not None and high is not None:
        yield ClockRange(name, low / unit, high / unit, None if top is None else top / unit)


def _dla_cores(root: Path) -> int | None:
    devices = root / "sys/bus/platform/devices"
    return sum(1 for _ in devices.glob("*.nvdla*")) if devices.is_dir() else None


def _has_content(path: Path) -> bool:
    """Not one of the empty files that containers put in a library's place until it is mounted."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
