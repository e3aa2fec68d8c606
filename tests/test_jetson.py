"""What is read of a Jetson, and what the doctor says of it: on made-up boards, none of them real."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from refinenet_edge import doctor
from refinenet_edge.doctor import examine
from refinenet_edge.doctor.board import Finding, Python, examine_board
from refinenet_edge.jetson import Board, ClockRange, PowerMode, builder_gpus, read_board, version_numbers
from refinenet_edge.memory import Memory
from refinenet_edge.runtime.libraries import version_of
from tests.boards import AGX_ORIN, DESKTOP, ORIN_NANO, THOR, tree

ON_6 = Python("10.3.0", False, frozenset(), "12.9.1")
ON_7 = Python("10.13.3.9", False, frozenset(), "13.0.1")
COMPILER = "usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so"
SUBJECTS = [
    "Jetson",
    "JetPack",
    "TensorRT for this JetPack",
    "GPU in TensorRT",
    "CUDA for this JetPack",
    "power mode",
    "clocks",
    "memory, shared with the GPU",
    "DLA",
]
TENSORRT, GPU, CUDA = SUBJECTS[2:5]


def board_of(root: Path) -> Board:
    board = read_board(root)
    assert board is not None
    return board


def findings(board: Board, python: Python) -> dict[str, Finding]:
    found = list(examine_board(board, python))
    assert [finding.subject for finding in found] == SUBJECTS
    assert all(finding.fix for finding in found if finding.state in ("limited", "wrong"))
    return {finding.subject: finding for finding in found}


@pytest.fixture
def nano(tmp_path: Path) -> Board:
    return board_of(tree(tmp_path, ORIN_NANO))


@pytest.fixture
def thor(tmp_path: Path) -> Board:
    return board_of(tree(tmp_path, THOR))


@pytest.fixture
def agx(tmp_path: Path) -> Board:
    return board_of(tree(tmp_path, AGX_ORIN))


class TestReading:
    def test_an_orin_nano(self, nano: Board) -> None:
        assert nano == Board(
            model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            chip="tegra234",
            l4t=(36, 4, 3),
            jetpack="6.2+b77",
            tensorrt="10.3.0.30-1+cuda12.5",
            python_tensorrt="10.3.0.30-1+cuda12.5",
            cuda="12.6.68",
            power=PowerMode(2, {0: "15W", 1: "25W", 2: "MAXN_SUPER", 3: "7W"}),
            clocks=(ClockRange("GPU", 306, 1020, 1020), ClockRange("CPU", 729.6, 1728, 1728)),
            memory=Memory(7802132 << 10, 5 << 30),
            dla_cores=0,
            dla_compiler=True,
        )
        assert nano.capability == "sm_87"

    def test_a_thor(self, thor: Board) -> None:
        assert (thor.l4t, thor.jetpack, thor.capability, thor.dla_cores) == ((38, 4, 0), "7.1-b1", "sm_110", 0)
        assert thor.clocks == (ClockRange("GPU", 1575, 1575, None),)  # the video engines' clock is not the GPU's

    def test_a_desktop_is_none(self, tmp_path: Path) -> None:
        assert read_board(tree(tmp_path, DESKTOP)) is None
        assert read_board(tmp_path / "nothing") is None

    def test_another_arm_board_is_none(self, tmp_path: Path) -> None:
        files = {"proc/device-tree/model": "Raspberry Pi 5\0", "proc/device-tree/compatible": "brcm,bcm2712\0"}
        assert read_board(tree(tmp_path, files)) is None

    def test_a_container_still_sees_the_device_tree(self, tmp_path: Path) -> None:
        board = board_of(tree(tmp_path, {name: ORIN_NANO[name] for name in ("proc/device-tree/model",)}))
        nothing = Board(board.model, None, None, None, None, None, None, None, (), None, None, False)
        assert board == nothing

    @pytest.mark.parametrize("damage", ["", "\0\0\0", "\udcff{[<:\n\n:", "9" * 10_000, "[" * 100_000])
    def test_damaged_files_say_nothing(self, tmp_path: Path, damage: str) -> None:
        tree(tmp_path, ORIN_NANO)
        for path in tmp_path.rglob("*"):
            if path.is_file() and path.name != "compatible":
                path.write_bytes(damage.encode(errors="surrogateescape"))
        board = board_of(tmp_path)
        assert board.chip == "tegra234"
        assert (board.l4t, board.jetpack, board.tensorrt, board.cuda, board.power, board.clocks, board.memory) == (
            *(None,) * 5,
            (),
            None,
        )

    def test_a_folder_in_a_files_place_says_nothing(self, tmp_path: Path) -> None:
        tree(tmp_path, ORIN_NANO)
        (tmp_path / "usr/local/cuda/version.json").unlink()
        (tmp_path / "usr/local/cuda/version.json").mkdir()
        assert board_of(tmp_path).cuda is None

    def test_an_empty_library_of_a_container_is_no_compiler(self, tmp_path: Path) -> None:
        assert not board_of(tree(tmp_path, {**ORIN_NANO, COMPILER: ""})).dla_compiler

    def test_removed_packages_are_not_there(self, tmp_path: Path) -> None:
        status = ORIN_NANO["var/lib/dpkg/status"].replace("install ok installed", "deinstall ok config-files")
        board = board_of(tree(tmp_path, {**ORIN_NANO, "var/lib/dpkg/status": status}))
        assert (board.jetpack, board.tensorrt, board.python_tensorrt) == (None, None, None)

    def test_builder_libraries_name_their_gpus(self, tmp_path: Path) -> None:
        assert builder_gpus(tmp_path) == frozenset()
        for name in ("sm80.so.10.13.3", "sm120.so.10.13.3", "ptx.so.10.13.3", "sm.so"):
            (tmp_path / f"libnvinfer_builder_resource_{name}").touch()
        (tmp_path / "libnvinfer_builder_resource.so.10.3.0").touch()
        assert builder_gpus(tmp_path) == {"sm_80", "sm_120"}

    @pytest.mark.parametrize(
        ("version", "expected"), [("10.3.0.30-1+cuda12.5", (10, 3, 0, 30)), ("7.2+b1", (7, 2)), ("x", ()), ("", ())]
    )
    def test_the_numbers_of_a_version(self, version: str, expected: tuple[int, ...]) -> None:
        assert version_numbers(version) == expected


class TestInOrder:
    def test_an_orin_nano_on_jetpack_6_2(self, nano: Board) -> None:
        found = findings(nano, ON_6)
        assert {finding.state for finding in found.values()} == {"ok", "absent"}
        assert found["JetPack"].detail == "JetPack 6.2+b77 (nvidia-jetpack), L4T 36.4.3"
        assert found[TENSORRT].detail == "10.3.0 pairs with JetPack 6.1 or 6.2"
        assert found[CUDA].detail == "CUDA 12.6.68, cuda-bindings 12.9.1"
        assert found["power mode"] == Finding("power mode", "ok", "MAXN_SUPER (mode 2)")
        assert found["clocks"].detail == "vary with the load: GPU 306 to 1020 MHz; CPU 730 to 1728 MHz"
        assert found["clocks"].fix == "only to measure: sudo jetson_clocks"
        assert found["memory, shared with the GPU"].detail == "5.0 of 7.4 GiB free"
        assert found["DLA"] == Finding("DLA", "absent", "this board has no core")

    def test_a_thor_on_jetpack_7_1(self, thor: Board) -> None:
        found = findings(thor, ON_7)
        assert found[TENSORRT] == Finding(TENSORRT, "ok", "10.13.3.9 pairs with JetPack 7.1")
        assert found[GPU].detail == "JetPack's own TensorRT, made for sm_110"
        assert found["clocks"] == Finding("clocks", "ok", "fixed: GPU 1575 MHz")

    def test_an_agx_orin_on_jetpack_7_2_has_dla_but_no_compiler(self, agx: Board) -> None:
        found = findings(agx, replace(ON_7, tensorrt="10.16.2.10"))
        assert found[TENSORRT].state == "ok"
        assert found["DLA"].state == "absent"
        assert found["DLA"].detail == "2 cores, but no libnvdla_compiler.so: nothing is built for it"
        assert found["DLA"].fix.startswith("JetPack 7.2.2 or later")

    def test_dla_with_its_compiler(self, nano: Board) -> None:
        dla = findings(replace(nano, dla_cores=1), ON_6)["DLA"]
        assert (dla.state, dla.detail.partition(";")[0]) == ("ok", "1 core, libnvdla_compiler.so")

    def test_tensorrt_11_on_the_boards_it_supports(self, agx: Board) -> None:
        python = replace(ON_7, tensorrt="11.4.1.5", from_pip=True, gpus=frozenset({"sm_87", "sm_110"}))
        found = findings(replace(agx, jetpack="7.2.2-b1"), python)
        assert found[TENSORRT] == Finding(TENSORRT, "ok", "11.4.1.5 supports JetPack 7.2.2-b1")
        assert found[GPU].detail == "sm_87 is among sm_87, sm_110"


class TestAmiss:
    def test_a_jetpack_that_is_too_old(self, nano: Board) -> None:
        found = findings(replace(nano, l4t=(35, 4, 1)), ON_6)["JetPack"]
        assert (found.state, found.fix) == ("wrong", "flash JetPack 6.1 or later")

    def test_a_jetpack_that_is_not_known_is_not_judged(self, nano: Board) -> None:
        found = findings(replace(nano, l4t=(41, 0), jetpack=None), ON_6)
        assert found["JetPack"].state == found[TENSORRT].state == "absent"
        assert found[CUDA].state == "ok"  # the bindings still fit the CUDA that is there

    @pytest.mark.parametrize(
        ("version", "changes", "state", "said"),
        [
            ("8.6.2", {}, "wrong", "8.6.2 is older than 10.3"),
            ("11.4.1", {}, "wrong", "11.4.1: JetPack 6 stays with TensorRT 10"),
            ("11.2.0", {"l4t": (39, 2, 0)}, "limited", "before 11.4.1 on no JetPack"),
            ("11.4.1", {"l4t": (39, 2, 1), "jetpack": "7.2.1-b49"}, "limited", "JetPack 7.2.2 on, and this is 7.2.1"),
            ("11.4.1", {"l4t": (39, 2, 2), "jetpack": "7.2.2"}, "limited", "on AGX Orin and Thor only"),
        ],
    )
    def test_a_tensorrt_that_does_not_pair(
        self, nano: Board, version: str, changes: dict[str, Any], state: str, said: str
    ) -> None:
        found = findings(replace(nano, **changes), replace(ON_6, tensorrt=version))[TENSORRT]
        assert (found.state, said in found.detail) == (state, True), found
        assert "sudo apt install tensorrt python3-libnvinfer" in found.fix

    def test_a_tensorrt_11_where_the_board_does_not_say_enough(self, agx: Board) -> None:
        found = findings(replace(agx, jetpack=None), replace(ON_7, tensorrt="11.4.1"))[TENSORRT]
        assert (found.state, found.fix) == ("absent", "")

    def test_a_tensorrt_10_of_another_jetpack(self, nano: Board) -> None:
        found = findings(nano, replace(ON_6, tensorrt="10.16.2.10"))[TENSORRT]
        assert found.state == "limited"
        assert "10.16.2.10, where 10.3 or 10.7 pairs with JetPack 6.1 or 6.2" in found.detail

    def test_a_tensorrt_that_this_python_does_not_see(self, nano: Board, thor: Board) -> None:
        found = findings(nano, replace(ON_6, tensorrt=None))
        assert found[TENSORRT].state == "wrong"
        assert "10.3.0.30-1+cuda12.5 is installed, but this Python" in found[TENSORRT].detail
        assert found[TENSORRT].fix.startswith("make the environment with the system's Python")
        assert found[GPU].state == "absent"
        without_bindings = findings(thor, replace(ON_7, tensorrt=None))[TENSORRT]
        assert without_bindings.fix.startswith("sudo apt install python3-libnvinfer; make")

    def test_no_tensorrt_at_all(self, nano: Board) -> None:
        found = findings(replace(nano, tensorrt=None), replace(ON_6, tensorrt=None))[TENSORRT]
        assert (found.state, found.fix) == ("absent", "sudo apt install nvidia-jetpack")

    def test_a_10_x_wheel_without_sm_87(self, nano: Board) -> None:
        python = Python("10.13.3.9", True, frozenset({"sm_80", "sm_90", "sm_120"}), "12.9.1")
        found = findings(nano, python)[GPU]
        assert found.state == "wrong"
        assert found.detail == "TensorRT 10.13.3.9 builds for sm_80, sm_90, sm_120, this GPU is sm_87"

    def test_a_wheel_that_does_not_say(self, nano: Board, thor: Board) -> None:
        on_6 = findings(nano, replace(ON_6, tensorrt="10.7.0", from_pip=True))
        assert (on_6[TENSORRT].state, on_6[GPU].state) == ("ok", "limited")
        assert findings(thor, replace(ON_7, from_pip=True))[GPU].state == "absent"

    @pytest.mark.parametrize(
        ("cuda", "bindings", "state", "fix"),
        [
            ("12.6.68", "13.0.1", "wrong", "pip install 'cuda-bindings>=12,<13'"),
            ("12.6.68", None, "absent", "pip install 'cuda-bindings>=12,<13'"),
            (None, "13.0.1", "wrong", "pip install 'cuda-bindings>=12,<13'"),
            (None, "12.6.0", "ok", ""),
            ("12.9.1", "12.9.1", "ok", ""),
            (
                "13.0.48",
                "13.0.1",
                "wrong",
                "sudo apt install --reinstall nvidia-jetpack, then let /usr/local/cuda lead",
            ),
        ],
    )
    def test_cuda_and_its_bindings(
        self, nano: Board, cuda: str | None, bindings: str | None, state: str, fix: str
    ) -> None:
        found = findings(replace(nano, cuda=cuda), replace(ON_6, cuda_bindings=bindings))[CUDA]
        assert found.state == state
        assert found.fix.startswith(fix)
        assert bool(found.fix) == bool(fix)

    def test_a_slower_power_mode(self, tmp_path: Path) -> None:
        files = {**ORIN_NANO, "var/lib/nvpmodel/status": "pmode:0001 fmode:quiet"}
        found = findings(board_of(tree(tmp_path, files)), ON_6)
        assert found["power mode"].state == "limited"
        assert found["power mode"].detail == "25W (mode 1); MAXN_SUPER is faster and hotter"
        assert found["power mode"].fix == "sudo nvpmodel -m 2"

    @pytest.mark.parametrize("names", [{}, {0: "15W", 1: "25W"}])
    def test_a_board_without_a_fastest_mode(self, nano: Board, names: dict[int, str]) -> None:
        assert findings(replace(nano, power=PowerMode(1, names)), ON_6)["power mode"].state == "ok"

    def test_a_clock_below_what_it_could_be(self, nano: Board) -> None:
        board = replace(nano, clocks=(ClockRange("GPU", 306, 612, 1020), ClockRange("CPU", 1728, 1728, 1728)))
        said = findings(board, ON_6)["clocks"].detail
        assert said == "vary with the load: GPU 306 to 612 of 1020 MHz; CPU 1728 MHz"

    def test_little_memory(self, nano: Board) -> None:
        low = replace(nano, memory=Memory(4 << 30, 900 << 20))
        found = findings(low, ON_6)["memory, shared with the GPU"]
        assert (found.state, found.detail) == ("limited", "0.9 of 4.0 GiB free: building a plan may be killed")

    def test_dla_without_its_compiler_on_jetpack_6(self, nano: Board) -> None:
        found = findings(replace(nano, dla_cores=2, dla_compiler=False), ON_6)["DLA"]
        assert found.fix == "sudo apt install nvidia-l4t-dla-compiler"

    def test_a_board_that_says_nothing_is_absent_in_everything(self, tmp_path: Path) -> None:
        board = board_of(tree(tmp_path, {"proc/device-tree/compatible": "nvidia,tegra999\0"}))
        found = findings(board, Python(None, False, frozenset(), None))
        assert {finding.state for finding in found.values()} == {"absent"}


class TestExamine:
    def test_a_desktop_has_no_jetson_problem(self, tmp_path: Path) -> None:
        assert not {finding.subject for finding in examine(tree(tmp_path, DESKTOP))} & set(SUBJECTS)

    def test_a_jetson_is_examined_with_what_python_has(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        wheel = tmp_path / "site" / "tensorrt_libs"
        wheel.mkdir(parents=True)
        (wheel / "libnvinfer_builder_resource_sm90.so.10.13.3").touch()
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.13.3.9"))
        found = {finding.subject: finding for finding in examine(tree(tmp_path / "root", ORIN_NANO))}
        assert found[GPU].detail == "TensorRT 10.13.3.9 builds for sm_90, this GPU is sm_87"
        assert found[TENSORRT].state == "limited"

    def test_jetpacks_own_libraries_are_looked_at(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tree(tmp_path, {**THOR, "usr/lib/aarch64-linux-gnu/libnvinfer_builder_resource_sm110.so.10": "ELF"})
        monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.13.3"))
        assert doctor._python(tmp_path) == Python("10.13.3", False, frozenset({"sm_110"}), version_of("cuda-bindings"))
