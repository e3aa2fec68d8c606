"""Which kind of processor this is: the width of its float32, and how it multiplies INT8."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

from refinenet_edge.files import read_text

CPUINFO = Path("/proc/cpuinfo")
LIMIT = "ONEDNN_MAX_CPU_ISA"  # oneDNN's own: torch and OpenVINO compute with it, and use no more than it names
WITHOUT_VNNI = "AVX2"  # a value of it
KINDS = {WITHOUT_VNNI: "avx2", "AVX512_CORE": "avx512"}  # an INT8 convolution adds in 16 bits, saturating


@cache
def processor() -> str:
    """`vnni` (INT8 sums in 32 bits), `avx512` or `avx2` (in 16, saturating); of no x86, the name of its machine."""
    return kind(read_text(CPUINFO), os.environ.get(LIMIT, ""))


def saturates() -> bool:
    """Whether INT8 products are known to be added in 16 bits here, where those of 8-bit weights do not all fit."""
    return processor() in KINDS.values()


def kind(cpuinfo: str, limit: str) -> str:
    """The kind that `cpuinfo`, as Linux writes it, names, as far as `limit` lets it be used."""
    flags = {word for line in cpuinfo.splitlines() if line.startswith("flags") for word in line.split()}
    if "avx2" not in flags:
        return platform.machine()
    if limit == WITHOUT_VNNI:
        return "avx2"
    if "avx512_vnni" in flags or "avx_vnni" in flags:
        return KINDS.get(limit, "vnni")
    return "avx512" if "avx512bw" in flags else "avx2"
