"""What runs on the device needs numpy and OpenCV, and Python 3.10."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import refinenet_edge

ROOT = Path(refinenet_edge.__file__).parent
HEAVY = ("torch", "onnx", "onnx_ir", "onnxscript", "rich", "click")
BACKENDS = ("openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda")
FOR_MYPY = {"typing_extensions", "tensorrt_stubs", "tensorrt_rtx_stubs"}
ALLOWED = {"numpy", "cv2", *FOR_MYPY, *sys.stdlib_module_names} - {"tomllib"}
ON_DEVICE = ("errors", "files", "records", "labels", "bundle", "frames", "scenes", "jetson", "opencv", "runtime")
FILES = sorted(p for n in ON_DEVICE for p in ((ROOT / n).rglob("*.py") if (ROOT / n).is_dir() else [ROOT / f"{n}.py"]))


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


@pytest.mark.parametrize(
    ("machine", "python", "meant"),
    [("aarch64", "3.10", ">=12.6,<13"), ("aarch64", "3.12", ">=12.6"), ("x86_64", "3.10", ">=12.6")],
    ids=["JetPack 6", "JetPack 7", "desktop"],
)
def test_every_machine_gets_one_release_of_the_cuda_bindings(machine: str, python: str, meant: str) -> None:
    device = re.search(r"(?ms)^device = \[(.*?)^\]", (ROOT.parent / "pyproject.toml").read_text("utf-8"))
    assert device
    needs = list(map(Requirement, re.findall(r'(?m)^ *"(.+)",$', device[1])))
    assert len(needs) == 2
    there = {"platform_machine": machine, "python_version": python, "sys_platform": "linux"}
    assert [need.specifier for need in needs if need.marker and need.marker.evaluate(there)] == [SpecifierSet(meant)]


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
