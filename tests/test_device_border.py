"""What runs on the device needs numpy and OpenCV, and Python 3.10."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import refinenet_edge

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(refinenet_edge.__file__).parent
HEAVY = ("torch", "onnx", "onnx_ir", "onnxscript", "rich", "click")
BACKENDS = ("openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda")
FOR_MYPY = {"typing_extensions", "tensorrt_stubs", "tensorrt_rtx_stubs"}
FOR_MORE_IMAGES = {"PIL", "pillow_heif"}  # imported where such an image is read
ALLOWED = {"numpy", "cv2", *FOR_MORE_IMAGES, *FOR_MYPY, *sys.stdlib_module_names} - {"tomllib"}
ON_DEVICE = (
    "errors",
    "urls",
    "files",
    "onnx_file",
    "records",
    "labels",
    "bundle",
    "frames",
    "scenes",
    "jetson",
    "memory",
    "opencv",
    "overlay",
    "runtime",
)
FILES = sorted(p for n in ON_DEVICE for p in ((ROOT / n).rglob("*.py") if (ROOT / n).is_dir() else [ROOT / f"{n}.py"]))
PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text("utf-8"))["project"]
DEVICE = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["device"]]  # what `pip install .[device]` brings


def test_the_device_side_imports_without_the_rest() -> None:
    code = f"""
import sys
for heavy in {HEAVY!r}:
    sys.modules[heavy] = None
import refinenet_edge.runtime, refinenet_edge.bundle, refinenet_edge.frames, refinenet_edge.labels
early = [name for name in {BACKENDS!r} if name in sys.modules]
assert not early, early
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


MACHINES = {
    "JetPack 6": ("aarch64", "3.10", {"numpy": ">=1.24,<2", "cuda-bindings": ">=12.6,<13"}),
    "JetPack 7": ("aarch64", "3.12", {"numpy": ">=1.24", "cuda-bindings": ">=13"}),
    "desktop": (
        "x86_64",
        "3.10",
        {
            "numpy": ">=1.24",
            "cuda-bindings": ">=13",
            "nvidia-cuda-nvrtc": ">=13",
            "opencv-python-headless": ">=4.8",
        },
    ),
}


@pytest.mark.parametrize(("machine", "python", "meant"), MACHINES.values(), ids=MACHINES)
def test_every_machine_gets_what_its_cuda_and_opencv_agree_with(
    machine: str, python: str, meant: dict[str, str]
) -> None:
    there = {"platform_machine": machine, "python_version": python, "sys_platform": "linux"}
    needs = [need for need in map(Requirement, DEVICE) if need.marker is None or need.marker.evaluate(there)]
    assert len({need.name for need in needs}) == len(needs)
    versions = {need.name: need.specifier for need in needs if need.name not in ("click", "rich")}
    assert versions == {name: SpecifierSet(version) for name, version in meant.items()}


def test_jetpack_6_gets_no_cuda_13_with_torch() -> None:
    there = {"platform_machine": "aarch64", "python_version": "3.10"}
    torches = [need for need in map(Requirement, PROJECT["optional-dependencies"]["export"]) if need.name == "torch"]
    (needed,) = (need for need in torches if need.marker and need.marker.evaluate(there))
    assert needed.specifier.contains("2.10.0")
    assert not needed.specifier.contains("2.11.0")


@pytest.mark.parametrize("extra", ["cpu", "demo", "device"])
def test_a_jetson_keeps_its_opencv(extra: str) -> None:
    (need,) = (need for need in map(Requirement, PROJECT["optional-dependencies"][extra]) if "opencv" in need.name)
    assert need.marker
    assert not need.marker.evaluate({"platform_machine": "aarch64"})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_leaves_the_device_side(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"), feature_version=(3, 10))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module or ""]
        for name in names:
            package, _, module = name.partition(".")
            fine = package in ALLOWED or (package == "refinenet_edge" and module.split(".")[0] in ON_DEVICE)
            assert fine, f"line {node.lineno} imports {name}"
