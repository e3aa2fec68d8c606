"""What sensors say becomes figures: on made-up files and an NVML that says what it is told, by a clock of our own."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest

from refinenet_edge.sensors import Meters, Reading
from tests.boards import AGX_ORIN, ORIN_NANO, THOR, tree
from tests.sensors.fake_nvml import BUS_ID, CALLS, Nvml, fails

RAPL = {
    "sys/class/powercap/intel-rapl/enabled": "1\n",
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "1000000\n",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "10000000\n",
    "sys/class/powercap/intel-rapl:0:0/name": "core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "400000\n",
    "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": "10000000\n",
}
PACKAGE, CORE = (f"sys/class/powercap/intel-rapl:0{end}/energy_uj" for end in ("", ":0"))
INA = "sys/class/hwmon/hwmon3"
NANO_RAILS = {
    f"{INA}/name": "ina3221\n",
    f"{INA}/in1_label": "VDD_IN\n",
    f"{INA}/in1_input": "5000\n",
    f"{INA}/curr1_input": "1000\n",
    f"{INA}/in2_label": "VDD_CPU_GPU_CV\n",
    f"{INA}/in2_input": "5000\n",
    f"{INA}/curr2_input": "400\n",
    f"{INA}/in3_label": "NC\n",
    f"{INA}/in7_label": "sum of shunt voltages\n",
    f"{INA}/in7_input": "760\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "1728000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48500\n",
    "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "-256000\n",
}
THROTTLING = {
    "sys/class/hwmon/hwmon5/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon5/oc1_event_cnt": "2\n",
    "sys/class/hwmon/hwmon5/oc3_event_cnt": "7\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "2\n",
    "sys/class/thermal/cooling_device1/type": "devfreq-17000000.gpu\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
}

Files = dict[str, str]


def measured(meters: Meters, root: Path, *changes: Files) -> Reading | None:
    """One sample of the files as they are, and one after each of `changes`."""
    with meters:
        for change in changes[:-1]:
            tree(root, change)
            meters.sample()
        for change in changes[-1:]:
            tree(root, change)
    return meters.reading()


def meters_of(root: Path, *times: float, gpu: str | None = None) -> Meters:
    return Meters(root, gpu, period=None, clock=iter(times).__next__)


def reading_of(meters: Meters, root: Path, *changes: Files) -> Reading:
    reading = measured(meters, root, *changes)
    assert reading is not None
    return reading


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """Reading a file fails from now on; not by its mode, which does not keep root out."""
    refused: dict[Path, int] = {}
    real = Path.read_text

    def read_text(path: Path, *args: Any, **kwargs: Any) -> str:
        if path in refused:
            raise OSError(refused[path], "refused", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    return refused.__setitem__


def test_energy_is_the_difference_of_a_counter(tmp_path: Path) -> None:
    meters = meters_of(tree(tmp_path, RAPL), 10.0, 10.5)
    reading = reading_of(meters, tmp_path, {PACKAGE: "3000000", CORE: "900000"})
    assert reading.joules == pytest.approx(2.0)
    assert reading.watts == pytest.approx({"package-0": 4.0, "package-0 core": 1.0})
    assert (reading.seconds, reading.mean_watts) == (0.5, 4.0)
    assert (reading.celsius, reading.mhz, reading.throttled) == ({}, {}, None)
    assert meters.notes == ()


def test_a_counter_begins_again(tmp_path: Path) -> None:
    files = RAPL | {PACKAGE: "9500000"}
    reading = reading_of(
        meters_of(tree(tmp_path, files), 0, 1, 2), tmp_path, {PACKAGE: "9900000"}, {PACKAGE: "1500000"}
    )
    assert reading.joules == pytest.approx(2.0)


def test_a_counter_that_falls_without_a_known_range_says_nothing(tmp_path: Path) -> None:
    files = {name: text for name, text in RAPL.items() if "max" not in name}
    reading = reading_of(meters_of(tree(tmp_path, files), 0, 1), tmp_path, {PACKAGE: "500000", CORE: "600000"})
    assert reading.watts == pytest.approx({"package-0 core": 0.2})
    assert reading.joules is None


def test_two_processors_are_added(tmp_path: Path) -> None:
    other = {name.replace("rapl:0/", "rapl:1/"): text.replace("package-0", "package-1") for name, text in RAPL.items()}
    root = tree(tmp_path, RAPL | other | {"sys/class/powercap/intel-rapl:2/name": "psys"})
    psys = "sys/class/powercap/intel-rapl:2/energy_uj"
    tree(root, {psys: "0"})
    second = PACKAGE.replace("rapl:0", "rapl:1")
    reading = reading_of(meters_of(root, 0, 1), root, {PACKAGE: "3000000", second: "2000000", psys: "9000000"})
    assert reading.joules == pytest.approx(3.0)
    assert reading.watts["psys"] == pytest.approx(9.0)


def test_a_forbidden_counter_is_absent_and_says_how_it_is_allowed(
    tmp_path: Path, refuse: Callable[[Path, int], None]
) -> None:
    root = tree(tmp_path, RAPL | {"sys/class/thermal/thermal_zone0/temp": "40000"})
    for name in (PACKAGE, CORE):
        refuse(root / name, errno.EACCES)
    meters = meters_of(root, 0, 1)
    reading = reading_of(meters, root, {})
    assert (reading.watts, reading.joules, reading.celsius) == ({}, None, {"thermal_zone0": 40.0})
    assert meters.notes[0] == (
        f"package-0 (joules) is absent: {root / PACKAGE} may not be read; "
        f"until the next start: sudo chmod a+r {root / PACKAGE}"
    )
    assert len(meters.notes) == 2


def test_watts_of_a_jetson_are_integrated(tmp_path: Path) -> None:
    meters = meters_of(tree(tmp_path, ORIN_NANO | NANO_RAILS), 0, 1, 3)
    reading = reading_of(
        meters,
        tmp_path,
        {f"{INA}/curr1_input": "2000", "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000"},
        {f"{INA}/in1_input": "4000", "sys/class/thermal/thermal_zone0/temp": "51000"},
    )
    # 5 W, 10 W, 8 W at 0, 1, 3 s
    assert reading.joules == pytest.approx(7.5 + 18.0)
    assert reading.watts == pytest.approx({"VDD_IN": 25.5 / 3, "VDD_CPU_GPU_CV": 2.0})
    assert reading.celsius == {"cpu-thermal": 51.0}
    assert reading.mhz == {"CPU": (1728.0, 1728.0), "GPU": (306.0, 1020.0)}
    assert reading.throttled is None
    temp = tmp_path / "sys/class/thermal/thermal_zone1/temp"
    assert meters.notes == (f"cv0-thermal (celsius) is absent: {temp} says -256 °C: what it measures is switched off",)


def test_the_input_of_a_thor_is_all_of_it(tmp_path: Path) -> None:
    rails = {
        f"{INA}/name": "ina3221",
        f"{INA}/in1_label": "VDD_GPU",
        f"{INA}/in1_input": "10000",
        f"{INA}/curr1_input": "2000",
        "sys/class/hwmon/hwmon4/name": "ina238",
        "sys/class/hwmon/hwmon4/power1_input": "40000000",
        "sys/class/devfreq/gpu-gpc-0/cur_freq": "1575000000",
        "sys/class/devfreq/gpu-nvd-0/cur_freq": "1692000000",
    }
    reading = reading_of(meters_of(tree(tmp_path, THOR | rails), 0, 2), tmp_path, {})
    assert reading.watts == pytest.approx({"VDD_GPU": 20.0, "VIN": 40.0})
    assert reading.joules == pytest.approx(80.0)
    assert reading.mhz == {"GPU": (1575.0, 1575.0)}


ORIN_RAILS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


def orin_files(names: tuple[str, ...]) -> Files:
    files = {f"{INA}/name": "ina3221", "sys/class/hwmon/hwmon4/name": "ina3221"}
    channels = [*((INA, n, name) for n, name in enumerate(names, 1)), ("sys/class/hwmon/hwmon4", 2, "VDDQ_VDD2_1V8AO")]
    for chip, channel, name in channels:
        files |= {f"{chip}/in{channel}_label": name, f"{chip}/in{channel}_input": "5000"}
        files[f"{chip}/curr{channel}_input"] = f"{channel}000"
    return files


def test_the_inputs_of_an_agx_orin_are_added(tmp_path: Path) -> None:
    reading = reading_of(meters_of(tree(tmp_path, AGX_ORIN | orin_files(ORIN_RAILS)), 0, 1), tmp_path, {})
    assert reading.watts == pytest.approx(dict(zip(ORIN_RAILS, (5, 10, 15), strict=True)) | {"VDDQ_VDD2_1V8AO": 10})
    assert reading.joules == pytest.approx(30)


def test_rails_that_are_not_known_to_be_all_give_no_energy(tmp_path: Path) -> None:
    meters = meters_of(tree(tmp_path, AGX_ORIN | orin_files(ORIN_RAILS[:2])), 0, 1)
    reading = reading_of(meters, tmp_path, {})
    assert reading.joules is None and len(reading.watts) == 3
    assert meters.notes == ("joules of a frame: of this board's rails none is known to carry all of it",)


def test_a_sensor_that_goes_leaves_its_mean_but_no_energy(tmp_path: Path, refuse: Callable[[Path, int], None]) -> None:
    root = tree(tmp_path, ORIN_NANO | NANO_RAILS | THROTTLING)
    meters = meters_of(root, 0, 1, 2)
    with meters:
        meters.sample()
        refuse(root / f"{INA}/curr1_input", errno.EIO)
        (root / "sys/class/thermal/thermal_zone0/temp").unlink()
        (root / "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq").unlink()
        tree(root, {"sys/class/devfreq/17000000.gpu/cur_freq": "off"})
    reading = meters.reading()
    assert reading is not None
    assert reading.watts == pytest.approx({"VDD_IN": 5.0, "VDD_CPU_GPU_CV": 2.0})
    assert reading.joules is None
    assert reading.celsius == {"cpu-thermal": 48.5}
    assert reading.mhz == {"CPU": (729.6, 1728.0), "GPU": (306.0, 306.0)}
    assert f"VDD_IN (watts) is missing 1 of 3 times: {root / INA}/curr1_input: refused" in meters.notes
    assert any("cur_freq says 'off'" in note for note in meters.notes)


def test_a_gap_is_bridged(tmp_path: Path) -> None:
    root = tree(tmp_path, ORIN_NANO | NANO_RAILS)
    current = root / f"{INA}/curr1_input"
    meters = meters_of(root, 0, 1, 2)
    with meters:
        current.write_text("")
        meters.sample()
        current.write_text("3000")
    reading = meters.reading()
    assert reading is not None and reading.joules == pytest.approx((5 + 15) / 2 * 2)


def test_a_jetson_says_what_throttled_it(tmp_path: Path) -> None:
    root = tree(tmp_path, ORIN_NANO | NANO_RAILS | THROTTLING)
    assert reading_of(meters_of(root, 0, 1), root, {}).throttled == ()
    heat, event = "sys/class/thermal/cooling_device1/cur_state", "sys/class/hwmon/hwmon5/oc3_event_cnt"
    reading = reading_of(meters_of(root, 0, 1, 2), root, {heat: "3"}, {heat: "0", event: "8"})
    assert reading.throttled == ("devfreq-17000000.gpu", "over-current oc3")


def test_temperatures_of_a_desktop(tmp_path: Path) -> None:
    files = {
        "sys/class/hwmon/hwmon1/name": "coretemp",
        "sys/class/hwmon/hwmon1/temp1_input": "50000",
        "sys/class/hwmon/hwmon1/temp2_input": "62000",
        "sys/class/hwmon/hwmon2/name": "coretemp",
        "sys/class/hwmon/hwmon2/temp1_input": "47000",
        "sys/class/hwmon/hwmon3/name": "nvme",
        "sys/class/hwmon/hwmon3/temp1_input": "80000",
        "sys/class/thermal/thermal_zone0/type": "acpitz",
        "sys/class/thermal/thermal_zone0/temp": "27800",
        "sys/class/thermal/cooling_device0/type": "Processor",
        "sys/class/thermal/cooling_device0/cur_state": "1",
    }
    meters = meters_of(tree(tmp_path, files), 0, 1)
    reading = reading_of(meters, tmp_path, {})
    assert reading.celsius == {"coretemp": 62.0, "coretemp 2": 47.0, "acpitz": 27.8}
    assert reading.throttled is None
    assert meters.notes == ("joules of a frame: no RAPL counter of the CPU is here",)


def test_without_sensors_there_is_no_reading(tmp_path: Path) -> None:
    meters = meters_of(tmp_path, 0, 1)
    assert measured(meters, tmp_path) is None
    assert meters.notes == (
        "power, heat and clocks: this machine shows no sensor, as most containers and virtual machines",
    )


def test_the_gpu_says_everything(tmp_path: Path, nvml: Nvml) -> None:
    meters = meters_of(tree(tmp_path, RAPL), 0, 2, gpu=BUS_ID)
    with meters:
        nvml.millijoules, nvml.sm = 205_000, 1410
        nvml.reasons = (
            pynvml.nvmlClocksEventReasonSwPowerCap
            | pynvml.nvmlClocksEventReasonHwThermalSlowdown
            | pynvml.nvmlClocksEventReasonGpuIdle
            | pynvml.nvmlClocksEventReasonApplicationsClocksSetting
        )
    reading = meters.reading()
    assert reading is not None
    assert reading.joules == pytest.approx(200.0)
    assert reading.watts == pytest.approx({"GPU": 100.0, "package-0": 0.0, "package-0 core": 0.0})
    assert reading.celsius == {"GPU": 61.0}
    assert reading.mhz == {"GPU SM": (1410.0, 1980.0), "GPU memory": (2619.0, 2619.0)}
    assert reading.throttled == ("HwThermalSlowdown", "SwPowerCap")
    assert meters.notes == ()


def test_a_gpu_without_a_counter_is_integrated(tmp_path: Path, nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", fails)
    meters = meters_of(tmp_path, 0, 2, gpu=BUS_ID)
    with meters:
        nvml.milliwatts = 300_000
    reading = meters.reading()
    assert reading is not None and reading.watts == {"GPU": 200.0}
    assert reading.joules == pytest.approx(400.0)
    assert meters.notes == ("GPU (joules) is absent: nvmlDeviceGetTotalEnergyConsumption: Not Supported",)


def test_a_counter_that_goes_is_replaced_by_the_watts(
    tmp_path: Path, nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    meters = meters_of(tmp_path, 0, 1, 2, gpu=BUS_ID)
    with meters:
        nvml.millijoules += 1000
        meters.sample()
        monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", fails)
    reading = meters.reading()
    assert reading is not None and (reading.watts, reading.joules) == ({"GPU": 100.0}, 200.0)


@pytest.mark.parametrize("when", ["from the start", "later"])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_may_fail(tmp_path: Path, nvml: Nvml, monkeypatch: pytest.MonkeyPatch, call: str, when: str) -> None:
    meters = meters_of(tree(tmp_path, RAPL), 0, 1, gpu=BUS_ID)
    if call == "nvmlShutdown":  # the driver counts; here nobody would
        monkeypatch.setattr(pynvml, call, lambda: [nvml.nvmlShutdown(), fails()])
    elif when == "from the start":
        monkeypatch.setattr(pynvml, call, fails)
    with meters:
        if when == "later" and call != "nvmlShutdown":
            monkeypatch.setattr(pynvml, call, fails)
    reading = meters.reading()
    assert reading is not None and reading.watts["package-0"] == 0.0
    sampled = call.startswith("nvmlDevice") and call != "nvmlDeviceGetEnforcedPowerLimit"
    noted = sampled and not (when == "later" and call == "nvmlDeviceGetHandleByPciBusId")
    noted |= call == "nvmlInit" and when == "from the start"
    assert any(f"{call}: Not Supported" in note for note in meters.notes) == noted


def test_bindings_without_a_call(tmp_path: Path, nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pynvml, "nvmlDeviceGetTemperature")
    reading = reading_of(meters_of(tmp_path, 0, 1, gpu=BUS_ID), tmp_path, {})
    assert reading.celsius == {} and reading.watts == {"GPU": 0.0}


def test_without_the_bindings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meters = meters_of(tree(tmp_path, RAPL), 0, 1, gpu=BUS_ID)
    reading = reading_of(meters, tmp_path, {PACKAGE: "3000000"})
    assert reading.joules is None, "what the CPU draws is not what the GPU draws"
    assert meters.notes == (
        "power, heat and clocks of the GPU: pynvml is not installed: pip install 'refinenet-edge[power]'",
    )


def test_nvml_is_not_asked_on_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: pytest.fail("asked"))
    reading = reading_of(meters_of(tree(tmp_path, ORIN_NANO | NANO_RAILS), 0, 1, gpu=BUS_ID), tmp_path, {})
    assert reading.joules == pytest.approx(5)


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_a_thread_samples_until_the_block_ends(tmp_path: Path, ends: str) -> None:
    root = tree(tmp_path, RAPL)
    enough, ticks = threading.Event(), []

    def clock() -> float:
        ticks.append(threading.current_thread().name)
        if ticks.count("meters") == 3:
            enough.set()
        return time.perf_counter()

    meters = Meters(root, period=0.001, clock=clock)
    try:
        with meters:
            assert enough.wait(10)
            if ends == "badly":
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert ends == "badly"
    assert "meters" not in {thread.name for thread in threading.enumerate()}
    assert ticks[0] == ticks[-1] == "MainThread"
    reading = meters.reading()
    assert reading is not None and reading.seconds > 0


def test_a_lap_is_of_the_time_since_the_last(tmp_path: Path) -> None:
    event = "sys/class/hwmon/hwmon5/oc3_event_cnt"
    root = tree(tmp_path, ORIN_NANO | NANO_RAILS | THROTTLING)
    with meters_of(root, 0, 1, 3, 5, 6) as meters:
        tree(root, {event: "8"})
        first = meters.lap()
        tree(root, {f"{INA}/curr1_input": "3000"})
        meters.sample()
        second = meters.lap()
    assert first is not None and second is not None
    assert (first.seconds, first.joules, first.throttled) == (1, pytest.approx(5), ("over-current oc3",))
    # 5 W, 15 W, 15 W at 1, 3, 5 s
    assert (second.seconds, second.joules, second.mean_watts) == (4, pytest.approx(20 + 30), pytest.approx(12.5))
