"""What a program imports: every name is there, light, typed, and says what it is, takes, gives and raises."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import refinenet_edge
from refinenet_edge import errors

ROOT = Path(refinenet_edge.__file__).parent
HEAVY = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "openvino")
EXPORT = {"build_bundle", "create", "load_checkpoint", "save_checkpoint"}  # need pip install 'refinenet-edge[export]'
ERRORS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}


def python(code: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], check=True)


def test_a_type_checker_sees_what_a_program_gets() -> None:
    imports = {
        (node.module, alias.name, alias.asname or alias.name)
        for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("refinenet_edge.")
        for alias in node.names
    }
    assert sorted(public for _, _, public in imports) == refinenet_edge.__all__
    for module, name, public in imports:
        assert getattr(refinenet_edge, public) is getattr(importlib.import_module(str(module)), name)
    assert (ROOT / "py.typed").is_file()


def test_the_package_itself_imports_nothing_of_others() -> None:
    python("""
        import sys
        before = set(sys.modules)
        import refinenet_edge
        assert set(refinenet_edge.__all__) <= set(dir(refinenet_edge))
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        assert new <= {"refinenet_edge", *sys.stdlib_module_names}, new
    """)


def test_what_runs_a_bundle_needs_none_of_what_builds_one() -> None:
    light = sorted(set(refinenet_edge.__all__) - EXPORT)
    python(f"""
        import sys
        for heavy in {HEAVY!r}:
            sys.modules[heavy] = None
        from refinenet_edge import {", ".join(light)}
    """)


def test_an_unknown_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'refinenet_edge' has no attribute 'Segmentor'"):
        refinenet_edge.Segmentor  # noqa: B018 (the lookup is the test)


def packages() -> list[str]:
    parts = (path.parent.relative_to(ROOT.parent).parts for path in sorted(ROOT.rglob("__init__.py")))
    return [".".join(name) for name in parts]


def public() -> Iterator[Any]:
    """(package.name, function or class) of every `__all__`, once; what else is public is data."""
    seen = set()
    for package in map(importlib.import_module, packages()):
        for name in getattr(package, "__all__", ()):
            thing = getattr(package, name)
            if isinstance(thing, FunctionType | type) and thing.__module__.startswith("refinenet_edge"):
                if thing not in seen:
                    yield pytest.param(thing, id=f"{package.__name__}.{name}")
                seen.add(thing)


PUBLIC = list(public())


def functions(thing: Any) -> Iterator[FunctionType]:
    """The function itself, or the public methods of a class, which `__init__` is one of."""
    if isinstance(thing, FunctionType):
        yield thing
    else:
        for name, member in vars(thing).items():
            inner = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)))
            own = isinstance(inner, FunctionType) and inner.__module__ == thing.__module__
            asked = not name.startswith("_") or name in ("__init__", "__post_init__", "__call__")
            if own and asked and inner.__qualname__.startswith(thing.__qualname__):
                yield inner


@pytest.mark.parametrize("thing", PUBLIC)
def test_a_public_name_says_what_it_is(thing: Any) -> None:
    said = thing.__doc__ or ""
    assert said.strip()
    assert not said.startswith(f"{thing.__name__}("), "the docstring is the one that dataclass makes"


@pytest.mark.parametrize("thing", PUBLIC)
def test_every_parameter_and_result_of_a_public_name_is_typed(thing: Any) -> None:
    for function in functions(thing):
        signature = inspect.signature(function)
        names = [name for name in signature.parameters if name not in ("self", "cls")]
        assert [name for name in names if signature.parameters[name].annotation is inspect.Parameter.empty] == []
        assert signature.return_annotation is not inspect.Signature.empty or function.__name__ == "__post_init__"


def raised(function: Callable[..., Any], seen: set[object] | None = None) -> set[str]:
    """The errors of ours that the body raises, or the private functions of its module that it calls."""
    seen = set() if seen is None else seen
    seen.add(function)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):  # made by dataclass
        return set()
    names = set()
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else node
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        helper = inspect.unwrap(vars(sys.modules[function.__module__]).get(call.func.id, len))
        if isinstance(node, ast.Raise):  # an error, or what a helper makes
            names |= {call.func.id, str(getattr(helper, "__annotations__", {}).get("return"))}
        if call.func.id.startswith("_") and isinstance(helper, FunctionType) and helper not in seen:
            names |= raised(helper, seen)
    return names & set(ERRORS)


@pytest.mark.parametrize("thing", PUBLIC)
def test_a_public_name_names_the_errors_that_it_raises(thing: Any) -> None:
    missing = {
        f"{function.__qualname__}: {name}"
        for function in functions(thing)
        for name in raised(function)
        if not any(f"`{kind.__name__}`" in f"{function.__doc__} {thing.__doc__}" for kind in ERRORS[name].__mro__)
    }
    assert not missing


@pytest.mark.parametrize("thing", PUBLIC)
def test_an_array_of_a_public_name_has_its_shape_or_type_in_words(thing: Any) -> None:
    for function in functions(thing):
        said = f"{function.__doc__} {thing.__doc__}"
        if any("NDArray" in str(annotation) for annotation in function.__annotations__.values()):
            assert re.search(r"\d+x|x\d|HxW|int\d+|float|bool|shape", said), function.__qualname__
