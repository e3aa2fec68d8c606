"""The published checkpoints, written a second time: their keys, their arithmetic and the files they come in.

Nothing here imports `refinenet_edge`: the networks are plain functions on the published keys, written from the papers
and from the key lists of the ports, so that the loader and the models have an independent witness.

    PORTS[name].shapes(classes)  key -> shape, as the published state_dict has it
    random_state(shapes)         weights under which every key matters and nothing overflows
    PORTS[name].logits(p, x)     NCHW float32 image -> logits at 1/4 of its size, straight from the state_dict `p`
    WRAPPERS[name](p)            what the producer hands to torch.save
"""

from __future__ import annotations

import argparse
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]

RESNET_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# layer2 .. layer8: expansion, channels, blocks, stride of the first block
MBV2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


# --- keys


def _bn(name: str, channels: int) -> Shapes:
    shapes: Shapes = {f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")}
    return {**shapes, f"{name}.num_batches_tracked": ()}


def _conv_bn(conv: str, bn: str, shape: tuple[int, int, int, int]) -> Shapes:
    return {f"{conv}.weight": shape, **_bn(bn, shape[0])}


def resnet_shapes(depth: int) -> Shapes:
    shapes = _conv_bn("conv1", "bn1", (64, 3, 7, 7))
    before = 64
    for stage, blocks in enumerate(RESNET_BLOCKS[depth], 1):
        width = 32 << stage
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            shapes |= _conv_bn(f"{at}.conv1", f"{at}.bn1", (width, before, 1, 1))
            shapes |= _conv_bn(f"{at}.conv2", f"{at}.bn2", (width, width, 3, 3))
            shapes |= _conv_bn(f"{at}.conv3", f"{at}.bn3", (4 * width, width, 1, 1))
            if block == 0:
                shapes |= _conv_bn(f"{at}.downsample.0", f"{at}.downsample.1", (4 * width, before, 1, 1))
            before = 4 * width
    return shapes


def _resnet_decoder_shapes(classes: int, kernel: int) -> Shapes:
    """What RF (kernel 3) and LW (kernel 1) have in common; stage 1 is the one at 1/32."""
    shapes: Shapes = {}
    for stage, tap, width in ((1, 2048, 512), (2, 1024, 256), (3, 512, 256), (4, 256, 256)):
        shapes[f"p_ims1d2_outl{stage}_dimred.weight"] = (width, tap, kernel, kernel)
        if stage > 1:
            shapes[f"adapt_stage{stage}_b2_joint_varout_dimred.weight"] = (256, 256, kernel, kernel)
        for link in (1, 2, 3, 4):
            shapes[f"mflow_conv_g{stage}_pool.0.{link}_outvar_dimred.weight"] = (width, width, kernel, kernel)
        if stage < 4:
            shapes[f"mflow_conv_g{stage}_b3_joint_varout_dimred.weight"] = (256, width, kernel, kernel)
    return {**shapes, "clf_conv.weight": (classes, 256, 3, 3), "clf_conv.bias": (classes,)}


def rf_shapes(depth: int, classes: int) -> Shapes:
    shapes = resnet_shapes(depth) | _resnet_decoder_shapes(classes, kernel=3)
    for stage in (1, 2, 3, 4):
        width = 512 if stage == 1 else 256
        for group, units in ((f"adapt_stage{stage}_b", 2), (f"mflow_conv_g{stage}_b", 3)):
            for unit in range(1, units + 1):
                shapes[f"{group}.0.{unit}_conv.weight"] = (width, width, 3, 3)
                shapes[f"{group}.0.{unit}_conv.bias"] = (width,)
                shapes[f"{group}.0.{unit}_conv_relu_varout_dimred.weight"] = (width, width, 3, 3)
    return shapes


def lw_shapes(depth: int, classes: int) -> Shapes:
    return resnet_shapes(depth) | _resnet_decoder_shapes(classes, kernel=1)


def mbv2_shapes(classes: int) -> Shapes:
    shapes = _conv_bn("layer1.0", "layer1.1", (32, 3, 3, 3))
    before, tap = 32, {}
    for layer, (expansion, channels, blocks, _) in enumerate(MBV2_STAGES, 2):
        for block in range(blocks):
            at, wide = f"layer{layer}.{block}.output", expansion * before
            shapes |= _conv_bn(f"{at}.0.0", f"{at}.0.1", (wide, before, 1, 1))
            shapes |= _conv_bn(f"{at}.1.0", f"{at}.1.1", (wide, 1, 3, 3))
            shapes |= _conv_bn(f"{at}.2.0", f"{at}.2.1", (channels, wide, 1, 1))
            before = channels
        tap[layer] = channels
    shapes |= {f"conv{layer}.weight": (256, tap[layer], 1, 1) for layer in range(3, 9)}
    shapes |= {f"crp{k}.0.{link}_outvar_dimred.weight": (256, 256, 1, 1) for k in (1, 2, 3, 4) for link in (1, 2, 3, 4)}
    shapes |= {f"conv_adapt{k}.weight": (256, 256, 1, 1) for k in (2, 3, 4)}
    return {**shapes, "segm.weight": (classes, 256, 3, 3), "segm.bias": (classes,)}


def mt_shapes(classes: int) -> Shapes:
    """Multi-task (segmentation and depth): per-channel crp1, two heads. Nobody here is meant to load it."""
    shapes = mbv2_shapes(classes)
    shapes |= {f"crp1.0.{link}_outvar_dimred.weight": (256, 1, 1, 1) for link in (1, 2, 3, 4)}
    shapes |= {"pre_segm.weight": (256, 1, 1, 1), "pre_depth.weight": (256, 1, 1, 1)}
    return {**shapes, "depth.weight": (1, 256, 3, 3), "depth.bias": (1,)}


def dt_key(key: str) -> str:
    """DenseTorch's name of a Light-Weight MobileNet-v2 key: module 0 is the encoder, 1 the decoder."""
    head, _, rest = key.partition(".")
    if head.startswith("layer"):
        return f"0.{key}"
    if head.startswith("conv_adapt"):
        return f"1.adapt_convs.{4 - int(head[10:])}.{rest}"
    if head.startswith("conv"):
        return f"1.stem_convs.{8 - int(head[4:])}.{rest}"
    if head.startswith("crp"):
        return f"1.crp_blocks.{4 - int(head[3:])}.{rest}"
    return f"1.{key}"


def dt_shapes(classes: int) -> Shapes:
    return {dt_key(key): shape for key, shape in mbv2_shapes(classes).items()}


def dt_resnet_shapes(depth: int, classes: int) -> Shapes:
    """DenseTorch on ResNet: one stem for each tap, coarsest first, 256 channels everywhere."""
    shapes = {f"0.{key}": shape for key, shape in resnet_shapes(depth).items()}
    for k, tap in enumerate((2048, 1024, 512, 256)):
        shapes[f"1.stem_convs.{k}.weight"] = (256, tap, 1, 1)
        shapes |= {f"1.crp_blocks.{k}.0.{link}_outvar_dimred.weight": (256, 256, 1, 1) for link in (1, 2, 3, 4)}
    shapes |= {f"1.adapt_convs.{k}.weight": (256, 256, 1, 1) for k in range(3)}
    return {**shapes, "1.segm.weight": (classes, 256, 3, 3), "1.segm.bias": (classes,)}


# --- weights


def random_state(shapes: Shapes, seed: int = 0) -> State:
    """He-like weights and batch-norm statistics near what training leaves; every residual branch is damped.

    Undamped, the sums of the deep networks would grow past float32's useful digits.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(
        1_000_003, generator=generator
    )  # large tensors repeat it: drawing 100 million numbers takes seconds

    def normal(shape: tuple[int, ...], mean: float, std: float) -> Tensor:
        size, start = math.prod(shape), int(torch.randint(len(pool), (), generator=generator))
        values = pool.repeat(-(-(start + size) // len(pool)))[start : start + size]
        return values.mul(std).add_(mean).reshape(shape)

    def tensor(key: str, shape: tuple[int, ...]) -> Tensor:
        if key.endswith("num_batches_tracked"):
            return torch.tensor(1000)
        if key.endswith("running_var"):
            return normal(shape, 1.0, 0.1).abs() + 0.1
        if key.endswith("running_mean"):
            return normal(shape, 0.1, 0.2)
        if key.endswith("bias"):
            return normal(shape, 0.1, 0.5 if "conv" in key or key == "segm.bias" else 0.2)
        if len(shape) == 1:
            return normal(shape, 1.0, 0.1) * _gain(key)
        return normal(shape, 0.0, _gain(key) * math.sqrt(2 / math.prod(shape[1:])))

    return {key: tensor(key, shape) for key, shape in shapes.items()}


def _gain(key: str) -> float:
    if key.endswith("bn3.weight"):
        return 0.3
    if "_conv_relu_" in key or "_outvar_" in key:
        return 0.4
    if "_dimred" in key or key.startswith(("clf_conv", "segm")):
        return 0.5  # no ReLU behind them
    return 1.0


# --- arithmetic


def _conv(p: State, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    weight = p[f"{name}.weight"]
    return F.conv2d(x, weight, p.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2, groups=groups)


def _norm(p: State, name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (p[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)


@dataclass(frozen=True)
class Form:
    """What the papers vary and no published checkpoint does."""

    pool_first: bool = True
    align_corners: bool = True

    def up(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=self.align_corners)

    def crp(self, p: State, name: str, x: Tensor) -> Tensor:
        top = x
        for link in (1, 2, 3, 4):
            top = F.max_pool2d(top, 5, stride=1, padding=2) if self.pool_first else top
            top = _conv(p, f"{name}.0.{link}_outvar_dimred", top)
            top = top if self.pool_first else F.max_pool2d(top, 5, stride=1, padding=2)
            x = x + top
        return x


PUBLISHED = Form()


def _blocks(p: State, layer: str, probe: str) -> Iterator[tuple[int, str]]:
    block = 0
    while f"{layer}.{block}.{probe}" in p:
        yield block, f"{layer}.{block}"
        block += 1


def _resnet_taps(p: State, x: Tensor) -> list[Tensor]:
    """At 1/4, 1/8, 1/16, 1/32."""
    x = F.max_pool2d(F.relu(_norm(p, "bn1", _conv(p, "conv1", x, stride=2))), 3, stride=2, padding=1)
    taps = []
    for stage in (1, 2, 3, 4):
        for block, at in _blocks(p, f"layer{stage}", "conv1.weight"):
            stride = 2 if block == 0 and stage > 1 else 1
            short = x if block else _norm(p, f"{at}.downsample.1", _conv(p, f"{at}.downsample.0", x, stride))
            x = F.relu(_norm(p, f"{at}.bn1", _conv(p, f"{at}.conv1", x)))
            x = F.relu(_norm(p, f"{at}.bn2", _conv(p, f"{at}.conv2", x, stride)))
            x = F.relu(_norm(p, f"{at}.bn3", _conv(p, f"{at}.conv3", x)) + short)
        taps.append(x)
    return taps


def _rcus(p: State, name: str, x: Tensor) -> Tensor:
    unit = 1
    while f"{name}.0.{unit}_conv.weight" in p:
        inner = F.relu(_conv(p, f"{name}.0.{unit}_conv", F.relu(x)))
        x = x + _conv(p, f"{name}.0.{unit}_conv_relu_varout_dimred", inner)
        unit += 1
    return x


def resnet_logits(p: State, x: Tensor, form: Form = PUBLISHED) -> Tensor:
    """RF and LW on ResNet: an LW state_dict has no residual units, and its other kernels are 1x1."""
    out = None
    for stage, tap in enumerate(reversed(_resnet_taps(p, x)), 1):
        path = _rcus(p, f"adapt_stage{stage}_b", _conv(p, f"p_ims1d2_outl{stage}_dimred", tap))
        if out is not None:
            path = _conv(p, f"adapt_stage{stage}_b2_joint_varout_dimred", path)
            path = path + form.up(_conv(p, f"mflow_conv_g{stage - 1}_b3_joint_varout_dimred", out), path)
        out = _rcus(p, f"mflow_conv_g{stage}_b", form.crp(p, f"mflow_conv_g{stage}_pool", F.relu(path)))
    assert out is not None
    return _conv(p, "clf_conv", out)


def mbv2_logits(p: State, x: Tensor, form: Form = PUBLISHED) -> Tensor:
    x = F.relu6(_norm(p, "layer1.1", _conv(p, "layer1.0", x, stride=2)))
    stem: dict[int, Tensor] = {}
    for layer, (_, _, _, first_stride) in enumerate(MBV2_STAGES, 2):
        for block, at in _blocks(p, f"layer{layer}", "output.0.0.weight"):
            stride = first_stride if block == 0 else 1
            y = F.relu6(_norm(p, f"{at}.output.0.1", _conv(p, f"{at}.output.0.0", x)))
            y = F.relu6(_norm(p, f"{at}.output.1.1", _conv(p, f"{at}.output.1.0", y, stride, groups=y.shape[1])))
            y = _norm(p, f"{at}.output.2.1", _conv(p, f"{at}.output.2.0", y))
            x = x + y if stride == 1 and x.shape[1] == y.shape[1] else y
        if layer > 2:
            stem[layer] = _conv(p, f"conv{layer}", x)
    out = _conv(p, "conv_adapt4", form.crp(p, "crp4", F.relu6(stem[8] + stem[7])))
    out = _conv(p, "conv_adapt3", form.crp(p, "crp3", F.relu6(stem[6] + stem[5] + form.up(out, stem[6]))))
    out = _conv(p, "conv_adapt2", form.crp(p, "crp2", F.relu6(stem[4] + form.up(out, stem[4]))))
    return _conv(p, "segm", form.crp(p, "crp1", F.relu6(stem[3] + form.up(out, stem[3]))))


def dt_logits(p: State, x: Tensor) -> Tensor:
    return mbv2_logits({key: p[dt_key(key)] for key in mbv2_shapes(1)}, x)


def dt_resnet_logits(p: State, x: Tensor) -> Tensor:
    encoder = {key.removeprefix("0."): value for key, value in p.items() if key.startswith("0.")}
    out = None
    for k, tap in enumerate(reversed(_resnet_taps(encoder, x))):
        path = _conv(p, f"1.stem_convs.{k}", tap)
        if out is not None:
            path = path + PUBLISHED.up(_conv(p, f"1.adapt_convs.{k - 1}", out), path)
        out = PUBLISHED.crp(p, f"1.crp_blocks.{k}", F.relu6(path))
    assert out is not None
    return _conv(p, "1.segm", out)


@dataclass(frozen=True)
class Port:
    """One published layout and the name this project gives its network; its `collapse_ind`, which is in no key."""

    network: str
    shapes: Callable[[int], Shapes]
    logits: Callable[[State, Tensor], Tensor]
    collapse_ind: str | None = None


PORTS: dict[str, Port] = {
    **{f"rf{d}": Port(f"rf{d}", partial(rf_shapes, d), resnet_logits) for d in RESNET_BLOCKS},
    **{f"lw{d}": Port(f"rf_lw{d}", partial(lw_shapes, d), resnet_logits) for d in RESNET_BLOCKS},
    "lw_mbv2": Port("rf_lw_mbv2", mbv2_shapes, mbv2_logits),
    "dt_mbv2": Port("rf_lw_mbv2", dt_shapes, dt_logits, "[[0, 1], [2, 3], 4, 5]"),
    "dt_resnet50": Port("rf_lw50", partial(dt_resnet_shapes, 50), dt_resnet_logits, "[0, 1, 2, 3]"),
}


# --- files


def _prefixed(p: State) -> State:
    """What nn.DataParallel makes of the keys."""
    return OrderedDict((f"module.{key}", value) for key, value in p.items())


def _optimiser() -> tuple[dict[str, Any], dict[str, Any]]:
    """state_dicts of a real optimiser and scheduler after a step: momentum tensors, a Counter of milestones."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.SGD([weight], lr=5e-4, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones=[100, 200])
    weight.grad = torch.ones(3)
    optimiser.step()
    scheduler.step()
    return optimiser.state_dict(), scheduler.state_dict()


def _lw_v2(p: State) -> dict[str, Any]:
    optimiser, scheduler = _optimiser()
    best = [np.float64(0.785), np.float64(0.41)]
    return {"model": p, "epoch": 7, "optimisers": [optimiser, optimiser], "schedulers": [scheduler], "best_val": best}


def _acrv(p: State) -> dict[str, Any]:
    optimiser, _ = _optimiser()
    classifier = p["clf_conv.weight"] if "clf_conv.weight" in p else p["segm.weight"]
    metadata = {"type": "lightweight", "num_layers": 50, "num_classes": len(classifier), "name": "voc"}
    return {
        "weights": p,
        "model_metadata": metadata,
        "enc_optimiser": optimiser,
        "dec_optimiser": optimiser,
        "global_iteration": 20_000,
    }


def _averaged(p: State) -> State:
    """What torch.optim.swa_utils.AveragedModel makes of the keys."""
    return {"n_averaged": torch.tensor(7), **_prefixed(p)}


def _counted(p: State) -> State:
    """What thop leaves in a model that it counted."""
    modules = {key.rpartition(".")[0] for key in p}
    counters = {f"{module}.{kind}": torch.zeros(1) for module in modules for kind in ("total_ops", "total_params")}
    return {**p, **counters, "total_ops": torch.zeros(1), "total_params": torch.zeros(1)}


def _lightning(p: State) -> dict[str, Any]:
    """A checkpoint of Lightning, of a module whose `model` is compiled and whose loss has weights."""
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**{f"model._orig_mod.{key}": value for key, value in p.items()}, "loss.weight": torch.ones(21)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [_optimiser()[0]],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "args": argparse.Namespace(depth=50)},
    }


def _with_arguments(p: State) -> dict[str, Any]:
    """As timm and many scripts save it."""
    arguments = argparse.Namespace(model="x", lr=0.1, classes=[1, 2])
    return {"arch": "x", "args": arguments, "state_dict": dict(p), "class_weights": np.ones(21), "epoch": np.int64(3)}


WRAPPERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda p: OrderedDict(p),
    "data_parallel": _prefixed,
    "lw_train": lambda p: {"segmenter": _prefixed(p), "epoch_start": 3, "best_val": np.float64(0.785)},
    "lw_v2_cuda": lambda p: _lw_v2(_prefixed(p)),
    "lw_v2_cpu": _lw_v2,
    "densetorch": lambda p: {"state_dict": _prefixed(p), "epoch": 7, "best_val": np.float64(0.785)},
    "state_dict": lambda p: {"state_dict": OrderedDict(p)},
    "acrv": _acrv,
    "model_state_dict": lambda p: {"epoch": 1, "model_state_dict": p, "optimizer_state_dict": _optimiser()[0]},
    "net": lambda p: {"net": _prefixed(p), "acc": 90.1, "epoch": 7},
    "state_dict_ema": lambda p: {"state_dict_ema": p, "epoch": 7},
    "averaged": _averaged,
    "averaged_in_parallel": lambda p: {"model_ema": _averaged(_prefixed(p))},
    "counted": _counted,
    "compiled": lambda p: {f"_orig_mod.{key}": value for key, value in p.items()},
    "lightning": _lightning,
    "arguments": _with_arguments,
    "arguments_among": lambda p: {**p, "args": argparse.Namespace(lr=1), "mean": np.ones(3), "epoch": 3},
    "an_unknown_key": lambda p: {"my_refinenet": p},
}
