"""Labels that INT8 keeps where one scale holds what reaches far and what does not, by what could be done about it.

    python benchmarks/uneven_int8.py      a minute    -> benchmarks/results/<cpu>/uneven_int8.json

A small network of random weights, where a Concat joins maps of which one reaches 1, 30 or 300 times as far as the
other, or one channel of a map does; the next convolution's weights make up for it. ONNX Runtime runs the Q/DQ as it is
written. Ways: Q/DQ as the toolkit puts it, by each method; a pair for each input of the Concat before that of its
output; a pair for each input alone, so that the convolution reads floats; that convolution left float, as a budget
(`--min-agreement`, `--max-miou-drop`) does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import onnx
import onnx_ir as ir
from machine import cpu, save

from refinenet_edge.build import parity
from refinenet_edge.calibration import calibrate, calibration_frames, parse_method
from refinenet_edge.fusion import fuse
from refinenet_edge.graph import copy_of, to_bytes
from refinenet_edge.onnx_import import read_onnx
from refinenet_edge.precision import qdq
from refinenet_edge.precision.placement import OPENVINO, TENSORRT, Placement
from refinenet_edge.records import FrameSpec, Ranges
from refinenet_edge.runtime.frame import prepare

SIZE, RATIOS = (64, 96), (1, 30, 300)
METHODS = ("percentile:99.99", "minmax", "mse", "entropy")
JOINED = (
    "p = Conv<pads=[1,1,1,1]>(g, a) l = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(g) q = Conv<pads=[1,1,1,1]>(l, b)"
)
BODIES = {
    "concat": f"{JOINED} pr = Relu(p) qr = Relu(q) uneven = Concat<axis=1>(pr, qr)",
    "channel": "p = Conv<pads=[1,1,1,1]>(g, a) uneven = Relu(p)",
}
WHOLE = """<ir_version: 9, opset_import: ["" : 19]> uneven (float[1,3,64,96] x) => (float[1,6,h,w] y) {{
h = Conv<pads=[1,1,1,1], strides=[2,2]>(x, u) g = Relu(h) {body}
m = Conv<pads=[1,1,1,1]>(uneven, c) n = Relu(m) y = Conv(n, w) }}"""


def network(kind: str, ratio: int, folder: Path) -> ir.Model:
    """The fused network in which something reaches `ratio` times as far as the rest."""
    random = np.random.default_rng(3)
    draw = lambda *shape: (random.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)  # noqa: E731
    weights = {"u": 3 * draw(32, 3, 3, 3), "a": draw(16, 32, 3, 3), "b": ratio * draw(16, 32, 3, 3)}
    weights |= {"c": draw(32, 32, 3, 3), "w": draw(6, 32, 1, 1)}
    weights["w"] -= weights["w"].mean(1, keepdims=True)
    far = slice(16, None)
    if kind == "channel":
        weights["a"] = np.concatenate([weights["a"], weights.pop("b") / ratio])
        weights["a"][0] *= ratio
        far = slice(0, 1)
    weights["c"][:, far] /= ratio
    proto = onnx.parser.parse_model(WHOLE.format(body=BODIES[kind]))
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    path = folder / "uneven.onnx"
    onnx.save(proto, path)
    model = read_onnx(path, SIZE)
    fuse(model)
    return model


def ways(model: ir.Model, ranges: Ranges, placement: Placement) -> dict[str, ir.Model]:
    """What else could be done, in one placement."""
    (uneven,) = (value for node in model.graph for value in node.outputs if value.name == "uneven")
    float_one = [str(node.name) for node in uneven.consumers()]
    found = {"convolution float": qdq.quantise(copy_of(model), ranges, placement, float_one)}
    if any(node.op_type == "Concat" for node in model.graph):
        both, inputs = (qdq.quantise(copy_of(model), ranges, placement, keep) for keep in ([], float_one))
        found["inputs and output"], found["inputs alone"] = (
            _inputs_quantised(each, ranges, placement) for each in (both, inputs)
        )
    return found


def _inputs_quantised(model: ir.Model, ranges: Ranges, placement: Placement) -> ir.Model:
    """`model` with a pair for each input of its Concat."""
    pairs = qdq._Pairs(model.graph, ranges, placement, qdq.Names(model.graph))
    (concat,) = (node for node in model.graph if node.op_type == "Concat")
    for index, value in enumerate(concat.inputs):
        assert value is not None
        pairs.put(concat, index, value)
    model.graph.sort()
    return model


def kept(model: ir.Model, frames: parity.Inputs, expected: Mapping[str, np.ndarray]) -> float:
    """Percent of the labels that float32 gives."""
    found = parity.logits(to_bytes(model), frames)
    return 100 * float(np.mean([(found[n].argmax(1) == expected[n].argmax(1)).mean() for n in frames]))


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path))
def main(out: Path | None) -> None:
    spec = FrameSpec(SIZE)
    calib, judged = calibration_frames("scenes:2:16"), calibration_frames("scenes:7:6")
    frames = {f"{i}": prepare(judged.read(i), spec) for i in range(len(judged))}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in BODIES:
            for ratio in RATIOS:
                model = network(kind, ratio, Path(folder))
                expected = parity.logits(to_bytes(model), frames)
                ranges = {method: calibrate(model, spec, calib, parse_method(method)) for method in METHODS}
                for placement in (OPENVINO, TENSORRT):
                    built = {m: qdq.quantise(copy_of(model), found, placement) for m, found in ranges.items()}
                    built |= ways(model, ranges[METHODS[0]], placement)
                    share = {way: round(kept(each, frames, expected), 2) for way, each in built.items()}
                    rows.append({"kind": kind, "ratio": ratio, "placement": placement.name, "labels_kept": share})
                    print(kind, ratio, placement.name, share)
    print(f"written to {save({'cpu': cpu(), 'rows': rows}, 'uneven_int8.json', out)}")


if __name__ == "__main__":
    main()
