"""A file that says it holds weights costs no more than its own size, and nothing in it is called."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import resource
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refinenet_edge.errors import CheckpointError
from refinenet_edge.model import pickled
from refinenet_edge.model.checkpoint import load_checkpoint
from refinenet_edge.model.pickled import Other, read_pickled


def archive(path: Path, program: bytes, compress: int = zipfile.ZIP_STORED, **parts: bytes) -> Path:
    """A file like torch.save's, with this pickle."""
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr("archive/data.pkl", program)
        for name, data in parts.items():
            file.writestr(f"archive/data/{name.removeprefix('_')}", data)
    return path


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any], Path]:
    def write(content: Any) -> Path:
        torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=request.param)
        return tmp_path / "weights.pth"

    return write


DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16),
    *(torch.int8, torch.uint8, torch.bool, torch.complex64),
)


def test_tensors_come_back_as_torch_loads_them(save: Callable[[Any], Path]) -> None:
    shared = torch.arange(24.0).reshape(2, 3, 4)
    content: dict[str, Any] = {
        **{str(dtype): torch.tensor([[1, 0, 3], [4, 5, 6]]).to(dtype) for dtype in DTYPES},
        "shared": shared,
        "turned": shared.permute(2, 0, 1),
        "part": shared[1, 1:, ::2],
        "scalar": shared[0, 0, 1],
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "large": torch.randn(300, 1000),
    }
    path = save(OrderedDict(content))
    read, loaded = read_pickled(path), torch.load(path, weights_only=True)
    assert isinstance(read, dict)
    assert list(read) == list(loaded)
    for name, tensor in loaded.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert torch.equal(read[name], tensor), name


def test_plain_values_come_back_and_all_else_has_a_name(save: Callable[[Any], Path]) -> None:
    plain = {"a": [1, -2.5, None, True, "text", (1,), (1, 2, 3, 4)], 3: {"b": 1 << 70}, "set": "x"}
    others = {"args": argparse.Namespace(lr=1), "best": np.float64(0.5), "array": np.ones(3), "size": torch.Size([2])}
    read = read_pickled(save({**plain, **others, "weights": torch.ones(2)}))
    assert isinstance(read, dict)
    assert {key: read[key] for key in plain} == plain
    assert torch.equal(read["weights"], torch.ones(2))
    assert {key: read[key].name.rpartition(".")[2] for key in others} == {
        "args": "Namespace",
        "best": "scalar",
        "array": "_reconstruct",
        "size": "Size",
    }


def test_a_whole_model_is_named_and_not_made(save: Callable[[Any], Path]) -> None:
    with pytest.raises(CheckpointError, match=r"an object of torch\.nn\.modules\.linear\.Linear .*state_dict"):
        load_checkpoint(save(torch.nn.Linear(2, 3)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_a_script_is_named(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 3)).save(str(tmp_path / "model.pt"))
    with pytest.raises(CheckpointError, match="TorchScript program, not weights"):
        load_checkpoint(tmp_path / "model.pt")


def laughs(depth: int) -> bytes:
    """A tuple of two tuples of two tuples ... as the key of a dictionary: hashing it takes 2 ** depth steps."""
    return b"\x80\x02})" + b"2\x86" * depth + b"Ns."


BOMBS = {
    "tuples of tuples as a key": laughs(60),
    "a bytearray of terabytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 42) + b".",
    "text of gigabytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 33) + b".",
    "a memo without end": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "lists in lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a list in itself": b"\x80\x02]q\x00" + b"h\x00a" * 10_000 + b".",
    "a number of many digits": b"\x80\x02\x8b" + struct.pack("<i", 60_000) + b"\x7f" * 60_000 + b".",
    "marks": b"\x80\x02" + b"(" * 100_000 + b".",
    "a numpy scalar of gigabytes": b"\x80\x02cnumpy.core.multiarray\nscalar\n"
    b"(cnumpy\ndtype\nX\x0b\x00\x00\x00V9999999999\x85RC\x00tR.",
}


@pytest.mark.parametrize("program", BOMBS.values(), ids=BOMBS)
def test_a_program_costs_no_more_than_its_size(tmp_path: Path, program: bytes) -> None:
    for write in (archive, lambda path, program: path.write_bytes(LEGACY + program + b"\x80\x02].") and path):
        path = write(tmp_path / "weights.pth", program)
        started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
        assert time.process_time() - started < 5
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_a_program_without_end_is_refused(tmp_path: Path) -> None:
    long = b"N0" * (pickled.MAX_STEPS // 2)  # nothing is put there and taken away
    assert read_pickled(archive(tmp_path / "a.pth", b"\x80\x02" + long[:99_998] + b"}.")) == {}
    with pytest.raises(CheckpointError, match="its pickle has no end"):
        read_pickled(archive(tmp_path / "b.pth", b"\x80\x02" + long + b"}."))


LEGACY = b"".join(pickle.dumps(part, 2) for part in (pickled.LEGACY_MAGIC, 1001, {}))


def test_what_inflates_is_refused_before_it_does(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as file:
        for part in source.infolist():
            file.writestr(part.filename, source.read(part))
    with pytest.raises(CheckpointError, match="compressed"):
        load_checkpoint(tmp_path / "a.pth")


def test_parts_that_lie_in_one_another_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pth", pickle.dumps({}, 2), _0=bytes(1 << 16))
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entries = bytes(data[start:end])
    last = entries[entries.rindex(b"PK\x01\x02") :]
    many = entries + last * 50
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, 52, 52, len(many))
    path.write_bytes(bytes(data[:start]) + many + bytes(tail))
    with pytest.raises(CheckpointError, match="larger than the file"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((2, 2), (4, 1), 0), ((2,), (1,), 3), ((-1,), (1,), 0), ((1 << 63,), (0,), 0), ((2,), (1, 1), 0)],
)
def test_a_tensor_beyond_its_numbers_is_refused(tmp_path: Path, size: Any, stride: Any, offset: int) -> None:
    class Tensor:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Stored(), offset, size, stride, False, OrderedDict())

    class Stored:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(value, Stored) else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"a": Tensor()})
    with pytest.raises(CheckpointError, match=r"beyond its numbers|a shape that none has"):
        read_pickled(archive(tmp_path / "a.pth", buffer.getvalue(), _0=bytes(16)))


def test_nothing_is_called(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    for program in (
        b"cos\nsystem\n(S'touch " + str(planted).encode() + b"'\ntR.",
        b"(S'touch " + str(planted).encode() + b"'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch " + str(planted).encode() + b"'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x07touch x\x85\x81.",
    ):
        read = read_pickled(archive(tmp_path / "a.pth", program))
        assert isinstance(read, Other)
    assert not planted.exists()
    assert not os.path.exists("x")


@pytest.mark.parametrize("header", [1 << 40, 100 << 20])
def test_a_header_of_safetensors_is_bounded(tmp_path: Path, header: int) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", header) + b"{")
        file.truncate(200 << 20)
    with pytest.raises(CheckpointError, match="header is larger than one is"):
        load_checkpoint(path)


@pytest.mark.parametrize(("step", "stack"), [("NEWOBJ_EX", [torch.ones(1), (), {}]), ("REDUCE", [torch.ones(1), ()])])
def test_an_object_of_a_tensor_is_not_called_by_its_name(step: str, stack: list[Any]) -> None:
    """A tensor has a name, too, which is None."""
    machine = pickled._Machine(None)
    machine.stack = stack
    machine.step(step, None)
    assert [made.name for made in machine.stack] == ["object"]
