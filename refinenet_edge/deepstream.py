"""Bundle -> a folder for DeepStream's Gst-nvinfer: its configuration of a segmentation network, and what that names.

    config_infer.txt   keys of nvinfer's [property] group (docs.nvidia.com/metropolis/deepstream, Gst-nvinfer)
    model.onnx         the bundle's graph, ending with a Softmax
    labels.txt         class names, line = class
    colours.csv        their colours, for what draws them: nvinfer has none

nvinfer takes a pixel for the class of the largest value above a threshold that is not negative, so logits would leave
pixels without a class: the graph ends with probabilities. It knows one scale for all channels, y = scale · (x - mean of
the channel): a standard deviation for each becomes a division in the graph. What it pads a frame with is black before
that, where ours is zero after it: letterboxed networks are refused where the two differ.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass, ShapeInferencePass

from refinenet_edge.bundle import MODEL, Bundle
from refinenet_edge.errors import BuildError, InputError
from refinenet_edge.files import folder_beside, put_folder, write_synced
from refinenet_edge.graph import Names, replace_uses
from refinenet_edge.records import FrameSpec, Manifest

CONFIG, LABELS, COLOURS, ENGINE = "config_infer.txt", "labels.txt", "colours.csv", "model.plan"
PROBABILITIES = "probabilities"
MODES = {"fp32": 0, "int8": 1, "fp16": 2}  # nvinfer's network-mode
BILINEAR = 1  # of NvBufSurfTransform_Inter


def export(bundle: Bundle, folder: Path) -> Path:
    """Write the new `folder` for `bundle`; its configuration.

    Raises `InputError` for a bundle that nvinfer cannot run as it is meant, or a folder that is there, `BuildError`
    when the disk refuses: it appears whole or not at all.
    """
    manifest = bundle.manifest
    _require_suited(manifest)
    if folder.exists():
        raise InputError(f"{folder} is there already: remove it, or name another")
    graph = graph_for_nvinfer(bundle.read_graph(), manifest.frame)
    names = [" ".join(name.replace(";", ",").split()) for name in manifest.labels.names]
    rows = (f"{i},{r},{g},{b}\n" for i, (r, g, b) in enumerate(manifest.labels.palette))
    files = {
        CONFIG: _written(manifest).encode(),
        MODEL: graph,
        LABELS: "".join(f"{name}\n" for name in names).encode(),
        COLOURS: ("class,red,green,blue\n" + "".join(rows)).encode(),
    }
    try:
        with folder_beside(folder) as beside:
            for name, data in files.items():
                write_synced(beside / name, data)
            put_folder(beside, folder)
    except OSError as exc:
        raise BuildError(f"{folder} cannot be written: {exc}; free the space or name another folder") from exc
    return folder / CONFIG


def properties(manifest: Manifest) -> dict[str, str]:
    """Nvinfer's [property] group for the network of `manifest`, which has one size."""
    spec = manifest.frame
    assert spec.size is not None
    scale, means, _ = _terms(spec)
    values: dict[str, object] = {
        "gpu-id": 0,
        "gie-unique-id": 1,
        "process-mode": 1,  # whole frames
        "network-type": 2,  # segmentation
        "batch-size": manifest.batch.most,
        "network-mode": MODES[manifest.precision],
        # without a calibration file nvinfer would build INT8 as something else: trtexec builds it
        **({} if manifest.precision == "int8" else {"onnx-file": MODEL}),
        "model-engine-file": ENGINE,
        "labelfile-path": LABELS,
        "num-detected-classes": len(manifest.labels.names),
        "infer-dims": f"3;{spec.size[0]};{spec.size[1]}",
        "network-input-order": 0,  # NCHW
        "model-color-format": 0 if spec.order == "rgb" else 1,
        "net-scale-factor": repr(scale),
        "offsets": ";".join(map(repr, means)),
        "maintain-aspect-ratio": int(spec.fit == "letterbox"),
        "symmetric-padding": int(spec.fit == "letterbox"),
        "scaling-filter": BILINEAR,
        "output-blob-names": PROBABILITIES,
        "segmentation-threshold": 0.0,
        "segmentation-output-order": 0,  # NCHW
    }
    return {key: str(value) for key, value in values.items()}


def graph_for_nvinfer(model: bytes, spec: FrameSpec) -> bytes:
    """A typed graph with plain ends, taking what nvinfer makes of a frame and giving the classes' probabilities."""
    typed = ir.from_proto(onnx.load_model_from_string(model))
    graph, names = typed.graph, Names(typed.graph)
    (image,), (logits,) = graph.inputs, graph.outputs
    _, _, divisors = _terms(spec)
    if divisors is not None:
        value = names.constant("nvinfer/std", np.array(divisors, np.float32).reshape(1, 3, 1, 1))
        divided = names.node("Div", [image, value], "nvinfer/normalise", shape=image.shape)
        replace_uses(image, divided.outputs[0], but=divided)
        graph.insert_before(graph[0], divided)
    softmax = names.node("Softmax", [logits], "nvinfer/softmax", {"axis": 1}, shape=logits.shape)
    softmax.outputs[0].name = PROBABILITIES
    graph.append(softmax)
    graph.outputs[:] = softmax.outputs
    checked = CheckerPass()(ShapeInferencePass()(typed).model).model
    return bytes(ir.to_proto(checked).SerializeToString(deterministic=True))


def _terms(spec: FrameSpec) -> tuple[float, tuple[float, ...], tuple[float, ...] | None]:
    """Nvinfer's scale and the mean of each channel, and what is left to divide by, where it is not the same for all."""
    means = tuple(spec.scale * mean for mean in spec.mean)
    if len(set(spec.std)) == 1:
        return 1 / (spec.scale * spec.std[0]), means, None
    return 1 / spec.scale, means, spec.std


def _require_suited(manifest: Manifest) -> None:
    """Raise `InputError` for a network that nvinfer would not run as it is meant."""
    again = "build it with --backend tensorrt --no-plan --io plain"
    (image,), (output,) = manifest.inputs, manifest.outputs
    if manifest.gives_labels:
        raise InputError(
            f"nvinfer makes labels of probabilities, this bundle gives labels: {again}, without --gives labels"
        )
    if image.dtype != "float32" or output.dtype != "float32" or image.shape[1] != 3:
        raise InputError(
            f"nvinfer feeds float32 1x3xHxW, this bundle takes {image.dtype} with padded channels: {again}"
        )
    if manifest.precision not in MODES or (
        manifest.precision == "int8" and not manifest.backend.startswith("tensorrt")
    ):
        raise InputError(f"nvinfer has no {manifest.precision} as it is in a bundle for {manifest.backend}: {again}")
    if manifest.frame.size is None:
        raise InputError(f"nvinfer takes networks of one size, this one takes any: {again}, without --dynamic")
    if manifest.batch.least > 1:
        raise InputError(
            f"nvinfer sends as many frames at once as have come, this bundle takes {manifest.batch}: {again}, with "
            f"--batch 1:{manifest.batch.most}"
        )
    if manifest.frame.fit == "crop":
        raise InputError("nvinfer crops no frames: build it with --resize stretch, or crop before it")
    if manifest.frame.fit == "letterbox" and any(manifest.frame.mean):
        raise InputError(
            "nvinfer pads a frame with black before it subtracts the mean, this network is letterboxed with zeros "
            "after it: build it with --resize stretch, or prepare frames with Gst-nvdspreprocess"
        )


def _written(manifest: Manifest) -> str:
    lines = "".join(f"{key}={value}\n" for key, value in properties(manifest).items())
    command = f"trtexec --onnx={MODEL} --saveEngine={ENGINE} --stronglyTyped"
    if not (batch := manifest.batch).fixed:
        (image,) = manifest.inputs
        sides = "x".join(map(str, image.shape[1:]))
        for option, frames in (("min", batch.least), ("opt", batch.best), ("max", batch.most)):
            command += f" --{option}Shapes={image.name}:{frames}x{sides}"
    return (
        "# Gst-nvinfer, whole frames. The engine, once on the machine that runs it:\n"
        f"#   {command}\n"
        f"[property]\n{lines}"
    )
