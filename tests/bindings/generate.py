"""The TensorRT bindings of each release, as far as this package calls them, as one stub file for each.

    python -m tests.bindings.generate tensorrt_rtx "RTX 1.7.1.116"     from the bindings that import here
    python -m tests.bindings.generate v10.3.0 10.3 CLONE 10.16         from NVIDIA's sources at a tag

It prints the stub. The others of PyPI import, as tensorrt_bindings and tensorrt_lean_bindings, with
build/bindings/<release> on PYTHONPATH and its libs on LD_LIBRARY_PATH. Releases that PyPI has are described by their
bindings' own signatures. 10.3 and 10.13 are not to be had without a device: which members they have and what the
parameters are called is read in NVIDIA/TensorRT at their tags, and the types are those of 10.16. `TensorRt` in a stub
is the module: `trt: type[TensorRt]`.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Members = dict[str, list[list[str]]]  # name -> the parameters' names of each overload, where the sources name them

HERE = Path(__file__).parent
SOURCES = (
    "src/infer/pyCore.cpp",
    "src/infer/pyFoundationalTypes.cpp",
    "src/infer/pyGraph.cpp",
    "src/parsers/pyOnnx.cpp",
)
STUB = "tensorrt_stubs.pyi"

# class -> the members that this package calls; of enumerations too
USED: dict[str, tuple[str, ...]] = {
    "Builder": (
        "__init__",
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    ),
    "BuilderFlag": ("VERSION_COMPATIBLE", "REFIT"),
    "ComputeCapability": (),
    "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE",),
    "DataType": ("FLOAT", "HALF", "INT8", "UINT8", "INT32", "INT64", "BOOL"),
    "EngineInspector": ("get_engine_information",),
    "ErrorCodeTRT": (),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "HardwareCompatibilityLevel": ("AMPERE_PLUS",),
    "IBuilderConfig": (
        "set_memory_pool_limit",
        "progress_monitor",
        "profiling_verbosity",
        "num_compute_capabilities",
        "set_compute_capability",
        "add_optimization_profile",
        "set_flag",
        "hardware_compatibility_level",
        "create_timing_cache",
        "set_timing_cache",
    ),
    "ICudaEngine": (
        "num_io_tensors",
        "refittable",
        "num_optimization_profiles",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_format",
        "get_tensor_format_desc",
        "get_tensor_dtype",
        "get_tensor_shape",
        "get_tensor_profile_shape",
        "create_execution_context",
        "create_runtime_config",
        "create_engine_inspector",
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
    "IRuntimeCache": ("serialize", "deserialize"),
    "IRuntimeConfig": ("cuda_graph_strategy", "create_runtime_cache", "set_runtime_cache"),
    "ITensor": ("dtype", "shape", "allowed_formats"),
    "ITimingCache": ("serialize",),
    "LayerInformationFormat": ("JSON",),
    "MemoryPoolType": ("WORKSPACE",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "OnnxParser": ("__init__", "parse", "num_errors", "get_error"),
    "ParserError": ("desc", "node_name"),
    "ProfilingVerbosity": ("DETAILED",),
    "Refitter": ("__init__", "set_named_weights", "get_missing_weights", "refit_cuda_engine"),
    "Runtime": ("__init__", "error_recorder", "engine_host_code_allowed", "deserialize_cuda_engine"),
    "TensorFormat": ("LINEAR", "HWC8"),
    "TensorIOMode": ("INPUT", "OUTPUT"),
    "Weights": ("__init__",),
}
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
# pybind11 does not say that a call may give None; NVIDIA's documentation does
MAY_BE_NONE = (
    "build_serialized_network",
    "create_execution_context",
    "create_timing_cache",
    "deserialize_cuda_engine",
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


def stub_of(module: Any, release: str) -> str:
    """The stub of imported bindings."""
    lines = [f'"""TensorRT {release}: what this package calls of it. Made from its bindings by generate.py."""', ""]
    lines += ["from collections.abc import Sequence", "from typing import Any, overload", ""]
    lines += ["from typing_extensions import Buffer", "", "class TensorRt:"]
    lines += ["    __version__: str", "    float16: TensorRt.DataType", ""]
    for name, members in USED.items():
        kind = getattr(module, name, None)
        if kind is not None:
            lines += [f"    {line}".rstrip() for line in _class(module, name, members)]
    return "\n".join(lines).rstrip() + "\n"


def _class(module: Any, name: str, members: tuple[str, ...]) -> Iterator[str]:
    kind = getattr(module, name)
    yield f"class {name}:"
    empty = True
    if hasattr(kind, "__members__"):
        empty = False
        yield "    name: str"
        yield "    def __int__(self) -> int: ..."
        for member in members:
            if member in kind.__members__:
                yield f"    {member}: TensorRt.{name}"
    else:
        for member in members:
            for line in _member(module, name, member):
                empty = False
                yield f"    {line}"
    if empty:
        yield "    pass"
    yield ""


def _member(module: Any, owner: str, name: str) -> Iterator[str]:
    if name == "Severity":
        yield "class Severity:"
        yield "    name: str"
        yield from (f"    {severity}: TensorRt.ILogger.Severity" for severity in SEVERITIES)
        return
    if name == "__buffer__":
        yield "def __buffer__(self, flags: int, /) -> memoryview: ..."
        return
    found = vars(getattr(module, owner)).get(name)
    if isinstance(found, property):
        text = (found.fget or found.fset).__doc__ or ""
        hint = _type(text.rpartition("->")[2])
        if found.fset is None:
            yield "@property"
            yield f"def {name}(self) -> {hint}: ..."
        else:
            yield f"{name}: {hint}"
    elif found is not None:
        lines = [line for line in found.__doc__.splitlines() if re.match(rf"(\d+\. )?{name}\(self", line)]
        assert lines, f"{owner}.{name}: {found.__doc__}"
        # a call with a C++ type that the module does not have can only fail: the lean runtime has some
        lines = [line for line in lines if all(hasattr(module, kind) for kind in re.findall(r"nvinfer1::(\w+)", line))]
        signatures = [_signature(name, line) for line in lines]
        for signature in signatures:
            if len(signatures) > 1:
                yield "@overload"
            yield signature


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
    if top in USED:
        return f"TensorRt.{name}"
    known = ("int", "str", "bool", "float", "bytes", "None", "list", "tuple", "dict", "Any")
    if name in ("Dims", "Dims4"):
        return "Sequence[int]"
    return name if name in known else "Any"


# --- 10.3 and 10.13, from the sources


def stub_from_source(clone: Path, tag: str, release: str, types: str) -> str:
    """`types` (a stub), less what the sources at `tag` lack, with the parameters' names that they have."""
    found = _defined(clone, tag)
    tree = ast.parse(types)
    (module,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    keep: list[ast.stmt] = []
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            if node.name not in found:
                continue
            members = found[node.name]
            node.body = [part for part in node.body if _kept(part, members)] or [ast.Pass()]
            functions = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            for function in functions:
                if sum(other.name == function.name for other in functions) == 1:
                    function.decorator_list = [d for d in function.decorator_list if ast.unparse(d) != "overload"]
        keep.append(node)
    module.body = keep
    says = f"TensorRT {release}: what this package calls of it. Read in NVIDIA/TensorRT at {tag}, types of 10.16."
    tree.body[0] = ast.Expr(ast.Constant(says))
    return ast.unparse(tree) + "\n"


def _kept(part: ast.stmt, members: Members) -> bool:
    """Whether the sources have this member, or this overload of it."""
    if isinstance(part, ast.ClassDef):
        return True
    name = part.target.id if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) else ""
    if isinstance(part, ast.FunctionDef):
        name = part.name
    if name in ("name", "__int__", "__buffer__"):
        return True
    if isinstance(part, ast.FunctionDef) and any(members.get(name, ())):
        own = part.args.args[1:]
        if part.decorator_list:  # one of several
            return [argument.arg for argument in own] in members[name]
        (labels,) = members[name]
        for argument, label in zip(own, labels, strict=True):
            argument.arg = label
        return True
    return name in members


def _defined(clone: Path, tag: str) -> dict[str, Members]:
    """Class -> its members as the sources bind them."""
    found: dict[str, Members] = {}
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


def main() -> None:
    if len(sys.argv) == 3:
        module, release = importlib.import_module(sys.argv[1]), sys.argv[2]
        module = getattr(module, "tensorrt", getattr(module, "tensorrt_lean", module))
        print(stub_of(module, release), end="")
    else:
        tag, release, clone, types = sys.argv[1:]
        print(stub_from_source(Path(clone), tag, release, (HERE / types / STUB).read_text("utf-8")), end="")


if __name__ == "__main__":
    main()
