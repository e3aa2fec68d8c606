"""What a machine says of itself: on made-up files, and of a checkout made for it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pynvml
import pytest

import refinenet_edge
from refinenet_edge.bench import machine
from refinenet_edge.bench.machine import comparable, cpu, describe
from refinenet_edge.bench.record import Machine
from tests.boards import AGX_ORIN, DESKTOP, ORIN_NANO, tree
from tests.sensors.fake_nvml import BUS_ID, Nvml, fails

PC = DESKTOP | {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD Ryzen 9 7950X\n\nprocessor\t: 1\nmodel name\t: AMD Ryzen\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\nID=ubuntu\n',
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpufreq/policy1/scaling_governor": "powersave\n",
}
HERE = Machine("H100", "EPYC", 16, None, "Debian", "3.11", None, {"numpy": "2.4.6"})


def test_a_desktop_that_computes_on_its_cpu(tmp_path: Path) -> None:
    said = describe(tree(tmp_path, PC))
    assert (said.device, said.cpu) == ("AMD Ryzen 9 7950X", "AMD Ryzen 9 7950X")
    assert said.cores == len(os.sched_getaffinity(0))
    assert said.memory_bytes == 1 << 30
    assert said.system == f"Ubuntu 24.04.1 LTS, {platform.system()} {platform.release()}"
    assert said.python == platform.python_version()
    assert said.power_mode == "powersave"
    assert said.versions["refinenet_edge"] == refinenet_edge.__version__
    assert said.versions["numpy"] == np.__version__
    assert "NVIDIA driver" not in said.versions and "L4T" not in said.versions


def test_governors_that_differ(tmp_path: Path) -> None:
    other = {"sys/devices/system/cpu/cpufreq/policy1/scaling_governor": "performance"}
    assert describe(tree(tmp_path, PC | other)).power_mode == "performance, powersave"


def test_a_container_says_little(tmp_path: Path) -> None:
    said = describe(tmp_path)
    assert said.device == said.cpu == (platform.processor() or platform.machine())
    assert (said.memory_bytes, said.power_mode) == (None, None)
    assert said.system == f"{platform.system()} {platform.release()}"


def test_a_gpu_is_the_device_and_its_limit_part_of_the_mode(tmp_path: Path, nvml: Nvml) -> None:
    said = describe(tree(tmp_path, PC), "NVIDIA H100 80GB HBM3", BUS_ID)
    assert (said.device, said.cpu) == ("NVIDIA H100 80GB HBM3", "AMD Ryzen 9 7950X")
    assert said.power_mode == "powersave, GPU limited to 700 W"
    assert said.versions["NVIDIA driver"] == "580.65.06"


@pytest.mark.parametrize(
    ("call", "mode", "driver"),
    [
        ("nvmlDeviceGetEnforcedPowerLimit", "powersave", "580.65.06"),
        ("nvmlSystemGetDriverVersion", "powersave, GPU limited to 700 W", None),
        ("nvmlInit", "powersave", None),
    ],
)
def test_what_the_driver_does_not_say_is_absent(
    tmp_path: Path,
    nvml: Nvml,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    mode: str,
    driver: str | None,
) -> None:
    monkeypatch.setattr(pynvml, call, fails)
    said = describe(tree(tmp_path, PC), "NVIDIA H100", BUS_ID)
    assert (said.power_mode, said.versions.get("NVIDIA driver")) == (mode, driver)


def test_a_jetson_names_itself_and_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: pytest.fail("asked"))
    governor = {"sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil"}
    said = describe(tree(tmp_path, ORIN_NANO | governor), "Orin (nvgpu)", BUS_ID)
    assert said.device == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert said.power_mode == "MAXN_SUPER"
    assert said.memory_bytes == 7802132 << 10
    assert (said.versions["L4T"], said.versions["CUDA"]) == ("36.4.3", "12.6.68")


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ({"var/lib/nvpmodel/status": "pmode:0007"}, "mode 7"),
        ({"var/lib/nvpmodel/status": ""}, None),
    ],
    ids=["no name", "not said"],
)
def test_the_mode_of_a_jetson_is_not_guessed(tmp_path: Path, changes: dict[str, str], mode: str | None) -> None:
    assert describe(tree(tmp_path, AGX_ORIN | changes)).power_mode == mode


def test_a_package_without_a_distribution_is_asked_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = ModuleType("pycuda")
    system.__version__ = "2022.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", system)
    assert describe(tmp_path).versions["pycuda"] == "2022.1"
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert "pycuda" not in describe(tmp_path).versions


def test_nothing_heavy_is_imported() -> None:
    code = "import sys; sys.modules['torch'] = None; from refinenet_edge.bench.machine import describe; describe(); "
    code += "from refinenet_edge.sensors import meters; "
    code += "early = {'openvino', 'onnxruntime', 'tensorrt', 'cuda', 'pynvml'} & set(sys.modules); assert not early"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_this_machine_is_described_without_being_told_a_root() -> None:
    assert describe().cpu == cpu() and describe().memory_bytes


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"device": "L4"}, "different devices: H100 and L4"),
        ({"cpu": "Xeon"}, "different CPUs: EPYC and Xeon"),
        ({"cores": 2}, "different numbers of cores: 16 and 2"),
        ({"power_mode": "15W"}, "different power modes: unknown and 15W"),
    ],
)
def test_other_machines_are_not_compared(change: dict[str, str], why: str) -> None:
    assert comparable(HERE, replace(HERE, **change)) == why


def test_other_versions_are() -> None:
    assert comparable(HERE, replace(HERE, versions={"numpy": "1.26"}, system="Ubuntu", python="3.12")) is None


def git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *who, *command], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "package"
    tree(tmp_path, {"package/a.py": "", ".gitignore": ".venv\n", ".venv/lib/installed.py": ""})
    assert machine.commit(package) is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    git(tmp_path, "tag", "v1")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert machine.commit(package) == head
    (tmp_path / "result.json").write_text("{}")
    assert machine.commit(package) == head, "a file that git does not know is no change"
    (package / "a.py").write_text("pass")
    assert machine.commit(package) == f"{head}+changes"
    assert machine.commit(tmp_path / ".venv/lib") is None, "what lies in a checkout need not belong to it"
    assert machine.commit(tmp_path / "absent") is None


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine.commit(Path(refinenet_edge.__file__).parent) is None
