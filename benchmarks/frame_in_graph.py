"""The frame's preparation inside the graph against beside it, per CPU backend: uint8 frame in, logits out.

    python benchmarks/frame_in_graph.py                 -> benchmarks/results/<cpu>/frame_in_graph.json

"beside" is runtime/frame.py and a float32 NCHW input. "in the graph" feeds the uint8 HWC BGR frame: on OpenVINO by its
own PrePostProcessor, on ONNX Runtime by Cast, Transpose, channel order and normalisation as nodes. The shipped model at
512x512, both in turn, round after round. The faster is what the runtime does: see `faster` in the result.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
import openvino
from machine import cpu, save
from onnx import TensorProto, helper, numpy_helper
from openvino.preprocess import ColorFormat, PrePostProcessor
from rich.console import Console

from refinenet_edge.build import build
from refinenet_edge.bundle import MODEL
from refinenet_edge.records import FrameSpec, Recipe
from refinenet_edge.runtime.frame import prepare
from refinenet_edge.runtime.openvino import CONFIG, OpenVinoSession
from refinenet_edge.runtime.ort import OrtSession
from refinenet_edge.scenes import VALIDATION, scene

Run = Callable[[np.ndarray], np.ndarray]
SPEC = FrameSpec((512, 512))


def openvino_in_graph(path: Path) -> Run:
    steps = PrePostProcessor(openvino.Core().read_model(path))
    frame = steps.input()
    frame.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    frame.tensor().set_color_format(ColorFormat.BGR)
    frame.model().set_layout(openvino.Layout("NCHW"))
    mean, scale = ([255 * value for value in values] for values in (SPEC.mean, SPEC.std))
    frame.preprocess().convert_element_type(openvino.Type.f32).convert_color(ColorFormat.RGB).mean(mean).scale(scale)
    request = openvino.Core().compile_model(steps.build(), "CPU", CONFIG).create_infer_request()
    return lambda image: np.asarray(request.infer({0: image[None]}, share_inputs=True, share_outputs=True)[0])


def onnxruntime_in_graph(path: Path) -> Run:
    model = onnx.load(path)
    graph, name = model.graph, model.graph.input[0].name
    shape = (1, 3, 1, 1)
    constants = {
        "order": np.array([2, 1, 0]),
        "gain": np.array([1 / (255 * value) for value in SPEC.std], np.float32).reshape(shape),
        "offset": np.array([-m / s for m, s in zip(SPEC.mean, SPEC.std, strict=True)], np.float32).reshape(shape),
    }
    graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in constants.items())
    nodes = [
        helper.make_node("Cast", ["frame"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["values"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["planes", "order"], ["rgb"], axis=1),
        helper.make_node("Mul", ["rgb", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], [name]),
    ]
    old = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes, *old])
    graph.input.append(helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, *(SPEC.size or ()), 3]))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda image: np.asarray(session.run(None, {"frame": image[None]})[0])


def beside(session: OpenVinoSession | OrtSession) -> Run:
    source, target = session.inputs[0].name, session.outputs[0].name
    return lambda image: session.run({source: prepare(image, SPEC)})[target]


@click.command(help=__doc__)
@click.option("--rounds", default=30, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(rounds: int, out: Path | None) -> None:
    frame = scene(VALIDATION, 0, (512, 512))[0]
    cells = {}
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(str(Path(folder) / "bundle"), checkpoint="scenes", backend="openvino")
        path = build(recipe).path / MODEL
        for backend, runs in {
            "openvino": {"beside": beside(OpenVinoSession(path)), "in the graph": openvino_in_graph(path)},
            "onnxruntime": {"beside": beside(OrtSession(path)), "in the graph": onnxruntime_in_graph(path)},
        }.items():
            first, second = (run(frame).copy() for run in runs.values())
            assert np.abs(first - second).max() < 1e-3 * np.abs(first).max(), backend
            times: dict[str, list[float]] = {who: [] for who in runs}
            for turn in range(rounds + 3):
                for who, run in runs.items():
                    start = time.perf_counter()
                    run(frame)
                    if turn >= 3:
                        times[who].append(1000 * (time.perf_counter() - start))
            ratios = [a / b for a, b in zip(times["in the graph"], times["beside"], strict=True)]
            medians = {who: statistics.median(found) for who, found in times.items()}
            faster = min(medians, key=medians.__getitem__)
            cells[backend] = {"ms": medians, "in_graph_over_beside": statistics.median(ratios), "faster": faster}
    Console().print_json(json.dumps(cells))
    record = {"cpu": cpu(), "rounds": rounds, "model": "rf_lw_mbv2", "size": [512, 512], "backends": cells}
    save(record, "frame_in_graph.json", out)


if __name__ == "__main__":
    main()
