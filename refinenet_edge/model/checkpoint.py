"""Checkpoints: ours and the ports' published layouts -> a network of ours, loaded strictly.

    read (pickled.py) -> unwrap (states.py) -> recognise the layout -> rename the keys -> load strictly

Known layouts: refinenet-pytorch and light-weight-refinenet (ResNet 50, 101, 152 and MobileNet-v2), DenseTorch's
networks on the same encoders, split into encoder `0.` and decoder `1.`, ACRV's snapshots of them all, and our own; the
authors' MATLAB files are read by matconvnet.py. Every file is untrusted: no code in it is run, its size is bounded, and
its values must be finite.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from refinenet_edge.errors import CheckpointError, InputError
from refinenet_edge.files import open_regular, write_atomically
from refinenet_edge.model.blocks import CrpOrder
from refinenet_edge.model.encoders import RESNET_STAGES
from refinenet_edge.model.matconvnet import read_network
from refinenet_edge.model.matlab import is_matlab
from refinenet_edge.model.pickled import read_pickled
from refinenet_edge.model.refinenet import MODELS, Framework, ModelSpec, SegmentationNet, build, create
from refinenet_edge.model.states import State, find_state, listed
from refinenet_edge.records import Recipe

MAX_BYTES = 4 << 30
MAX_HEADER = 4 << 20  # bytes: of safetensors, which says where each tensor is
# weights that ship with the package: what `--checkpoint NAME` finds when there is no such file
SHIPPED = {
    "people": Path(__file__).parents[1] / "weights" / "rf_lw_effnet_lite0_people.safetensors",
    "scenes": Path(__file__).parents[1] / "weights" / "rf_lw_mbv2_scenes.safetensors",
}
SPEC_KEY = "refinenet_edge.spec"
REDUCTION = "p_ims1d2_outl1_dimred.weight"  # 3x3 in RefineNet, 1x1 in Light-Weight RefineNet
KNOWN = f"known architectures: {', '.join(MODELS)}"


@dataclass(frozen=True)
class KeyLayout:
    """How published keys become ours: decoder modules by `modules`, everything under `encoder[0]` to `encoder[1]`."""

    classifier: str
    modules: Mapping[str, str]
    encoder: tuple[str, str]

    def ours(self, key: str) -> str:
        """Our name of a published key; a key of neither encoder nor decoder stays as it is."""
        return _renamed(key, self.modules, *self.encoder)

    def published(self, key: str) -> str:
        """The published name of a key of ours: what an error shows."""
        return _renamed(key, {mine: name for name, mine in self.modules.items()}, *reversed(self.encoder))


def _renamed(key: str, modules: Mapping[str, str], encoder: str, becomes: str) -> str:
    module, _, leaf = key.rpartition(".")
    if module in modules:
        return f"{modules[module]}.{leaf}"
    return f"{becomes}{key.removeprefix(encoder)}" if key.startswith(encoder) else key


def _resnet_modules() -> dict[str, str]:
    """refinenet-pytorch and light-weight-refinenet on ResNet. Their stages count coarse to fine: k is refine{5 - k}."""
    modules = {"clf_conv": "classifier"}
    for k in range(1, 5):
        block = f"refine{5 - k}"
        modules[f"p_ims1d2_outl{k}_dimred"] = f"{block}.adapt.0.0"
        for i in range(1, 3):
            modules[f"adapt_stage{k}_b.0.{i}_conv"] = f"{block}.adapt.0.{i}.conv1"
            modules[f"adapt_stage{k}_b.0.{i}_conv_relu_varout_dimred"] = f"{block}.adapt.0.{i}.conv2"
        for i in range(1, 5):
            modules[f"mflow_conv_g{k}_pool.0.{i}_outvar_dimred"] = f"{block}.crp.convs.{i - 1}"
        for i in range(1, 4):
            modules[f"mflow_conv_g{k}_b.0.{i}_conv"] = f"{block}.rcus.{i - 1}.conv1"
            modules[f"mflow_conv_g{k}_b.0.{i}_conv_relu_varout_dimred"] = f"{block}.rcus.{i - 1}.conv2"
        if k > 1:  # the two paths of this block's fusion: its tap, and the block before
            modules[f"adapt_stage{k}_b2_joint_varout_dimred"] = f"{block}.mrf.convs.0"
            modules[f"mflow_conv_g{k - 1}_b3_joint_varout_dimred"] = f"{block}.mrf.convs.1"
    return modules


def _mobilenet_modules() -> dict[str, str]:
    """light-weight-refinenet on MobileNet-v2."""
    fused = {4: ("conv8", "conv7"), 3: ("conv5", "conv6", "conv_adapt4"), 2: ("conv4", "conv_adapt3")}
    fused[1] = ("conv3", "conv_adapt2")
    modules = {"segm": "classifier"}
    for level, names in fused.items():
        modules |= {name: f"refine{level}.mrf.convs.{index}" for index, name in enumerate(names)}
        modules |= {f"crp{level}.0.{i}_outvar_dimred": f"refine{level}.crp.convs.{i - 1}" for i in range(1, 5)}
    return modules


def _densetorch_modules() -> dict[str, str]:
    """DenseTorch's decoder on MobileNet-v2: the same modules, counted through."""
    mobilenet = _mobilenet_modules()
    names = {f"stem_convs.{i}": f"conv{8 - i}" for i in range(6)} | {"segm": "segm"}
    names |= {f"adapt_convs.{i}": f"conv_adapt{4 - i}" for i in range(3)}
    for k, i in itertools.product(range(4), range(1, 5)):
        names[f"crp_blocks.{k}.0.{i}_outvar_dimred"] = f"crp{4 - k}.0.{i}_outvar_dimred"
    return {f"1.{name}": mobilenet[theirs] for name, theirs in names.items()}


def _densetorch_resnet_modules() -> dict[str, str]:
    """DenseTorch's decoder on ResNet: one tap a block."""
    modules = {"1.segm": "classifier", "1.stem_convs.0": "refine4.adapt.0.0"}
    for k in range(4):
        block = f"refine{4 - k}"
        modules |= {f"1.crp_blocks.{k}.0.{i}_outvar_dimred": f"{block}.crp.convs.{i - 1}" for i in range(1, 5)}
        if k:
            modules[f"1.stem_convs.{k}"] = f"{block}.mrf.convs.0"
            modules[f"1.adapt_convs.{k - 1}"] = f"{block}.mrf.convs.1"
    return modules


RESNET = KeyLayout("clf_conv.weight", _resnet_modules(), ("", "encoders.0."))
MOBILENET = KeyLayout("segm.weight", _mobilenet_modules(), ("", "encoder."))
DENSETORCH = KeyLayout("1.segm.weight", _densetorch_modules(), ("0.", "encoder."))
DENSETORCH_RESNET = KeyLayout("1.segm.weight", _densetorch_resnet_modules(), ("0.", "encoder."))
# DenseTorch's `collapse_ind`, which stems are added for each pooling: no key tells it, and what is left out is nowhere
WIRINGS = {6: [[0, 1], [2, 3], [4], [5]], 4: [[0], [1], [2], [3]]}  # by the number of stems
# other people's RefineNets by a key that only they have, and why they are another network than the paper's
OTHERS = {
    "pre_segm.weight": "a multi-task RefineNet, whose last pooling and heads are per channel",
    "1.heads.0.0.weight": "DenseTorch's multi-task RefineNet, whose heads are per channel",
    "segBranch.0.conv1.weight": "a RefineNet for segmentation and depth (refinenet_pytorch), whose two heads are RCUs "
    "and 1x1 convolutions at the image's size",
    "refinenet4.rcu0.0.conv1.weight": "a RefineNet of pytorch_refinenet, which adds the ReLU of what the paper adds in "
    "its RCUs, pools three times for four and classifies by a 1x1 convolution",
}
OURS = KeyLayout("classifier.weight", {}, ("encoder", "encoder"))


def load_checkpoint(
    path: str | Path,
    num_classes: int | None = None,
    *,
    crp: CrpOrder | None = None,
    align_corners: bool | None = None,
    state_key: str | None = None,
    collapse_ind: str | None = None,
) -> SegmentationNet:
    """The network in a checkpoint file, float32, in eval mode; its `spec` says what it is.

    `num_classes` is checked against the file where given. `crp` and `align_corners` say what no key can tell of a model
    trained elsewhere; by default they are as our own file says, or "pool_conv" and True, as in the ports. `state_key`
    chooses of a file with several weights ("model" or "ema"; by default the average); `collapse_ind` is DenseTorch's,
    as JSON, which its files need. Raises `CheckpointError`, naming the first keys that do not fit, for anything that is
    not a complete checkpoint of a known architecture.
    """
    path = locate(path)
    state, layout, spec = _opened(path, num_classes, state_key)
    if layout in (DENSETORCH, DENSETORCH_RESNET):
        _require_wiring(state, collapse_ind, path)
    elif collapse_ind is not None:
        raise CheckpointError(f"{path} is not of DenseTorch: leave --collapse-ind out")
    if spec.framework == "matconvnet" and crp not in (None, spec.crp):
        raise CheckpointError(f"{path} has its pooling as {spec.crp}: leave --crp {crp} out")
    spec = dataclasses.replace(
        spec,
        crp=spec.crp if crp is None else crp,
        align_corners=spec.align_corners if align_corners is None else align_corners,
    )
    if num_classes is not None and spec.num_classes != num_classes:
        raise CheckpointError(f"{path} has {spec.num_classes} classes, {num_classes} were asked for")
    with torch.device("meta"):
        module = build(spec)
    module.load_state_dict(_fitting(state, layout, module, path), strict=True, assign=True)
    return module.eval()


def _opened(path: Path, num_classes: int | None, state_key: str | None) -> tuple[State, KeyLayout, ModelSpec]:
    """What a file of any kind holds, how its keys become ours, and of which network they are."""
    if _is_matlab(path):
        if state_key is not None:
            raise CheckpointError(f"{path} has one network: leave --state-key out")
        state, modules, spec = read_network(path, num_classes)
        return state, KeyLayout("", modules, OURS.encoder), spec
    raw, of_ours = _read(path)
    state = find_state(raw, path, KNOWN, state_key)
    if of_ours is not None:
        return state, OURS, of_ours
    recognised, layout = _recognised(state, path)
    return state, layout, recognised


def _is_matlab(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError), open_regular(path) as file:
        return is_matlab(file.read(8))
    return False  # `_read` says why


def open_network(recipe: Recipe, checkpoint: Path | None, num_classes: int) -> SegmentationNet:
    """The network of `recipe` from the file `checkpoint`, or with random weights, always the same ones; float32, in
    eval mode.

    `num_classes` is of random weights. Raises `CheckpointError`, and `InputError` for a checkpoint of another model
    than the recipe's, or a model that there is not.
    """
    model, crp, align_corners = recipe.model, recipe.crp, recipe.align_corners
    if checkpoint is None:
        # forked: the caller's generator stays as it was
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = create(str(model), num_classes, crp=crp or "pool_conv", align_corners=align_corners is not False)
        return module.eval()
    module = load_checkpoint(
        checkpoint, crp=crp, align_corners=align_corners, state_key=recipe.state_key, collapse_ind=recipe.collapse_ind
    )
    if model not in (None, module.spec.name):
        raise InputError(f"{checkpoint} is a {module.spec.name}, not {model}: use --model {module.spec.name}")
    return module


def locate(path: str | Path) -> Path:
    """The file that `path` names: itself, or weights that ship with the package, by their name."""
    path = Path(path)
    return path if path.is_file() else SHIPPED.get(str(path), path)  # a folder of photos may be called "people"


def save_checkpoint(module: SegmentationNet, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write `module` and its spec as safetensors, floating point as `dtype`; the whole file or none of it.

    Raises `CheckpointError` where `dtype` cannot hold a weight, or the disk refuses.
    """
    state = {}
    for key, value in module.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            # a copy: tensors that share memory cannot be written
            state[key] = value.detach().to("cpu", dtype or value.dtype, copy=True).contiguous()
            if not bool(torch.isfinite(state[key]).all()):
                raise CheckpointError(f"{path} is not written: {dtype or value.dtype} cannot hold {key}")
    data = safetensors.torch.save(state, {SPEC_KEY: json.dumps(dataclasses.asdict(module.spec))})
    write_atomically(Path(path), data, CheckpointError)


def _read(path: Path) -> tuple[object, ModelSpec | None]:
    """What the file holds, and the spec where it is a file of ours."""
    try:
        with open_regular(path) as file:
            size, magic = os.fstat(file.fileno()).st_size, file.read(9)
        if not 9 <= size <= MAX_BYTES:
            raise CheckpointError(f"{path} has {size} bytes: a checkpoint has 9 bytes to 4 GiB")
        # safetensors starts with the length of its JSON, any eight bytes, so it is known by what follows
        if magic[:4] == b"PK\x03\x04" or (magic[:1] == b"\x80" and magic[8:] != b"{"):
            return read_pickled(path), None
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{path} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if int.from_bytes(magic[:8], "little") > MAX_HEADER:
        raise CheckpointError(f"{path} is neither a PyTorch nor a safetensors file: its header is larger than one is")
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
    except (ValueError, TypeError, RecursionError, InputError) as exc:
        raise CheckpointError(f"{path} describes no model this toolkit knows: {exc}") from exc


def _recognised(state: State, path: Path) -> tuple[ModelSpec, KeyLayout]:
    """The model and the layout that published keys mean."""
    if reason := next((reason for key, reason in OTHERS.items() if key in state), None):
        raise CheckpointError(f"{path} is {reason}: not supported; export its segmentation to ONNX for --onnx; {KNOWN}")
    framework: Framework = "torch"
    if DENSETORCH.classifier in state and "1.stem_convs.0.weight" in state:
        layout, name = DENSETORCH, "rf_lw_mbv2"
        if "0.layer8.0.output.0.0.weight" not in state:
            layout, name, framework = DENSETORCH_RESNET, f"rf_lw{_depth(state, '0.')}", "densetorch"
            if name not in MODELS or "0.layer1.0.conv3.weight" not in state:
                raise CheckpointError(
                    f"{path}: a network of DenseTorch on another encoder than MobileNet-v2 and ResNet 50, 101 and 152: "
                    f"not supported; export it to ONNX for --onnx; {KNOWN}"
                )
    elif MOBILENET.classifier in state and any(key.startswith("layer8.") for key in state):
        layout, name = MOBILENET, "rf_lw_mbv2"
    elif RESNET.classifier in state and REDUCTION in state:
        family = "rf_lw" if _kernel(state, REDUCTION, path).shape[-1] == 1 else "rf"
        layout, name = RESNET, f"{family}{_depth(state)}"
        if name not in MODELS:
            raise CheckpointError(
                f"{path}: a RefineNet whose layer3 fits no ResNet of depth {list(RESNET_STAGES)}; {KNOWN}"
            )
    else:
        raise CheckpointError(
            f"{path} is no RefineNet of a known layout; its first keys are {listed(list(state))}; {KNOWN}"
        )
    try:
        return ModelSpec(name, _kernel(state, layout.classifier, path).shape[0], framework=framework), layout
    except InputError as exc:
        raise CheckpointError(f"{path}: {layout.classifier}: {exc}; {KNOWN}") from exc


def _kernel(state: State, key: str, path: Path) -> Tensor:
    if state[key].ndim != 4:
        raise CheckpointError(f"{path}: {key} ({_shape(state[key])}) is no convolution; {KNOWN}")
    return state[key]


def _require_wiring(state: State, collapse_ind: str | None, path: Path) -> None:
    """Raise `CheckpointError` unless a file of DenseTorch is said to be wired as our networks are."""
    stems = sum(re.fullmatch(r"1\.stem_convs\.\d+\.weight", key) is not None for key in state)
    ours = WIRINGS.get(stems)
    if ours is None:
        raise CheckpointError(
            f"{path}: a network of DenseTorch of {stems} taps: not supported; export it to ONNX for --onnx; {KNOWN}"
        )
    usual = json.dumps([group if len(group) > 1 else group[0] for group in ours])
    if collapse_ind is None:
        raise CheckpointError(
            f"{path} is of DenseTorch, and does not hold which taps are added, the decoder's collapse_ind: say it as "
            f"it was in training, which usually is --collapse-ind '{usual}'"
        )
    try:
        given = [sorted(group) if isinstance(group, list) else [group] for group in json.loads(collapse_ind)]
    except (ValueError, TypeError, RecursionError) as exc:
        raise CheckpointError(f"--collapse-ind {collapse_ind[:80]!r}: expected lists of numbers, as {usual}") from exc
    if given != ours:
        raise CheckpointError(
            f"{path}: of DenseTorch's networks of {stems} taps, --collapse-ind '{usual}' alone is supported: "
            "export this one to ONNX for --onnx"
        )


def _depth(state: State, encoder: str = "") -> int | None:
    names = (re.match(r"layer3\.(\d+)\.", key.removeprefix(encoder)) for key in state if key.startswith(encoder))
    blocks = {int(m[1]) for m in names if m}
    return next((depth for depth, stages in RESNET_STAGES.items() if stages[2] == len(blocks)), None)


def _fitting(published: State, layout: KeyLayout, module: SegmentationNet, path: Path) -> State:
    """`published` under our names as float32, if it is exactly the module's state (`num_batches_tracked` may lack)."""
    wanted = module.state_dict()
    counters = {key: torch.zeros((), dtype=torch.long) for key in wanted if key.endswith("num_batches_tracked")}
    state = counters | {layout.ours(key): value for key, value in published.items()}
    wrong = [
        *(f"{layout.published(key)} (missing)" for key in wanted if key not in state),
        *(f"{key} (unknown)" for key in published if layout.ours(key) not in wanted),
        *(
            f"{layout.published(key)} ({problem})"
            for key, value in state.items()
            if key in wanted and (problem := _misfit(value, wanted[key]))
        ),
    ]
    if wrong:
        raise CheckpointError(
            f"{path} is no complete {module.spec.name} with {module.spec.num_classes} classes: {listed(wrong)}; {KNOWN}"
        )
    state = {key: value.float() if wanted[key].is_floating_point() else value.long() for key, value in state.items()}
    for key, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"{path}: {layout.published(key)} has non-finite values: training diverged, or the file is damaged"
            )
    return state


def _misfit(value: Tensor, wanted: Tensor) -> str:
    """Why `value` cannot stand for a tensor like `wanted`; "" where it can."""
    if value.shape != wanted.shape:
        return f"{_shape(value)}, not {_shape(wanted)}"
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        return "no plain tensor with values"
    if wanted.is_floating_point() and not value.is_floating_point():
        return f"{str(value.dtype).removeprefix('torch.')}, not {str(wanted.dtype).removeprefix('torch.')}"
    return ""


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"
