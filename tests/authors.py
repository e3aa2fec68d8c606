"""RefineNet as its authors' MATLAB code builds, saves and runs it, written a second time: a witness for the loader.

Nothing here imports `refinenet_edge`. Names of layers, variables and parameters, what a layer's block holds, and what
is wrapped in what follow the rules of their main/gen_network_*.m, My_net_util.m and cnn_save_model.m and of
MatConvNet's DagNN.saveobj; arithmetic follows MatConvNet's documentation and that of MATLAB's imresize.

    network(depth, channels, ...)   -> Saved: random weights, in what they save
    logits(saved, image)            RGB bytes HxWx3 -> float32 1xCxhxw, layer by layer as the file says
    write_73(saved, path)           MATLAB 7.3, objects and all; write_5 the same without objects, in MATLAB 5
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@dataclass
class RefObj:
    """Their handle class `ref_obj`: an object with one property, `ref`."""

    ref: Any


@dataclass
class Handle:
    """A function handle."""

    name: str


@dataclass
class Dag:
    """A DagNN. `tiny`: filters of one channel, for where only the structure matters."""

    rng: np.random.Generator
    tiny: bool
    layers: list[dict[str, Any]] = field(default_factory=list)
    params: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, name: str, kind: str, inputs: list[str], output: str, block: dict[str, Any], **params: Any) -> str:
        names = [f"{name}_{suffix}" for suffix in params]
        self.params |= dict(zip(names, params.values(), strict=True))
        self.layers.append(
            {"name": name, "type": kind, "inputs": inputs, "outputs": [output], "params": names, "block": block}
        )
        return output

    def filters(self, size: int, into: int, out: int, gain: float = 1) -> np.ndarray:
        if self.tiny:
            into, out = 1 + into // 256, 1 + out // 256  # so that the order of the paths can still be seen
        values = self.rng.standard_normal((size, size, into, out), np.float32)
        return values * np.float32(gain * (2 / (size * size * into)) ** 0.5)

    def conv(
        self,
        name: str,
        x: str,
        output: str,
        shape: tuple[int, int, int],
        bias: bool = False,
        gain: float = 1,
        stride: int = 1,
    ) -> str:
        weights = {"filter": self.filters(*shape, gain)}
        if bias:
            out = weights["filter"].shape[3]
            weights["bias"] = (self.rng.standard_normal((1, out)) / 10).astype(np.float32)
        pads, strides = np.full((1, 4), shape[0] // 2, float), np.full((1, 2), stride, float)
        block = {
            "pad": pads,
            "stride": strides,
            "dilate": np.ones((1, 2)),
            "hasBias": np.array([[bias]]),
            "size": np.array([weights["filter"].shape], float),
            "opts": ["cuDNN"],
        }
        return self.add(name, "dagnn.Conv", [x], output, block, **weights)

    def bnorm(self, name: str, x: str, channels: int, gain: float = 1) -> str:
        channels = 1 + channels // 256 if self.tiny else channels
        uniform = self.rng.uniform(0.5, 1.5, (channels, 2)).astype(np.float32)
        normal = (self.rng.standard_normal((channels, 2)) / 10).astype(np.float32)
        moments = np.stack([normal[:, 0], uniform[:, 0]], 1)
        block = {"numChannels": np.zeros((0, 0)), "epsilon": np.array([[1e-5]]), "opts": ["NoCuDNN"]}
        return self.add(
            name,
            "dagnn.BatchNorm",
            [x],
            name,
            block,
            mult=uniform[:, 1:] * np.float32(gain),
            bias=normal[:, 1:],
            moments=moments,
        )

    def relu(self, name: str, x: str, output: str) -> str:
        block = {"useShortCircuit": np.array([[True]]), "leak": np.zeros((1, 1)), "opts": []}
        return self.add(name, "dagnn.ReLU", [x], output, block)

    def pool(self, name: str, x: str, output: str, size: int, stride: int) -> str:
        pads, sides = np.full((1, 4), size // 2, float), np.full((1, 2), size, float)
        block = {
            "method": "max",
            "poolSize": sides,
            "opts": ["cuDNN"],
            "pad": pads,
            "stride": np.full((1, 2), stride, float),
            "dilate": np.ones((1, 2)),
        }
        return self.add(name, "dagnn.Pooling", [x], output, block)

    # My_net_util.m

    def dimred(self, x: str, into: int, out: int, name: str | None = None, gain: float = 1) -> str:
        name = name or f"{x}_dimred"
        return self.conv(name, x, f"{name}_varout", (3, into, out), gain=gain)

    def res_conv_blocks(self, x: str, dim: int, count: int, prefix: str) -> str:
        for i in range(1, count + 1):
            at, start = f"{prefix}_b{i}", x
            x = self.relu(f"{at}_prev_relu", x, f"{at}_prev_relu_varout")
            x = self.conv(f"{at}_conv", x, f"{at}_conv_outvar", (3, dim, dim), bias=True)
            x = self.relu(f"{at}_conv_relu", x, f"{at}_conv_relu_varout")
            x = self.dimred(x, dim, dim, gain=0.3)
            x = self.add(f"{at}_joint", "dagnn.Sum", [start, x], f"{at}_joint_varout", {})
        return x

    def joint(self, name: str, inputs: list[str]) -> str:
        factor = {"use_gradient_scale_factor": np.array([[True]])}
        return self.add(name, "My_sum_layer", inputs, f"{name}_varout", factor)


@dataclass
class Saved:
    """What `cnn_save_model` saves, and for `logits` the three pieces again."""

    config: RefObj
    encoder: Dag
    taps: list[str]
    decoder: Dag
    output: str
    classifier: dict[str, Any]


def _resnet(depth: int, rng: np.random.Generator, tiny: bool) -> tuple[Dag, list[str]]:
    """imagenet-resnet-*-dag as `gen_network_featnet_resnet` leaves it, and its taps, coarsest first."""
    dag = Dag(rng, tiny)
    # only the 50's first convolution has a bias: so it came from Caffe
    x = dag.conv("conv1", "data", "conv1x", (7, 3, 64), bias=depth == 50, stride=2, gain=0.02)
    x = dag.relu("conv1_relu", dag.bnorm("bn_conv1", x, 64), "conv1_relux")
    x = dag.pool("pool1", x, "pool1x", 3, 2)
    taps, into = [], 64
    for stage, count in enumerate(BLOCKS[depth], 2):
        width = 16 << stage
        for block in range(count):
            letters = depth == 50 or count < 4
            at = f"{stage}{chr(ord('a') + block) if letters or block == 0 else f'b{block}'}"
            stride = 2 if stage > 2 and block == 0 else 1
            shortcut = x
            if block == 0:
                shortcut = dag.conv(f"res{at}_branch1", x, f"res{at}_branch1x", (1, into, 4 * width), stride=stride)
                shortcut = dag.bnorm(f"bn{at}_branch1", shortcut, 4 * width)
            for part, size, out in (("a", 1, width), ("b", 3, width), ("c", 1, 4 * width)):
                name = f"{at}_branch2{part}"
                x = dag.conv(f"res{name}", x, f"res{name}x", (size, into, out), stride=stride if part == "a" else 1)
                x = dag.bnorm(f"bn{name}", x, out, gain=0.3 if part == "c" else 1)
                into = out
                if part != "c":
                    x = dag.relu(f"res{name}_relu", x, f"res{name}_relux")
            x = dag.add(f"res{at}", "dagnn.Sum", [shortcut, x], f"res{at}x", {})
            x = dag.relu(f"res{at}_relu", x, f"res{at}_relux")
        kind, suffix = ("dagnn.DropOut", "dropout") if stage > 3 else ("My_copy_layer", "copy")
        block = {"rate": np.array([[0.5]]), "frozen": np.array([[False]])} if stage > 3 else {}
        taps.append(dag.add(f"{x}_{suffix}", kind, [x], f"{x}_{suffix}_varout", block))
    return dag, taps[::-1]


def _refinenets(rng: np.random.Generator, tiny: bool, improved: bool) -> tuple[Dag, str]:
    dag = Dag(rng, tiny)
    adapted = []
    for path, (into, dim) in enumerate(zip((2048, 1024, 512, 256), (512, 256, 256, 256), strict=True), 1):
        x = dag.dimred(f"p_ims1d2_outl{path}", into, dim)
        adapted.append((dag.res_conv_blocks(x, dim, 2, f"adapt_input_path{path}"), dim))
    previous: list[tuple[str, int]] = []
    for group, path in enumerate(adapted, 1):
        paths = [*previous, path]
        dim = min(dim for _, dim in paths)
        x = path[0]
        if previous:
            x = dag.joint(f"mflow_joint_g{group}", [dag.dimred(name, into, dim, gain=0.7) for name, into in paths])
        prefix = f"mflow_conv_g{group}"
        x = dag.relu(f"{prefix}_poolprev_relu", x, f"{prefix}_poolprev_relu_varout")
        pooled = [x]
        for i in range(1, 5):
            if improved:
                x = dag.dimred(x, dim, dim, f"{x}_pb{i}", gain=0.3)
            x = dag.pool(f"{prefix}_pool{i}", x, f"{prefix}_pool{i}_outvar", 5, 1)
            if not improved:
                x = dag.dimred(x, dim, dim, gain=0.3)
            pooled.append(x)
        x = dag.joint(f"{prefix}_pool_joint", pooled)
        previous = [(dag.res_conv_blocks(x, dim, 3, prefix), dim)]
    return dag, previous[0][0]


def network(depth: int, channels: int, *, improved: bool = False, tiny: bool = False, seed: int = 0) -> Saved:
    rng = np.random.default_rng(seed)
    encoder, taps = _resnet(depth, rng, tiny)
    decoder, output = _refinenets(rng, tiny, improved)
    filters = rng.standard_normal((3, 3, 2 if tiny else 256, channels), np.float32) * np.float32(0.02)
    classifier = {
        "type": "conv",
        "filters": filters,
        "biases": rng.standard_normal((1, channels), np.float32),
        "stride": np.ones((1, 1)),
        "pad": np.ones((1, 4)),
        "filtersMomentum": np.zeros((0, 0)),
    }
    saved = Saved(RefObj(None), encoder, taps, decoder, output, classifier)
    saved.config = config(saved)
    return saved


def config(saved: Saved) -> RefObj:
    """The whole of what they save: `net_config`."""

    def wrapper(custom: str, **more: Any) -> dict[str, Any]:
        return {"type": "my_custom", "custom_type": custom, "forward_fn": Handle(f"cnn_layer_{custom}_forward"), **more}

    def group(name: str, index: int, layers: list[dict[str, Any]] | None, dag: Dag | None) -> dict[str, Any]:
        net = layers and RefObj({"name": name, "layers": layers, "do_bp": np.array([[True]])})
        info = {
            "name": name,
            "group_idx": np.array([[float(index)]]),
            "child_relation": "chain",
            "net_info": net or np.zeros((0, 0)),
            "use_dagnn": np.array([[dag is not None]]),
        }
        return info | ({"dag_net": saveobj(dag)} if dag else {})

    dropout = {"type": "dropout", "rate": np.array([[0.5]])}
    encode = [wrapper("dagnn_wrapper", input_var_names=["data"], output_var_names=saved.taps)]
    refine = [wrapper("input_concat"), wrapper("dagnn_wrapper", output_var_names=[saved.output])]
    loss = [dropout, saved.classifier, wrapper("dense_softmaxloss")]
    infos = [
        group("root", 1, None, None),
        group("multi_featnet", 2, None, None),
        group("featnet_1", 3, encode, saved.encoder),
        group("refinenets", 4, refine, saved.decoder),
        group("loss_group", 5, loss, None),
    ]
    return RefObj({"group_counter": np.array([[5.0]]), "group_infos": infos, "net_input_img_scales": np.array([[1.2]])})


class StructArray(list[dict[str, Any]]):
    pass


def saveobj(dag: Dag) -> dict[str, Any]:
    names = sorted({name for layer in dag.layers for name in (*layer["inputs"], *layer["outputs"])})
    rates = {"learningRate": np.ones((1, 1)), "weightDecay": np.ones((1, 1))}
    return {
        "vars": StructArray({"name": name, "precious": np.array([[False]])} for name in names),
        "params": StructArray({"name": name, "value": value, **rates} for name, value in dag.params.items()),
        "layers": StructArray(dag.layers),
        "meta": {},
    }


# --- arithmetic


def imresize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """MATLAB's bicubic enlargement, one dimension after the other, its ends repeated outwards."""
    for axis, out in zip((2, 3), size, strict=True):
        into = x.shape[axis]
        weights = np.zeros((out, into))
        for i in range(out):
            u = (i + 1) * into / out + 0.5 * (1 - into / out)  # from 1, as MATLAB counts
            left = int(np.floor(u - 2))
            for j in range(left, left + 6):
                d = abs(u - j)
                w = 1.5 * d**3 - 2.5 * d**2 + 1 if d <= 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d <= 2 else 0.0
                weights[i, min(max(j, 1), into) - 1] += w
        x = torch.tensordot(x, torch.from_numpy(weights).float(), ([axis], [1])).movedim(-1, axis)
    return x


def _run(dag: Dag, variables: dict[str, Tensor]) -> dict[str, Tensor]:
    for layer in dag.layers:
        xs = [variables[name] for name in layer["inputs"]]
        weights = [torch.from_numpy(dag.params[name]) for name in layer["params"]]
        variables[layer["outputs"][0]] = _forward(layer["type"], layer["block"], xs, weights)
    return variables


def _forward(kind: str, block: dict[str, Any], xs: list[Tensor], weights: list[Tensor]) -> Tensor:
    x = xs[0]
    if kind == "dagnn.Conv":
        bias = weights[1].ravel() if len(weights) > 1 else None
        return F.conv2d(x, weights[0].permute(3, 2, 0, 1), bias, int(block["stride"][0, 0]), int(block["pad"][0, 0]))
    if kind == "dagnn.BatchNorm":
        mult, bias, (mean, sigma) = weights[0].ravel(), weights[1].ravel(), weights[2].T
        return ((x.movedim(1, -1) - mean) / sigma * mult + bias).movedim(-1, 1)
    if kind == "dagnn.ReLU":
        return x.clamp(min=0)
    if kind == "dagnn.Pooling":
        return F.max_pool2d(x, int(block["poolSize"][0, 0]), int(block["stride"][0, 0]), int(block["pad"][0, 0]))
    if kind in ("dagnn.DropOut", "My_copy_layer"):
        return x
    assert kind in ("dagnn.Sum", "My_sum_layer")
    height, width = (max(x.shape[axis] for x in xs) for axis in (2, 3))
    if kind == "My_sum_layer":
        xs = [x if x.shape[2:] == (height, width) else imresize(x, (height, width)) for x in xs]
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total


def logits(saved: Saved, image: np.ndarray) -> Tensor:
    x = torch.from_numpy(image.astype(np.float32) - 128).permute(2, 0, 1)[None]
    encoded = _run(saved.encoder, {"data": x})
    inputs = {f"p_ims1d2_outl{path}": encoded[tap] for path, tap in enumerate(saved.taps, 1)}
    x = _run(saved.decoder, inputs)[saved.output]
    weight, bias = (torch.from_numpy(saved.classifier[name]) for name in ("filters", "biases"))
    return F.conv2d(x, weight.permute(3, 2, 0, 1), bias.ravel(), padding=1)


# --- files


def _text(kind: str) -> np.bytes_:
    return np.bytes_(kind.encode())


class _Writer:
    """A MATLAB 7.3 file: what is in cells and objects lies in #refs#, objects' properties are named in #subsystem#."""

    def __init__(self, file: h5py.File) -> None:
        self.file, self.refs, self.number = file, file.create_group("#refs#"), itertools.count()
        self.properties: list[h5py.Reference] = []

    def put(self, group: h5py.Group, name: str, value: Any) -> Any:
        if isinstance(value, RefObj):
            self.properties.append(self.reference(value.ref))
            item = group.create_dataset(name, data=np.array([[0xDD000000, 2, 1, 1, len(self.properties), 1]], "u4"))
            item.attrs["MATLAB_object_decode"] = np.int32(3)
            item.attrs["MATLAB_class"] = _text("ref_obj")
        elif isinstance(value, StructArray):
            item = group.create_group(name)
            item.attrs["MATLAB_class"] = _text("struct")
            for key in value[0]:
                column = [[self.reference(row[key])] for row in value]
                item.create_dataset(key, data=np.array(column, h5py.ref_dtype), dtype=h5py.ref_dtype)
        elif isinstance(value, (dict, Handle)):
            item = group.create_group(name)
            item.attrs["MATLAB_class"] = _text("struct" if isinstance(value, dict) else "function_handle")
            for key, inner in (
                value if isinstance(value, dict) else {"function_handle": {"function": value.name}}
            ).items():
                self.put(item, key, inner)
        else:
            item = self._dataset(group, name, value)
        return item

    def _dataset(self, group: h5py.Group, name: str, value: Any) -> Any:
        empty = len(value) == 0
        if isinstance(value, list):
            kind, data = "cell", np.array([[self.reference(inner)] for inner in value], h5py.ref_dtype)
        elif isinstance(value, str):
            kind, data = "char", np.array([[ord(letter)] for letter in value], "u2")
        else:
            kind, data = {"f4": "single", "f8": "double", "b1": "logical"}[value.dtype.str[1:]], value.T
            data = data.astype("u1") if kind == "logical" else data
        if empty:  # MATLAB writes the dimensions
            item = group.create_dataset(name, data=np.zeros(2, "u8"))
            item.attrs["MATLAB_empty"] = np.uint8(1)
        else:
            item = group.create_dataset(name, data=data)
        item.attrs["MATLAB_class"] = _text(kind)
        return item

    def reference(self, value: Any) -> h5py.Reference:
        return self.put(self.refs, f"r{next(self.number)}", value).ref


def write_73(saved: Saved, path: Path) -> Path:
    with h5py.File(path, "w", userblock_size=512) as file:
        writer = _Writer(file)
        writer.put(file, "net_config", saved.config)
        metadata = writer.refs.create_dataset("metadata", data=np.arange(64, dtype="u1")[:, None])
        column = np.array([[metadata.ref], *([ref] for ref in writer.properties)], h5py.ref_dtype)
        mcos = file.create_group("#subsystem#").create_dataset("MCOS", data=column, dtype=h5py.ref_dtype)
        mcos.attrs["MATLAB_class"] = _text("FileWrapper__")
        mcos.attrs["MATLAB_object_decode"] = np.int32(3)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Tue Feb 13 2018 HDF5 schema 1.00 .".ljust(116))
        file.write(bytes(8) + b"\x00\x02IM")
    return path


def write_5(saved: Saved, path: Path, compressed: bool = True) -> Path:
    scipy.io.savemat(path, {"net_config": _plain(saved.config)}, do_compression=compressed)
    return path


def _plain(value: Any) -> Any:
    """As `savemat` takes it: without objects, which it cannot write."""
    if isinstance(value, (RefObj, Handle)):
        return _plain(value.ref) if isinstance(value, RefObj) else value.name
    if isinstance(value, StructArray):
        array = np.empty((1, len(value)), [(name, object) for name in value[0]])
        for name in value[0]:
            array[name][0] = _cell(row[name] for row in value)
        return array
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()} or np.zeros((1, 1), [("none", object)])
    return _cell(value)[None] if isinstance(value, list) else value


def _cell(values: Iterator[Any] | list[Any]) -> np.ndarray:
    values = list(values)
    cell = np.empty(len(values), object)
    for i, value in enumerate(values):
        cell[i] = _plain(value)
    return cell
