"""Bundle -> two models in a repository of Triton Inference Server.

    NAME/            frames in, labels out: the Python backend runs triton_model.py, our runtime
      config.pbtxt
      labels.txt     class names, line = class
      1/model.py
      1/bundle/      the bundle, whole
    NAME_network/    the bare graph, prepared image in: model.plan for TensorRT, else model.onnx for ONNX Runtime
      config.pbtxt
      labels.txt
      1/model.plan

A request for NAME may have several frames. One for NAME_network has what its graph takes: one image, a fixed number of
them, or, where the bundle was built with a range from 1 on, so many as Triton puts together. `config.pbtxt` is written
through the messages of triton_config.py. A model that is there gets the next version, if it takes and gives the same;
what else was changed in its config.pbtxt, such as the number of instances, stays.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from refinenet_edge.bundle import MANIFEST, MODEL, PLAN, Bundle
from refinenet_edge.cluster.triton_config import ModelConfig, read_config, write_config
from refinenet_edge.errors import BuildError, InputError
from refinenet_edge.files import folder_beside, put_folder, write_synced
from refinenet_edge.records import ONE, TensorSpec
from refinenet_edge.runtime.first_run import ON_CPU

CONFIG, LABELS = "config.pbtxt", "labels.txt"
PREPROCESSING = "preprocessing"  # a parameter of the bare graph: what its client does to a byte x of a frame
MAX_BATCH = 8
KINDS = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
}
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)


def export(bundle: Bundle, repository: Path, name: str | None = None) -> tuple[Path, Path]:
    """Put both models of `bundle` into `repository`; the folders of their new versions.

    `name` None: the bundle folder's. Raises `InputError` for a name or a model there that does not fit, `BuildError`
    when the disk refuses; each version appears whole or not at all.
    """
    name = bundle.path.resolve().name if name is None else name
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a model: give --name of letters, digits, '.', '_' and '-'")
    plan = PLAN if has_plan(bundle) else MODEL
    inside = {f"bundle/{file}": partial(bundle.read, file) for file in (MANIFEST, *bundle.manifest.files)}
    network = partial(bundle.read, PLAN) if plan == PLAN else bundle.read_graph
    models: tuple[tuple[Any, dict[str, Callable[[], bytes]]], ...] = (
        (frames_config(bundle, name), {"model.py": Path(__file__).with_name("triton_model.py").read_bytes, **inside}),
        (network_config(bundle, f"{name}_network"), {plan: network}),
    )
    for config, _ in models:
        _require_fitting(repository / config.name, config, bundle)
    first, second = (_put(repository, config, bundle, files) for config, files in models)
    return first, second


def has_plan(bundle: Bundle) -> bool:
    """Whether the bundle has a plan that Triton's TensorRT backend loads; it has none for TensorRT-RTX."""
    return bundle.manifest.backend == "tensorrt" and PLAN in bundle.manifest.files


def frames_config(bundle: Bundle, name: str) -> Any:
    """The `ModelConfig` of frames to labels: an encoded image, or BGR frames of one size.

    Up to as many at once as the bundle takes, or `MAX_BATCH` where it takes one: those that wait, one after the other.
    """
    config = _config(bundle, name)
    config.backend = "python"
    config.max_batch_size = MAX_BATCH if bundle.manifest.batch == ONE else bundle.manifest.batch.most
    config.dynamic_batching.SetInParent()  # what waits goes in together, nothing waits for more
    for tensor, dims in (("image", [-1]), ("frame", [-1, -1, 3])):
        config.input.add(name=tensor, data_type="TYPE_UINT8", dims=dims, optional=True, allow_ragged_batch=True)
    config.output.add(name="labels", data_type="TYPE_UINT8", dims=[-1, -1], label_filename=LABELS)
    config.parameters["backend"].string_value = bundle.manifest.backend
    return config


def network_config(bundle: Bundle, name: str) -> Any:
    """The `ModelConfig` of the bare graph, its shapes as the manifest has them.

    Without the first axis where Triton may put requests together: from one frame to the most that the graph takes.
    """
    config = _config(bundle, name)
    plan, batch = has_plan(bundle), bundle.manifest.batch
    together = batch.least == 1 and not batch.fixed
    if together:
        config.max_batch_size = batch.most
        config.dynamic_batching.SetInParent()
    config.platform = "tensorrt_plan" if plan else "onnxruntime_onnx"
    for specs, add in ((bundle.manifest.inputs, config.input.add), (bundle.manifest.outputs, config.output.add)):
        for spec in specs:
            dims = [side if isinstance(side, int) else -1 for side in spec.shape[together:]]
            tensor = add(name=spec.name, data_type=_kind(spec), dims=dims)
            # as runtime/tensorrt/builder.py lets a plan's ends lie: channel-last, in eights
            channels = spec.shape[1]
            if plan and spec.dtype == "float16" and isinstance(channels, int) and channels % 8 == 0:
                tensor.is_non_linear_format_io = True
    config.output[0].label_filename = LABELS
    config.parameters[PREPROCESSING].string_value = bundle.manifest.frame.preprocessing
    return config


def _config(bundle: Bundle, name: str) -> Any:
    config = ModelConfig(name=name)
    config.version_policy.latest.num_versions = 1
    if bundle.manifest.backend in ON_CPU:
        config.instance_group.add(count=1, kind="KIND_CPU")
    else:  # the runtime takes the first GPU it sees: one server for each
        config.instance_group.add(count=1, kind="KIND_GPU", gpus=[0])
    return config


def _kind(spec: TensorSpec) -> str:
    if spec.dtype not in KINDS:
        raise InputError(f"{spec.name} is {spec.dtype}: Triton is given {', '.join(KINDS)}")
    return KINDS[spec.dtype]


def _labels(bundle: Bundle) -> str:
    return "".join(f"{' '.join(name.split())}\n" for name in bundle.manifest.labels.names)


def _require_fitting(folder: Path, config: Any, bundle: Bundle) -> None:
    """What a client relies on is the same in the model that is there."""
    if not folder.exists():
        return
    other = f"{folder} is there and is another model: remove it, or give another --name"
    try:
        there = read_config((folder / CONFIG).read_text("utf-8"))
        labels = (folder / LABELS).read_text("utf-8")
    except (OSError, ValueError) as exc:
        raise InputError(other) from exc
    fields = ("name", "platform", "backend", "input", "output")
    same = there.parameters.get(PREPROCESSING) == config.parameters.get(PREPROCESSING)
    if not same or labels != _labels(bundle) or any(getattr(there, f) != getattr(config, f) for f in fields):
        raise InputError(other)


def _put(repository: Path, config: Any, bundle: Bundle, files: dict[str, Callable[[], bytes]]) -> Path:
    folder: Path = repository / config.name
    versions = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    version = str(max(versions, default=0) + 1)
    try:
        # not in the repository: a server that watches it would take this for a model
        with folder_beside(repository) as beside:
            for name, read in files.items():
                (beside / version / name).parent.mkdir(parents=True, exist_ok=True)
                write_synced(beside / version / name, read())
            if folder.exists():
                put_folder(beside / version, folder / version)
            else:
                write_synced(beside / CONFIG, write_config(config).encode())
                write_synced(beside / LABELS, _labels(bundle).encode())
                repository.mkdir(parents=True, exist_ok=True)
                put_folder(beside, folder)
    except OSError as exc:
        raise BuildError(f"{folder} cannot be written: {exc}; free the space or name another --repository") from exc
    return folder / version
