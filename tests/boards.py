"""Made-up Jetsons: files below a root, in the form in which people posted those of their boards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

NVPMODEL = """# the comment names < POWER_MODEL ID=9 NAME=NOTHING >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=1 >
"""
ORIN_NANO = {  # JetPack 6.2
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "var/lib/dpkg/status": (
        "Package: nvidia-jetpack\nStatus: install ok installed\nArchitecture: arm64\nVersion: 6.2+b77\n"
        "Description: NVIDIA Jetpack Meta Package\n\n"
        "Package: libnvinfer8\nStatus: deinstall ok config-files\nVersion: 8.6.2.3-1+cuda12.2\n\n"
        "Package: libnvinfer10\nStatus: install ok installed\nVersion: 10.3.0.30-1+cuda12.5\n\n"
        "Package: python3-libnvinfer\nStatus: install ok installed\nVersion: 10.3.0.30-1+cuda12.5\n"
    ),
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}',
    "var/lib/nvpmodel/status": "pmode:0002",
    "etc/nvpmodel.conf": NVPMODEL,
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/devfreq/17000000.gpu/available_frequencies": "306000000 408000000 1020000000\n",
    "sys/class/devfreq/15340000.vic/min_freq": "115200000\n",
    "sys/class/devfreq/15340000.vic/max_freq": "435200000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1728000\n",
    "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "1728000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1728000\n",
    "sys/devices/system/cpu/cpufreq/policy4/cpuinfo_max_freq": "1728000\n",
    "proc/meminfo": "MemTotal:        7802132 kB\nMemFree:          211000 kB\nMemAvailable:    5242880 kB\n",
    "sys/bus/platform/devices/17000000.gpu": "",
    "usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so": "ELF",
}
THOR = {  # JetPack 7.1
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
    "etc/nv_tegra_release": "# R38 (release), REVISION: 4.0, GCID: 43443517, BOARD: generic, EABI: aarch64\n",
    "var/lib/dpkg/status": (
        "Package: nvidia-jetpack-dev\nStatus: install ok installed\nVersion: 7.1-b1\n\n"
        "Package: libnvinfer10\nStatus: install ok installed\nVersion: 10.13.3.9-1+cuda13.0\n"
    ),
    "usr/local/cuda/version.json": '{"cuda": {"version": "13.0.48"}}',
    "var/lib/nvpmodel/status": "pmode:0000\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n",
    "sys/class/devfreq/gpu-gpc-0/min_freq": "1575000000\n",
    "sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000\n",
    "sys/class/devfreq/gpu-nvd-0/min_freq": "315000000\n",
    "sys/class/devfreq/gpu-nvd-0/max_freq": "1692000000\n",
    "proc/meminfo": "MemTotal: 128822136 kB\nMemAvailable: 120000000 kB\n",
    "sys/bus/platform/devices/d0b0000000.pcie": "",
}
AGX_ORIN = {  # JetPack 7.2
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0nvidia,tegra23x\0",
    "etc/nv_tegra_release": "# R39 (release), REVISION: 2.0, GCID: 45000000, BOARD: generic, EABI: aarch64\n",
    "var/lib/dpkg/status": (
        "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 7.2-b40\n\n"
        "Package: libnvinfer10\nStatus: install ok installed\nVersion: 10.16.2.10-1+cuda13.2\n"
    ),
    "usr/local/cuda/version.json": '{"cuda": {"version": "13.2.0"}}',
    "var/lib/nvpmodel/status": "pmode:0000",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=15W >\n",
    "proc/meminfo": "MemTotal: 64349260 kB\nMemAvailable: 60000000 kB\n",
    "sys/bus/platform/devices/15880000.nvdla0": "",
    "sys/bus/platform/devices/158c0000.nvdla1": "",
}
DESKTOP = {
    "var/lib/dpkg/status": "Package: libnvinfer10\nStatus: install ok installed\nVersion: 10.13.3.9-1+cuda13.0\n",
    "usr/local/cuda/version.json": '{"cuda": {"version": "12.6.68"}}',
    "proc/meminfo": "MemTotal: 1048576 kB\nMemAvailable: 100000 kB\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "800000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "5000000\n",
}


def tree(root: Path, files: Mapping[str, str]) -> Path:
    """`files` below `root`."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
