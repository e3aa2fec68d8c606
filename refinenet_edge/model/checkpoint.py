"""Checkpoints: ours and the ports' published layouts -> a network of ours, loaded strictly.

    read (weights only) -> unwrap -> recognise the layout -> rename the keys -> load strictly

Known layouts: refinenet-pytorch and light-weight-refinenet (ResNet 50, 101, 152 and MobileNet-v2), DenseTorch's split
of the latter into encoder `0.` and decoder `1.`, ACRV's snapshots of them all, and our own. Every file is untrusted:
no code in it is run, its size is bounded, and its values must be finite.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from refinenet_edge.errors import CheckpointError, InputError
from refinenet_edge.files import write_atomically
from refinenet_edge.model.blocks import CrpOrder
from refinenet_edge.model.encoders import RESNET_STAGES
from refinenet_edge.model.refinenet import MODELS, ModelSpec, SegmentationNet, build

logger = logging.getLogger(__name__)

MAX_BYTES = 4 << 30
# weights that ship with the package: what `--checkpoint NAME` finds when there is no such file
SHIPPED = {"scenes": Path(__file__).parents[1] / "weights" / "rf_lw_mbv2_scenes.safetensors"}
SPEC_KEY = "refinenet_edge.spec"
WRAPPERS = ("segmenter", "model", "state_dict", "weights")
SHOWN_KEYS = 4

State = dict[str, Tensor]

# numpy scalars in training checkpoints of light-weight-refinenet and DenseTorch (`best_val`), under both of their names
_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_GLOBALS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(t)) for t in (np.float64, np.float32, np.int64, np.int32)},
]

# published name -> ours; k counts the ports' stages, coarse to fine, and refine{5 - k} is the same block
_RESNET_DECODER: tuple[tuple[str, Callable[[int], str]], ...] = (
    (r"p_ims1d2_outl(\d)_dimred", lambda k: f"refine{5 - k}.adapt.0.0"),
    (r"adapt_stage(\d)_b2_joint_varout_dimred", lambda k: f"refine{5 - k}.mrf.convs.0"),
    (r"mflow_conv_g(\d)_b3_joint_varout_dimred", lambda k: f"refine{4 - k}.mrf.convs.1"),
)
_RESNET_CHAINS: tuple[tuple[str, Callable[[int, int], str]], ...] = (
    (r"adapt_stage(\d)_b\.0\.(\d)_conv", lambda k, i: f"refine{5 - k}.adapt.0.{i}.conv1"),
    (r"adapt_stage(\d)_b\.0\.(\d)_conv_relu_varout_dimred", lambda k, i: f"refine{5 - k}.adapt.0.{i}.conv2"),
    (r"mflow_conv_g(\d)_pool\.0\.(\d)_outvar_dimred", lambda k, i: f"refine{5 - k}.crp.convs.{i - 1}"),
    (r"mflow_conv_g(\d)_b\.0\.(\d)_conv", lambda k, i: f"refine{5 - k}.rcus.{i - 1}.conv1"),
    (r"mflow_conv_g(\d)_b\.0\.(\d)_conv_relu_varout_dimred", lambda k, i: f"refine{5 - k}.rcus.{i - 1}.conv2"),
)
_MOBILENET_CONVS = {
    "conv8": "refine4.mrf.convs.0",
    "conv7": "refine4.mrf.convs.1",
    "conv5": "refine3.mrf.convs.0",
    "conv6": "refine3.mrf.convs.1",
    "conv_adapt4": "refine3.mrf.convs.2",
    "conv4": "refine2.mrf.convs.0",
    "conv_adapt3": "refine2.mrf.convs.1",
    "conv3": "refine1.mrf.convs.0",
    "conv_adapt2": "refine1.mrf.convs.1",
    "segm": "classifier",
}
_DENSETORCH_STEMS = ("conv8", "conv7", "conv6", "conv5", "conv4", "conv3")


def load_checkpoint(
    path: str | Path,
    num_classes: int | None = None,
    *,
    crp: CrpOrder | None = None,
    align_corners: bool | None = None,
) -> SegmentationNet:
    """The network in a checkpoint file, float32, in eval mode; its `spec` says what it is.

    `num_classes` is checked against the file where given. `crp` and `align_corners` say what no key can tell of a model
    trained elsewhere; by default they are as our own file says, or "pool_conv" and True, as in the ports. Raises
    `CheckpointError`, naming the first keys that do not fit, for anything that is not a complete checkpoint of a known
    architecture.
    """
    path = locate(path)
    raw, spec = _read(path)
    state = _unwrapped(raw, path)
    if spec is None:
        spec, state = _recognised(state, path)
    if num_classes is not None and spec.num_classes != num_classes:
        raise CheckpointError(f"{path} has {spec.num_classes} classes, {num_classes} were asked for")
    spec = dataclasses.replace(
        spec,
        crp=spec.crp if crp is None else crp,
        align_corners=spec.align_corners if align_corners is None else align_corners,
    )
    with torch.device("meta"):
        module = build(spec)
    module.load_state_dict(_fitting(state, module, path), strict=True, assign=True)
    return module.eval()


def locate(path: str | Path) -> Path:
    """The file that `path` names: itself, or weights that ship with the package, by their name."""
    path = Path(path)
    return path if path.exists() else SHIPPED.get(str(path), path)


def save_checkpoint(module: SegmentationNet, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write `module` and its spec as safetensors, floating point as `dtype`; the whole file or none of it."""
    state = {
        key: (value.to(dtype) if dtype and value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in module.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    data = safetensors.torch.save(state, {SPEC_KEY: json.dumps(dataclasses.asdict(module.spec))})
    write_atomically(Path(path), data, CheckpointError)


def _read(path: Path) -> tuple[object, ModelSpec | None]:
    """What the file holds, and the spec where it is a file of ours."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            magic = file.read(8)
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be read: {exc.strerror}") from exc
    if not 8 <= size <= MAX_BYTES:
        raise CheckpointError(f"{path} has {size} bytes: a checkpoint has 8 bytes to 4 GiB")
    if magic[:4] == b"PK\x03\x04" or magic[:1] == b"\x80":
        return _read_torch(path), None
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError) as exc:
        raise CheckpointError(f"{path} is neither a PyTorch nor a safetensors file, or is cut short: {exc}") from exc
    if SPEC_KEY not in metadata:
        return state, None
    try:
        return state, ModelSpec(**json.loads(metadata[SPEC_KEY]))
    except (ValueError, TypeError, InputError) as exc:
        raise CheckpointError(f"{path} describes no model this toolkit knows: {exc}") from exc


def _read_torch(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(_NUMPY_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # a damaged pickle raises anything
        if "Weights only load failed" in str(exc):
            global_ = re.search(r"GLOBAL ([\w.]+)", str(exc))
            found = f" ({global_.group(1)})" if global_ else ""
            raise CheckpointError(
                f"{path} holds more than weights{found}, and code in model files is never run here; save the "
                "state_dict alone where you trust it: torch.save(model.state_dict(), 'weights.pth')"
            ) from exc
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise CheckpointError(f"{path} is damaged or cut short: {reason}") from exc


def _unwrapped(raw: object, path: Path) -> State:
    """The tensors of a checkpoint by name, out of any wrapper and without `module.`."""
    while isinstance(raw, Mapping):
        inner = next((raw[key] for key in WRAPPERS if isinstance(raw.get(key), Mapping)), None)
        if inner is None:
            break
        raw = inner
    if not isinstance(raw, Mapping) or not raw:
        raise CheckpointError(f"{path} holds no weights by name but {type(raw).__name__}; {_known()}")
    strangers = [str(key) for key, value in raw.items() if not isinstance(value, Tensor)]
    if strangers:
        raise CheckpointError(f"{path}: {_listed(strangers)} are no tensors; {_known()}")
    state = {str(key): value for key, value in raw.items()}
    while all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {key} has non-finite values: training diverged, or the file is damaged")
    return state


def _recognised(state: State, path: Path) -> tuple[ModelSpec, State]:
    """The spec of a published layout, and its state under our names."""
    if "1.stem_convs.0.weight" in state:
        state = {_from_densetorch(key): value for key, value in state.items()}
    if "segm.weight" in state and any(key.startswith("layer8.") for key in state):
        if any(key.startswith("pre_segm") for key in state):
            raise CheckpointError(
                f"{path} is a multi-task RefineNet (pre_segm, depth), which is not supported; {_known()}"
            )
        name, classes, rename = "rf_lw_mbv2", state["segm.weight"].shape[0], _from_mobilenet
    elif "clf_conv.weight" in state and "p_ims1d2_outl1_dimred.weight" in state:
        depth = _depth(state)
        kernel = state["p_ims1d2_outl1_dimred.weight"].shape[-1]
        family = "rf_lw" if kernel == 1 else "rf"
        name = f"{family}{depth}"
        if name not in MODELS:
            raise CheckpointError(
                f"{path}: a RefineNet whose layer3 fits no ResNet of depth {list(RESNET_STAGES)}; {_known()}"
            )
        classes, rename = state["clf_conv.weight"].shape[0], _from_resnet
    else:
        raise CheckpointError(
            f"{path} is no RefineNet of a known layout; its first keys are {_listed(state)}; {_known()}"
        )
    try:
        spec = ModelSpec(name, int(classes))
    except InputError as exc:
        raise CheckpointError(f"{path}: {exc}") from exc
    return spec, {rename(key): value for key, value in state.items()}


def _depth(state: State) -> int | None:
    blocks = {int(m[1]) for m in (re.match(r"layer3\.(\d+)\.", key) for key in state) if m}
    return next((depth for depth, stages in RESNET_STAGES.items() if stages[2] == len(blocks)), None)


def _from_resnet(key: str) -> str:
    stem, _, leaf = key.rpartition(".")
    for pattern, ours in _RESNET_DECODER:
        if match := re.fullmatch(pattern, stem):
            return f"{ours(int(match[1]))}.{leaf}"
    for pattern, chain in _RESNET_CHAINS:
        if match := re.fullmatch(pattern, stem):
            return f"{chain(int(match[1]), int(match[2]))}.{leaf}"
    if stem == "clf_conv":
        return f"classifier.{leaf}"
    return f"encoders.0.{key}"


def _from_mobilenet(key: str) -> str:
    stem, _, leaf = key.rpartition(".")
    if stem in _MOBILENET_CONVS:
        return f"{_MOBILENET_CONVS[stem]}.{leaf}"
    if match := re.fullmatch(r"crp(\d)\.0\.(\d)_outvar_dimred", stem):
        return f"refine{match[1]}.crp.convs.{int(match[2]) - 1}.{leaf}"
    return f"encoder.{key}"


def _from_densetorch(key: str) -> str:
    """A key of DenseTorch's split under light-weight-refinenet's name."""
    if key.startswith("0."):
        return key.removeprefix("0.")
    stem, _, leaf = key.removeprefix("1.").rpartition(".")
    if match := re.fullmatch(r"stem_convs\.([0-5])", stem):
        return f"{_DENSETORCH_STEMS[int(match[1])]}.{leaf}"
    if match := re.fullmatch(r"crp_blocks\.([0-3])\.0\.(\d)_outvar_dimred", stem):
        return f"crp{4 - int(match[1])}.0.{match[2]}_outvar_dimred.{leaf}"
    if match := re.fullmatch(r"adapt_convs\.([0-2])", stem):
        return f"conv_adapt{4 - int(match[1])}.{leaf}"
    return key.removeprefix("1.")


def _fitting(state: State, module: SegmentationNet, path: Path) -> State:
    """`state` as float32, if it has exactly the module's keys and shapes (`num_batches_tracked` may lack)."""
    wanted = module.state_dict()
    counters = {key: torch.zeros((), dtype=torch.long) for key in wanted if key.endswith("num_batches_tracked")}
    state = counters | state
    wrong = [
        *(f"{key} (missing)" for key in wanted if key not in state),
        *(f"{key} (unknown)" for key in state if key not in wanted),
        *(
            f"{key} ({_shape(value)}, not {_shape(wanted[key])})"
            for key, value in state.items()
            if key in wanted and value.shape != wanted[key].shape
        ),
    ]
    if wrong:
        raise CheckpointError(
            f"{path} is no complete {module.spec.name} with {module.spec.num_classes} classes: {_listed(wrong)}; "
            f"{_known()}"
        )
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"


def _listed(keys: Mapping[str, Any] | list[str]) -> str:
    shown = list(keys)[:SHOWN_KEYS]
    more = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _known() -> str:
    return f"known architectures: {', '.join(MODELS)}"
