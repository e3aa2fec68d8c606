"""The kind of processor that the header of a run names is the one that OpenVINO computes with."""

from __future__ import annotations

import numpy as np
import pytest

from refinenet_edge.runtime.openvino import OpenVinoSession
from refinenet_edge.runtime.processor import kind, processor
from tests.conftest import onnx_model

BODY = """
q = QuantizeLinear(x, unit, nothing_unsigned)
d = DequantizeLinear(q, unit, nothing_unsigned)
k = DequantizeLinear(kernel, unit, nothing)
y = Conv(d, k)
"""
FULL, LARGEST = 255, 127  # UINT8 and INT8


@pytest.mark.processor
def test_the_kind_is_the_one_that_openvino_computes_with() -> None:
    """Two products of the largest numbers are 64770: more than 16 bits hold, and what VNNI adds in 32."""
    model = onnx_model(
        BODY,
        "float[1,16,4,4] x",
        "float[1,16,4,4] y",
        kernel=np.full((16, 16, 1, 1), LARGEST, np.int8),
        unit=np.float32(1),
        nothing=np.int8(0),
        nothing_unsigned=np.uint8(0),
    )
    with OpenVinoSession(model.SerializeToString()) as session:
        largest = session.run({"x": np.full((1, 16, 4, 4), FULL, np.float32)})["y"].max()
    if processor() == "vnni":
        assert largest == 16 * FULL * LARGEST
    elif processor() in ("avx2", "avx512"):
        assert largest == 8 * (2**15 - 1)  # each pair of products saturates


@pytest.mark.parametrize(
    ("flags", "limit", "expected"),
    [
        ("fpu avx avx2 fma", "", "avx2"),
        ("fpu avx2 avx512f avx512bw", "", "avx512"),
        ("fpu avx2 avx512f avx512bw", "AVX2", "avx2"),
        ("fpu avx2 avx512f avx512bw avx512_vnni", "", "vnni"),
        ("fpu avx2 avx512f avx512bw avx512_vnni", "AVX512_CORE", "avx512"),
        ("fpu avx2 avx512f avx512bw avx512_vnni", "AVX512_CORE_VNNI", "vnni"),
        ("fpu avx2 avx_vnni", "", "vnni"),
        ("fpu avx2 avx_vnni", "AVX2", "avx2"),
    ],
)
def test_a_kind_is_read_from_the_flags_as_far_as_the_limit_lets(flags: str, limit: str, expected: str) -> None:
    cpuinfo = f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n"
    assert kind(cpuinfo, limit) == expected
