"""MATLAB files: values as MATLAB wrote them, and files that would become gigabytes, or read other files."""

import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from refinenet_edge.errors import CheckpointError, MissingExtra
from refinenet_edge.model.matlab import find_structs

# files that MATLAB itself wrote, which scipy tests its reader with
MATLABS_OWN = Path(scipy.io.__file__).parent / "matlab" / "tests" / "data"
RELEASES = ("6.1_SOL2", "6.5.1_GLNX86", "7.1_GLNX86", "7.4_GLNX86")  # the first is big-endian
HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
MANY = 48 << 20  # bytes that no file of these may become


@pytest.fixture
def bounded() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MANY


def value(file: str, variable: str) -> Any:
    ((found,),) = find_structs(MATLABS_OWN / f"{file}.mat", (variable,))
    return found[variable]


# --- what MATLAB wrote


@pytest.mark.parametrize("release", RELEASES)
def test_values_of_every_kind(release: str) -> None:
    fields = value(f"teststruct_{release}", "teststruct")
    assert fields["stringfield"] == "Rats live on no evil star."
    assert fields["doublefield"].tolist() == [pytest.approx([2**0.5, np.e, np.pi])]
    assert fields["complexfield"] is None
    array = value(f"teststructarr_{release}", "teststructarr")
    assert array == [{"one": 1, "two": 2}, {"one": "number 1", "two": "number 2"}]
    text, *numbers = value(f"testcell_{release}", "testcell")
    assert text == "This cell contains this string and 3 arrays of increasing length"
    assert [array.tolist() for array in numbers] == [[[1]], [[1, 2]], [[1, 2, 3]]]
    assert value(f"testcellnest_{release}", "testcellnest") == [1, [2, 3, [4, 5]]]
    cube = value(f"test3dmatrix_{release}", "test3dmatrix")
    assert cube.tolist() == np.arange(1, 25).reshape(2, 3, 4, order="F").tolist()
    assert value(f"teststructnest_{release}", "teststructnest") == {"one": 1, "two": {"three": "number 3"}}


def test_texts_that_are_no_ascii() -> None:
    expected = (MATLABS_OWN / "japanese_utf8.txt").read_text("utf-8")
    assert value("testunicode_7.4_GLNX86", "testunicode") == expected


def test_a_struct_is_found_within_others() -> None:
    ((found,),) = find_structs(MATLABS_OWN / "teststructnest_7.4_GLNX86.mat", ("three",))
    assert found == {"three": "number 3"}


def test_what_an_opaque_value_holds_is_found() -> None:
    """An anonymous function's workspace lies where the properties of objects do."""
    ((found,),) = find_structs(MATLABS_OWN / "parabola.mat", ("a", "b", "c"))
    assert found == {"a": 1.3, "b": 0.2, "c": 30}


def test_hdf5() -> None:
    found = value("testhdf5_7.4_GLNX86", "testdouble")
    assert found.tolist() == [(np.arange(9) * np.pi / 4).tolist()]


def test_hdf5_needs_h5py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtra, match=r"h5py is not installed.*refinenet-edge\[matlab\]"):
        value("testhdf5_7.4_GLNX86", "testdouble")
    assert value("teststruct_7.4_GLNX86", "teststruct")  # needs nothing


# --- MATLAB 5 that no MATLAB wrote


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(0 if kind == 15 else -len(data) % 8)


def matrix(kind: int, dims: tuple[int, ...], *parts: bytes) -> bytes:
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(dims)}i", *dims))
    return element(14, head + element(1, b"x") + b"".join(parts))


def nested(depth: int) -> bytes:
    inner = matrix(1, (0, 0))
    for _ in range(depth):
        inner = matrix(1, (1, 1), inner)
    return inner


def inflating_inflating(levels: int) -> bytes:
    data = matrix(9, (1, 1), element(2, b"\0"))
    for _ in range(levels):
        data = element(15, zlib.compress(data))
    return data


MALICIOUS_5 = {
    "a cell of a quarter of a billion": matrix(1, (1 << 28, 1)),
    "more cells than numbers count": matrix(1, (1 << 30, 1 << 30, 1 << 30)),
    "structs of a quarter of a billion": matrix(2, (1 << 28, 1), element(5, b"\x08\0\0\0"), element(1, b"a".ljust(8))),
    "a matrix larger than the file": matrix(6, (1 << 20, 1 << 10), element(9, bytes(8))),
    "many zeros": element(15, zlib.compress(matrix(9, (1 << 26, 1), element(2, bytes(1 << 26))))),
    "millions of empty values": element(15, zlib.compress(matrix(1, (1 << 20, 1), element(14, b"") * (1 << 20)))),
    "values in values": nested(100),
    "compressed again and again": inflating_inflating(2),
    "negative sides": matrix(1, (-1, 4), matrix(1, (0, 0))),
    "half an element": matrix(6, (1, 1), element(9, bytes(8)))[:-9],
    "no type that there is": matrix(6, (1, 1), element(8, bytes(8))),
    "no class that there is": matrix(40, (1, 1), element(9, bytes(8))),
}


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("what", MALICIOUS_5)
def test_matlab_5_that_would_be_large_or_is_damaged(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.mat"
    path.write_bytes(HEADER + MALICIOUS_5[what])
    with pytest.raises(CheckpointError, match=r"model\.mat (is|would|has)"):
        find_structs(path, ("a",))


# --- HDF5 that no MATLAB wrote


def marked(item: Any, kind: str) -> Any:
    item.attrs["MATLAB_class"] = np.bytes_(kind.encode())
    return item


def a_link(file: h5py.File) -> None:
    marked(file.create_group("s"), "struct")["a"] = h5py.ExternalLink("other.mat", "/secret")


def a_soft_link(file: h5py.File) -> None:
    marked(file.create_group("s"), "struct")["a"] = h5py.SoftLink("/s")


def another_files_bytes(file: h5py.File) -> None:
    external = [("secret.bin", 0, 80)]
    marked(file.create_group("s").create_dataset("a", (10,), "f8", external=external), "double")


def another_files_dataset(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((10,), "f8")
    layout[:] = h5py.VirtualSource("other.mat", "secret", (10,))
    marked(file.create_group("s").create_virtual_dataset("a", layout), "double")


def a_hole(file: h5py.File) -> None:
    marked(file.create_group("s").create_dataset("a", (1 << 34,), "f8", chunks=(1 << 20,)), "double")


def zeros(file: h5py.File) -> None:
    dataset = file.create_group("s").create_dataset("a", (1 << 23,), "f8", chunks=(1 << 20,), compression="gzip")
    for at in range(0, 1 << 23, 1 << 20):
        dataset[at : at + (1 << 20)] = 0
    marked(dataset, "double")


def a_cell_of_itself(file: h5py.File) -> None:
    cell = marked(file.create_group("s").create_dataset("a", (2, 1), h5py.ref_dtype), "cell")
    cell[:] = np.array([[cell.ref], [cell.ref]], h5py.ref_dtype)


def cells_of_cells(file: h5py.File) -> None:
    """A thousand times a thousand times ... the same one."""
    last = marked(file.create_dataset("last", data=np.zeros((1, 1))), "double")
    for level in range(8):
        cell = marked(file.create_dataset(f"cell{level}", (1000, 1), h5py.ref_dtype), "cell")
        cell[:] = np.full((1000, 1), last.ref, h5py.ref_dtype)
        last = cell
    file.create_group("s")["a"] = last


def a_null_reference(file: h5py.File) -> None:
    marked(file.create_group("s").create_dataset("a", (1, 1), h5py.ref_dtype), "cell")


MALICIOUS_73: dict[Callable[[h5py.File], None], str] = {
    a_link: "a is a link out of",
    a_soft_link: "a is a link out of",
    another_files_bytes: "lies in another file",
    another_files_dataset: "lies in another file",
    a_hole: "would become much more",
    zeros: "would become much more",
    a_cell_of_itself: "more than 16 deep",
    a_null_reference: "is damaged",
}


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("make", MALICIOUS_73, ids=lambda make: make.__name__)
def test_hdf5_that_would_be_large_or_reads_other_files(make: Callable[[h5py.File], None], tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(80))
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["secret"] = np.zeros(10)
    with h5py.File(tmp_path / "model.mat", "w") as file:
        make(file)
    with pytest.raises(CheckpointError, match=MALICIOUS_73[make]):
        find_structs(tmp_path / "model.mat", ("a",))


def test_hdf5_that_would_take_forever(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "model.mat", "w") as file:
        cells_of_cells(file)
    with pytest.raises(CheckpointError, match="would become much more"):
        find_structs(tmp_path / "model.mat", ("a",))


@pytest.mark.parametrize("cut", [600, 3000])
def test_hdf5_that_is_cut_short(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "model.mat"
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(1000)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        find_structs(path, ("a",))


def test_a_group_that_never_ends_is_an_error() -> None:
    """HDF5 walks such a file for ever, within C."""
    code = f"""
import resource
from pathlib import Path
from refinenet_edge.errors import CheckpointError
from refinenet_edge.model.matlab import find_structs
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
try:
    find_structs(Path({str(Path(__file__).with_name("endless.mat"))!r}), ("layers",), ("name", "weights"))
except CheckpointError:
    raise SystemExit(7)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7


def test_groups_in_a_circle_are_looked_at_once(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.mat", "w") as file:
        inner = file.create_group("a/b")
        inner["x"], inner["back"] = 3.0, file["a"]
    ((found,),) = find_structs(tmp_path / "x.mat", ("x",))
    assert found == {"x": 3.0}
