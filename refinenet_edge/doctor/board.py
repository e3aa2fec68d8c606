"""What is amiss on a Jetson: releases that do not pair, a TensorRT without its GPU, power, memory, DLA.

What pairs with what is `jetson.JETPACKS`, and NVIDIA's migration pages for TensorRT 11: 11.0 to 11.3 support no
JetPack, 11.4.1 supports JetPack 7.2.2 and later, on AGX Orin and Thor. What they do not support is wrong only where it
cannot work: TensorRT 10.11 was reported to run on JetPack 6 (in a container), 11.1 on an AGX Orin with JetPack 7.2.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from refinenet_edge.jetson import JETPACKS, Board, ClockRange, version_numbers

OLDEST_TENSORRT = (10, 3)
SCRATCH = 2 << 30  # bytes: the builder's default workspace of 1 GiB, and as much for TensorRT itself (a rule of thumb)
OWN_TENSORRT = "pip freeze | grep ^tensorrt | xargs -r pip uninstall -y; sudo apt install tensorrt python3-libnvinfer"
JETPACK_6 = 36  # of L4T


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `fix` is empty where there is nothing to do.

    absent: not there, or the machine does not say. limited: may work, but slower, unsupported or nearer to failing than
    it need be.
    """

    subject: str
    state: Literal["ok", "absent", "limited", "wrong"]
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Python:
    """What this Python imports: its TensorRT (None: none), whether pip brought it, for which GPUs it says that it
    builds (empty: it does not say), and the release of cuda-bindings.
    """

    tensorrt: str | None
    from_pip: bool
    gpus: frozenset[str]
    cuda_bindings: str | None


def examine_board(board: Board, python: Python) -> Iterator[Finding]:
    """What there is to say of a Jetson and the Python that runs on it."""
    yield Finding("Jetson", "ok" if board.model else "absent", board.model or "the device tree does not name the board")
    yield _jetpack(board)
    yield _tensorrt(board, python)
    yield _wheel(board, python)
    yield _cuda(board, python)
    yield _power(board)
    yield _clocks(board)
    yield _memory(board)
    yield _dla(board)


def _jetpack(board: Board) -> Finding:
    subject = "JetPack"
    if board.l4t is None:
        return Finding(
            subject,
            "absent",
            "/etc/nv_tegra_release does not say which L4T this is: nothing below is compared with it",
            "in a container: docker run -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro ...",
        )
    l4t = f"L4T {_dotted(board.l4t)}"
    if board.l4t < min(JETPACKS):
        return Finding(subject, "wrong", f"{l4t} is older than JetPack 6.1", "flash JetPack 6.1 or later")
    if board.pairing is None:
        known = ", ".join(_dotted(release) for release in JETPACKS)
        return Finding(subject, "absent", f"{l4t} is not known here ({known} are): nothing below is compared with it")
    installed = f"{board.jetpack} (nvidia-jetpack)" if board.jetpack else board.pairing.name
    return Finding(subject, "ok", f"JetPack {installed}, {l4t}")


def _tensorrt(board: Board, python: Python) -> Finding:
    subject = "TensorRT for this JetPack"
    version = python.tensorrt
    if version is None:
        return _unseen(subject, board)
    release = version_numbers(version)
    if release < OLDEST_TENSORRT:
        return Finding(subject, "wrong", f"{version} is older than {_dotted(OLDEST_TENSORRT)}", OWN_TENSORRT)
    if release >= (11,):
        return _tensorrt_11(subject, version, board)
    if board.pairing is None:
        return Finding(subject, "absent", f"{version}; this JetPack is not known here")
    if _dotted(release[:2]) in board.pairing.tensorrt:
        return Finding(subject, "ok", f"{version} pairs with JetPack {board.pairing.name}")
    pairs = f"{' or '.join(board.pairing.tensorrt)} pairs with JetPack {board.pairing.name}"
    detail = f"{version}, where {pairs}; in NVIDIA's own containers that may be so"
    return Finding(subject, "limited", detail, OWN_TENSORRT)


def _unseen(subject: str, board: Board) -> Finding:
    here = f"this Python ({_dotted(sys.version_info[:2])})"
    if board.tensorrt is None:
        problem = f"none in {here}, and no libnvinfer package"
        return Finding(subject, "absent", problem, "sudo apt install nvidia-jetpack")
    fix = "sudo apt install python3-libnvinfer; " if board.python_tensorrt is None else ""
    fix += "make the environment with the system's Python: /usr/bin/python3 -m venv --system-site-packages .venv"
    return Finding(subject, "wrong", f"{board.tensorrt} is installed, but {here} does not see it", fix)


def _tensorrt_11(subject: str, version: str, board: Board) -> Finding:
    """NVIDIA supports it on AGX Orin and Thor from JetPack 7.2.2 on."""
    if board.l4t and board.l4t[0] <= JETPACK_6:
        return Finding(subject, "wrong", f"{version}: JetPack 6 stays with TensorRT 10", OWN_TENSORRT)
    problem = ""
    if version_numbers(version) < (11, 4, 1):
        problem = "before 11.4.1 on no JetPack"
    elif board.jetpack and version_numbers(board.jetpack) < (7, 2, 2):
        problem = f"from JetPack 7.2.2 on, and this is {board.jetpack}"
    elif board.model and not any(name in board.model for name in ("AGX Orin", "Thor")):
        problem = "on AGX Orin and Thor only"
    elif board.jetpack is None or board.model is None:
        detail = f"{version} is for JetPack 7.2.2 and later; the board does not say which it is"
        return Finding(subject, "absent", detail)
    if problem:
        return Finding(subject, "limited", f"{version}: NVIDIA supports TensorRT 11 {problem}", OWN_TENSORRT)
    return Finding(subject, "ok", f"{version} supports JetPack {board.jetpack}")


def _wheel(board: Board, python: Python) -> Finding:
    subject = "GPU in TensorRT"
    if board.capability is None:
        return Finding(subject, "absent", f"the GPU of {board.chip or 'this chip'} is not known here")
    if python.tensorrt is None:
        return Finding(subject, "absent", "no TensorRT to look into")
    if python.gpus:
        named = ", ".join(sorted(python.gpus, key=lambda name: int(name.removeprefix("sm_"))))
        if board.capability in python.gpus:
            return Finding(subject, "ok", f"{board.capability} is among {named}")
        detail = f"TensorRT {python.tensorrt} builds for {named}, this GPU is {board.capability}"
        return Finding(subject, "wrong", detail, OWN_TENSORRT)
    if not python.from_pip:
        return Finding(subject, "ok", f"JetPack's own TensorRT, made for {board.capability}")
    if board.l4t and board.l4t[0] <= JETPACK_6:
        detail = (
            f"pip's TensorRT {python.tensorrt} is made for Arm servers and does not say for which GPUs; on an Orin "
            'Nano 10.7 said "Target GPU SM 87 is not supported"'
        )
        return Finding(subject, "limited", detail, OWN_TENSORRT)
    return Finding(subject, "absent", f"pip's TensorRT {python.tensorrt} does not say for which GPUs it builds")


def _cuda(board: Board, python: Python) -> Finding:
    subject = "CUDA for this JetPack"
    listed = board.pairing.cuda if board.pairing else None
    if board.cuda and listed and version_numbers(board.cuda)[0] != version_numbers(listed)[0]:
        fix = "sudo apt install --reinstall nvidia-jetpack, then let /usr/local/cuda lead to its CUDA"
        return Finding(subject, "wrong", f"CUDA {board.cuda}, JetPack {_name(board)} comes with {listed}", fix)
    cuda = board.cuda or listed
    if cuda is None:
        return Finding(subject, "absent", "/usr/local/cuda/version.json does not say which CUDA this is")
    major = version_numbers(cuda)[0]
    said = f"CUDA {board.cuda}" if board.cuda else f"CUDA {listed} by its JetPack"
    bindings = f"pip install 'cuda-bindings>={major},<{major + 1}'"
    if python.cuda_bindings is None:
        return Finding(subject, "absent", f"{said}; cuda-bindings is not installed", bindings)
    if version_numbers(python.cuda_bindings)[:1] != (major,):
        return Finding(subject, "wrong", f"{said}, but cuda-bindings {python.cuda_bindings}", bindings)
    return Finding(subject, "ok", f"{said}, cuda-bindings {python.cuda_bindings}")


def _power(board: Board) -> Finding:
    subject = "power mode"
    power = board.power
    if power is None:
        return Finding(subject, "absent", "/var/lib/nvpmodel/status does not say", "sudo nvpmodel -q")
    name = power.names.get(power.id, "not named in /etc/nvpmodel.conf")
    fastest = next((index for index, other in power.names.items() if other.startswith("MAXN")), None)
    if fastest is None or name.startswith("MAXN"):
        return Finding(subject, "ok", f"{name} (mode {power.id})")
    detail = f"{name} (mode {power.id}); {power.names[fastest]} is faster and hotter"
    return Finding(subject, "limited", detail, f"sudo nvpmodel -m {fastest}")


def _clocks(board: Board) -> Finding:
    subject = "clocks"
    if not board.clocks:
        return Finding(subject, "absent", "neither cpufreq nor devfreq says how they are set")
    detail = "; ".join(map(_range, board.clocks))
    if all(clock.low == clock.high for clock in board.clocks):
        return Finding(subject, "ok", f"fixed: {detail}")
    return Finding(subject, "ok", f"vary with the load: {detail}", "only to measure: sudo jetson_clocks")


def _range(clock: ClockRange) -> str:
    span = f"{clock.high:.0f}" if clock.low == clock.high else f"{clock.low:.0f} to {clock.high:.0f}"
    most = f" of {clock.top:.0f}" if clock.top is not None and clock.top > clock.high else ""
    return f"{clock.name} {span}{most} MHz"


def _memory(board: Board) -> Finding:
    subject = "memory, shared with the GPU"
    if board.memory is None:
        return Finding(subject, "absent", "/proc/meminfo does not say how much is free")
    detail = f"{board.memory.available / 2**30:.1f} of {board.memory.total / 2**30:.1f} GiB free"
    if board.memory.available >= SCRATCH:
        return Finding(subject, "ok", detail)
    fix = "end the desktop: sudo systemctl isolate multi-user.target; or refinenet-edge plan ... --workspace-mib 256"
    return Finding(subject, "limited", f"{detail}: building a plan may be killed", fix)


def _dla(board: Board) -> Finding:
    subject = "DLA"
    compiler = "libnvdla_compiler.so"
    if board.dla_cores is None:
        here = "here" if board.dla_compiler else "not here"
        return Finding(subject, "absent", f"/sys does not say; {compiler} is {here}")
    if board.dla_cores == 0:
        return Finding(subject, "absent", "this board has no core")
    cores = f"{board.dla_cores} core{'s' if board.dla_cores > 1 else ''}"
    if board.dla_compiler:
        return Finding(subject, "ok", f"{cores}, {compiler}; which nodes it takes: refinenet-edge dla-check BUNDLE")
    fix = ""
    if board.l4t and board.l4t[0] <= JETPACK_6:
        fix = "sudo apt install nvidia-l4t-dla-compiler"
    elif board.l4t:
        fix = "JetPack 7.2.2 or later with TensorRT 11.4.1 or later, on AGX Orin"
    return Finding(subject, "absent", f"{cores}, but no {compiler}: nothing is built for it", fix)


def _name(board: Board) -> str:
    return board.pairing.name if board.pairing else "?"


def _dotted(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))
