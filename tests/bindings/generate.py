"""The TensorRT bindings, as far as this package calls them, as two stubs that the package is typed against.

    python -m tests.bindings.generate describe MODULE     the members that imported bindings have, as JSON
    python -m tests.bindings.generate lean                stubs/tensorrt_stubs.pyi less what the lean runtime lacks
    python -m tests.bindings.generate CLONE               both stubs, from all releases; CLONE is of NVIDIA/TensorRT

stubs/tensorrt_stubs.pyi       what every release has: 10.3, 10.13, 10.16, 11.4 and RTX 1.7
stubs/tensorrt_rtx_stubs.pyi   what TensorRT-RTX has besides

Those that PyPI has (`make bindings`, RTX with the `rtx` extra) are described by their bindings' own signatures. 10.3
and 10.13 are not to be had without a device: which members they have and what the parameters are called is read in
NVIDIA/TensorRT at their tags. `TensorRt` in a stub is the module: `trt: type[TensorRt]`.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bindings.install import RELEASES as INSTALLED
from tests.bindings.install import ROOT

Members = dict[str, dict[str, list[str]]]  # class -> member -> its lines in a stub, one text for each overload

STUBS = Path(__file__).parent / "stubs"
STUB, RTX_STUB = STUBS / "tensorrt_stubs.pyi", STUBS / "tensorrt_rtx_stubs.pyi"
TAGS = {"10.3": "v10.3.0", "10.13": "v10.13.3"}
SOURCES = (
    "src/infer/pyCore.cpp",
    "src/infer/pyFoundationalTypes.cpp",
    "src/infer/pyGraph.cpp",
    "src/parsers/pyOnnx.cpp",
)

# class -> the members that this package calls; of enumerations too
USED: dict[str, tuple[str, ...]] = {
    "Builder": (
        "__init__",
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    ),
    "BuilderFlag": ("TF32", "VERSION_COMPATIBLE"),
    "DataType": ("FLOAT", "HALF", "INT8", "UINT8", "INT32", "INT64", "BOOL"),
    "ErrorCodeTRT": (),
    "ExecutionContextAllocationStrategy": ("STATIC", "USER_MANAGED"),
    "HardwareCompatibilityLevel": ("AMPERE_PLUS",),
    "IBuilderConfig": (
        "set_memory_pool_limit",
        "progress_monitor",
        "profiling_verbosity",
        "add_optimization_profile",
        "clear_flag",
        "set_flag",
        "hardware_compatibility_level",
        "create_timing_cache",
        "set_timing_cache",
    ),
    "ICudaEngine": (
        "num_io_tensors",
        "device_memory_size_v2",
        "num_optimization_profiles",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_format",
        "get_tensor_format_desc",
        "get_tensor_dtype",
        "get_tensor_shape",
        "get_tensor_profile_shape",
        "create_execution_context",
    ),
    "IErrorRecorder": (
        "__init__",
        "num_errors",
        "get_error_code",
        "get_error_desc",
        "has_overflowed",
        "clear",
        "report_error",
    ),
    "IExecutionContext": (
        "profiler",
        "set_optimization_profile_async",
        "set_input_shape",
        "get_tensor_shape",
        "set_tensor_address",
        "update_device_memory_size_for_shapes",
        "set_device_memory",
        "execute_async_v3",
    ),
    "IHostMemory": ("__buffer__",),
    "ILogger": ("__init__", "Severity", "log"),
    "INetworkDefinition": ("num_inputs", "num_outputs", "get_input", "get_output"),
    "IOptimizationProfile": ("set_shape",),
    "IProfiler": ("__init__", "report_layer_time"),
    "IProgressMonitor": ("__init__", "phase_start", "phase_finish", "step_complete"),
    "ITensor": ("dtype", "shape", "allowed_formats"),
    "ITimingCache": ("serialize",),
    "MemoryPoolType": ("WORKSPACE",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "OnnxParser": ("__init__", "parse", "num_errors", "get_error"),
    "ParserError": ("desc", "node_name"),
    "ProfilingVerbosity": ("DETAILED",),
    "Runtime": ("__init__", "error_recorder", "engine_host_code_allowed", "deserialize_cuda_engine"),
    "TensorFormat": ("LINEAR", "HWC8"),
    "TensorIOMode": ("INPUT", "OUTPUT"),
}
# and those that TensorRT-RTX alone has to have
USED_OF_RTX: dict[str, tuple[str, ...]] = {
    "ComputeCapability": (),
    "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE",),
    "ExecutionContextAllocationStrategy": (),
    "IBuilderConfig": ("num_compute_capabilities", "set_compute_capability"),
    "ICudaEngine": ("create_execution_context", "create_runtime_config"),
    "IExecutionContext": (),
    "IHostMemory": ("__buffer__",),
    "IRuntimeCache": ("serialize", "deserialize"),
    "IRuntimeConfig": ("cuda_graph_strategy", "create_runtime_cache", "set_runtime_cache"),
}
# what the lean and dispatch runtimes, which cannot build, do not have of it: classes, and a member
LEAN_LACKS = (
    "Builder",
    "IBuilderConfig",
    "INetworkDefinition",
    "ITensor",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "TensorFormat",
    "ICudaEngine.get_tensor_format",
)
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
# pybind11 does not say that a call may give None: what C++ gives as a null pointer
MAY_BE_NONE = (
    "build_serialized_network",
    "create_execution_context",
    "create_runtime_cache",
    "create_runtime_config",
    "create_timing_cache",
    "deserialize_cuda_engine",
    "serialize",
)
PLAIN = {
    "typing.SupportsInt": "int",
    "typing.SupportsFloat": "float",
    "typing_extensions.Buffer": "Buffer",
    "buffer": "Buffer",
    "tuple": "tuple[int, ...]",
    "list": "list[int]",
    "capsule": "Any",
    "handle": "Any",
}


def describe(module: Any) -> Members:
    """What imported bindings have of what this package calls."""
    found: Members = {}
    for used in (USED, USED_OF_RTX):
        for name, members in used.items():
            kind = getattr(module, name, None)
            if kind is not None:
                found.setdefault(name, {}).update(_class(module, kind, name, members))
    return found


def _class(module: Any, kind: Any, name: str, members: tuple[str, ...]) -> dict[str, list[str]]:
    if hasattr(kind, "__members__"):
        own = {member: [f"{member}: TensorRt.{name}"] for member in members if member in kind.__members__}
        return {"name": ["name: str"], "__int__": ["def __int__(self) -> int: ..."], **own}
    described = {member: _member(module, name, member) for member in members}
    return {member: lines for member, lines in described.items() if lines}


def _member(module: Any, owner: str, name: str) -> list[str]:
    if name == "Severity":
        severities = "".join(f"\n    {severity}: TensorRt.ILogger.Severity" for severity in SEVERITIES)
        return [f"class Severity:\n    name: str{severities}"]
    if name == "__buffer__":
        return ["def __buffer__(self, flags: int, /) -> memoryview: ..."]
    found = vars(getattr(module, owner)).get(name)
    if found is None:
        return []
    if isinstance(found, property):
        text = (found.fget or found.fset).__doc__ or ""
        hint = _type(text.rpartition("->")[2])
        return [f"@property\ndef {name}(self) -> {hint}: ..." if found.fset is None else f"{name}: {hint}"]
    lines = [line for line in found.__doc__.splitlines() if re.match(rf"(\d+\. )?{name}\(self", line)]
    assert lines, f"{owner}.{name}: {found.__doc__}"
    # a call with a C++ type that the module does not have can only fail: the lean runtime has some
    lines = [line for line in lines if all(hasattr(module, kind) for kind in re.findall(r"nvinfer1::(\w+)", line))]
    return [_signature(name, line) for line in lines]


def _signature(name: str, line: str) -> str:
    """A pybind11 signature, such as "get_tensor_name(self: m.ICudaEngine, index: int) -> str", as Python."""
    inside, _, returns = line.partition("(")[2].rpartition(") -> ")
    parameters = ["self"]
    for parameter in _split(inside)[1:]:
        label, _, rest = parameter.partition(": ")
        hint, equals, _ = rest.partition(" = ")
        parameters.append(f"{label}: {_type(hint, equals)}{' = ...' if equals else ''}")
    none = " | None" if name in MAY_BE_NONE else ""
    return f"def {name}({', '.join(parameters)}) -> {_type(returns)}{none}: ..."


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char in "[(<") - (char in "])>" and text[index - 1] != "-")
        if char == "," and not depth:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()]


def _type(text: str, default: str = "") -> str:
    text = re.sub(r"\b(tensorrt\w*\.)+|nvinfer1::|nvonnxparser::", "", text.strip())
    text = re.sub(r"[\w.]+(?!\w*\[)", lambda found: _name(found[0]), text)
    return f"{text} | None" if default and "None" not in text and text[:9] == "TensorRt." else text


def _name(name: str) -> str:
    if name in PLAIN:
        return PLAIN[name]
    top = name.partition(".")[0]
    if top in USED or top in USED_OF_RTX:
        return f"TensorRt.{name}"
    known = ("int", "str", "bool", "float", "bytes", "None", "list", "tuple", "dict", "Any")
    if name in ("Dims", "Dims4"):
        return "Sequence[int]"
    return name if name in known else "Any"


def stub_of(members: Members, says: str) -> str:
    """The text of a stub."""
    lines = [f'"""{says} Made by generate.py."""', ""]
    lines += ["from collections.abc import Sequence", "from typing import Any, overload", ""]
    lines += ["from typing_extensions import Buffer", "", "class TensorRt:"]
    lines += ["    __version__: str", *(["    float16: TensorRt.DataType"] if "DataType" in members else []), ""]
    for name, own in members.items():
        texts = [f"@overload\n{text}" if len(all_) > 1 else text for all_ in own.values() for text in all_]
        body = "\n".join(texts) or "pass"
        lines += [f"    class {name}:", *(f"        {line}" for line in body.splitlines()), ""]
    return "\n".join(lines).rstrip() + "\n"


def read_stub(path: Path) -> Members:
    """What `stub_of` wrote."""
    (module,) = (node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef))
    found: Members = {}
    for kind in module.body:
        if isinstance(kind, ast.ClassDef):
            own = found.setdefault(kind.name, {})
            for part in kind.body:
                if isinstance(part, ast.FunctionDef):
                    part.decorator_list = [d for d in part.decorator_list if ast.unparse(d) != "overload"]
                    text = ast.unparse(part).replace(":\n    ...", ": ...")
                    own.setdefault(part.name, []).append(re.sub(r"\b(\w+: [^,()]+)=\.\.\.", r"\1 = ...", text))
                elif isinstance(part, ast.AnnAssign):
                    own[ast.unparse(part.target)] = [ast.unparse(part)]
                elif isinstance(part, ast.ClassDef):
                    own[part.name] = [ast.unparse(part)]
    return found


def parameters(text: str) -> list[str]:
    """The names of a method's parameters in a stub, without self."""
    return [argument.arg for argument in ast.parse(text).body[0].args.args[1:]]  # type: ignore[attr-defined]


def lean(members: Members) -> Members:
    """`members` less what the lean runtime lacks."""
    return {
        name: {member: texts for member, texts in own.items() if f"{name}.{member}" not in LEAN_LACKS}
        for name, own in members.items()
        if name not in LEAN_LACKS
    }


def describe_installed(release: str) -> Members:
    """`describe` of the bindings that `make bindings` has put on this machine."""
    folder = ROOT / release
    search = {
        "PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[2]}",
        "LD_LIBRARY_PATH": str(folder / "libs"),
    }
    command = [sys.executable, "-m", "tests.bindings.generate", "describe", INSTALLED[release][2]]
    done = subprocess.run(command, env={**os.environ, **search}, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    found: Members = json.loads(done.stdout)
    return found


def _only(members: Members, used: dict[str, tuple[str, ...]]) -> Members:
    """The members that are in `used`."""
    return {
        name: {member: texts for member, texts in members[name].items() if member in (*own, "name", "__int__")}
        for name, own in used.items()
    }


def _in_both(one: Members, other: Members) -> Members:
    """The members of both, by their texts; what one of them can only read is read-only."""
    both: Members = {}
    for name, own in one.items():
        if name in other:
            both[name] = {}
            for member, texts in own.items():
                theirs = other[name].get(member, [])
                shared = [text for text in texts if text in theirs]
                if not shared and theirs and member.isidentifier() and "@property" in texts[0] + theirs[0]:
                    shared = [text for text in (*texts, *theirs) if text.startswith("@property")]
                if shared:
                    both[name][member] = shared
    return both


# --- 10.3 and 10.13, from the sources


def _in_source(members: Members, sources: dict[str, dict[str, list[list[str]]]]) -> Members:
    """`members` less what the sources do not bind."""
    kept: Members = {}
    for name, own in members.items():
        if name in sources:
            bound = sources[name]
            kept[name] = {}
            for member, texts in own.items():
                texts = [text for text in texts if _is_bound(member, text, bound)]
                if texts:
                    kept[name][member] = texts
    return kept


def _is_bound(member: str, text: str, bound: dict[str, list[list[str]]]) -> bool:
    if member in ("name", "__int__", "__buffer__", "Severity"):
        return True
    labels = bound.get(member)
    if labels is None:
        return False
    return not text.startswith("def ") or not any(labels) or parameters(text) in labels


def _defined(clone: Path, tag: str) -> dict[str, dict[str, list[list[str]]]]:
    """Class -> its members as the sources bind them."""
    found: dict[str, dict[str, list[list[str]]]] = {}
    for file in SOURCES:
        command = ["git", "-C", str(clone), "show", f"{tag}:python/{file}"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for block in re.split(r"(?=py::(?:class_|enum_)<)", text)[1:]:
            name = re.search(r'[({]\s*\w+, "(\w+)"', block)
            if name is None:
                continue
            # the logger's own members follow those of the enumeration in it
            members = found.setdefault("ILogger" if name[1] == "Severity" else name[1], {})
            for part in re.split(r"(?=\.(?:def\w*|value)\()", block)[1:]:
                member = re.match(r'\.(?:def\w*|value)\(\s*"(\w+)"', part)
                labels = [a or b for a, b in re.findall(r'"(\w+)"_a|py::arg\("(\w+)"\)', part)]
                if member or part.startswith(".def(py::init"):
                    members.setdefault(member[1] if member else "__init__", []).append(labels)
    return found


def write(clone: Path) -> None:
    """Both stubs anew."""
    rtx = describe(importlib.import_module("tensorrt_rtx"))
    common = _only(rtx, USED)
    for release in ("10.16", "11.4"):
        common = _in_both(common, describe_installed(release))
    for tag in TAGS.values():
        common = _in_source(common, _defined(clone, tag))
    missing = [f"{name}.{member}" for name, own in USED.items() for member in own if member not in common.get(name, {})]
    assert not missing, f"not in every release: {missing}"
    STUBS.mkdir(exist_ok=True)
    STUB.write_text(stub_of(common, "What this package calls of TensorRT 10.3 to 11.4 and RTX 1.7, in each of them."))
    RTX_STUB.write_text(stub_of(_only(rtx, USED_OF_RTX), "What this package calls of TensorRT-RTX 1.7 alone."))


def main() -> None:
    command, *rest = sys.argv[1:]
    if command == "describe":
        module = importlib.import_module(rest[0])
        print(json.dumps(describe(getattr(module, "tensorrt", getattr(module, "tensorrt_lean", module)))))
    elif command == "lean":
        print(stub_of(lean(read_stub(STUB)), "What the lean runtime has of it."), end="")
    else:
        write(Path(command))


if __name__ == "__main__":
    main()
