"""The graph of a bundle, which is not trusted, for what looks at its nodes."""

import contextlib
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from refinenet_edge.bundle import MODEL, Bundle
from refinenet_edge.errors import BundleError, GraphError, first_line
from refinenet_edge.graph.batch import fix_batch
from refinenet_edge.records import ONE

MAX_NODES = 20_000


def read_graph(bundle: Bundle, frames: int = 1) -> ir.Model:
    """The graph of a bundle for a number of `frames` at once. Raises `BundleError`, and `GraphError` as below."""
    data = bundle.read_graph()
    try:
        proto = onnx.load_model_from_string(data)
        onnx.checker.check_model(proto)  # attributes, the number of inputs, no node before what it reads
        model = ir.from_proto(proto)
    except Exception as exc:  # protobuf and onnx-ir raise what they like on a damaged file
        raise BundleError(f"bundle {bundle.path}: {MODEL} cannot be read: {exc}{bundle.advice}") from exc
    ends = len(model.graph.inputs), len(model.graph.outputs)
    if ends != (1, 1) or len(model.graph) > MAX_NODES:
        said = f"{ends[0]} inputs, {ends[1]} outputs and {len(model.graph)} nodes, not one, one and up to {MAX_NODES}"
        raise BundleError(f"bundle {bundle.path}: {MODEL} has {said}{bundle.advice}")
    if bundle.manifest.batch == ONE:
        return model
    with impossible_nodes():
        return fix_batch(model, frames)


@contextlib.contextmanager
def impossible_nodes() -> Iterator[None]:
    """`GraphError` where a node has a shape or an attribute that no node of its operator has."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as exc:
        said = f"{type(exc).__name__}: {first_line(exc)}"
        raise GraphError(f"the graph has a node that its operator cannot be ({said}): build it again") from exc
