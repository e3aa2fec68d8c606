"""Somebody's networks, in little: the styles of segmentation networks that are about, each as its exporter writes it.

`NETWORKS` are torch modules of 3xHxW -> 5 classes with random weights; `file_of(name)` is the ONNX file of one, by
torch's older exporter (TorchScript) or its newer (dynamo), at the opset that its name ends with.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = (64, 96)
CLASSES, WIDTH = 5, 8
Body = Callable[[Tensor], Tensor]
NETWORKS: dict[str, Callable[[], nn.Module]] = {}


def network(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    NETWORKS[make.__name__] = make
    return make


class Net(nn.Module):
    """Parts by name, and a function that runs them."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def cbr(i: int, o: int, k: Any = 3, s: int = 1, d: int = 1, g: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Convolution, batch norm, activation."""
    size = (k, k) if isinstance(k, int) else k
    pads = tuple(d * (side // 2) for side in size)
    return nn.Sequential(nn.Conv2d(i, o, size, s, pads, d, g, bias=False), nn.BatchNorm2d(o), act())


def stem(s: int = 4, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(cbr(3, WIDTH, s=2, act=act), *([cbr(WIDTH, WIDTH, s=2, act=act)] if s == 4 else []))


def head(i: int = WIDTH) -> nn.Module:
    return nn.Conv2d(i, CLASSES, 1)


def up(x: Tensor, like: Tensor | None = None, corners: bool = False, **more: Any) -> Tensor:
    if like is not None:
        return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=corners)
    return F.interpolate(x, scale_factor=2, **({"mode": "bilinear", "align_corners": corners} | more))


class Squeeze(nn.Module):
    def __init__(self, c: int = WIDTH, gate: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.gates = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, 2, 1), nn.ReLU(), nn.Conv2d(2, c, 1), gate())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gates(x)


class Residual(nn.Module):
    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Norm2d(nn.Module):
    """LayerNorm over channels, the axes moved there and back."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Tokens(nn.Module):
    """A transformer block over the pixels of a map; keys and values of every `reduce`-th."""

    def __init__(self, c: int = WIDTH, heads: int = 2, reduce: int = 1, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.norm, self.q, self.kv, self.out = (nn.LayerNorm(c), nn.Linear(c, c), nn.Linear(c, 2 * c), nn.Linear(c, c))
        self.reduce = nn.Conv2d(c, c, reduce, reduce) if reduce > 1 else nn.Identity()
        self.mlp = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        few = self.reduce(self.norm(tokens).transpose(1, 2).reshape(b, c, h, w)).flatten(2).transpose(1, 2)
        q = self.q(self.norm(tokens)).reshape(b, -1, self.heads, c // self.heads).transpose(1, 2)
        k, v = self.kv(few).reshape(b, -1, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1) @ v
        tokens = tokens + self.out(mixed.transpose(1, 2).reshape(b, -1, c))
        tokens = tokens + self.mlp(tokens)
        return tokens.transpose(1, 2).reshape(b, c, h, w)


# --- encoders and decoders


@network
def fcn_with_deconvolutions() -> nn.Module:
    deep = nn.ConvTranspose2d(WIDTH, WIDTH, 4, 2, 1, groups=WIDTH, bias=False)
    return nn.Sequential(stem(), nn.Dropout2d(), deep, nn.ConvTranspose2d(WIDTH, CLASSES, 3, 2, 1, 1))


@network
def unet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        a = m.a(x)
        b = m.b(F.max_pool2d(a, 2))
        c = m.c(F.max_pool2d(b, 2))
        b = m.ub(torch.cat([b, m.tb(c)], 1))
        return m.head(m.ua(torch.cat([a, m.ta(b)], 1)))

    double = lambda i, o: nn.Sequential(cbr(i, o), cbr(o, o))  # noqa: E731
    deep = {"a": double(3, 8), "b": double(8, 16), "c": double(16, 16)}
    way = {"tb": nn.ConvTranspose2d(16, 16, 2, 2), "ta": nn.ConvTranspose2d(8, 8, 2, 2)}
    return Net(run, **deep, **way, ub=double(32, 8), ua=double(16, 8), head=head())


@network
def unet_plus_plus() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x00 = m.a(x)
        x10 = m.b(F.max_pool2d(x00, 2))
        x20 = m.c(F.max_pool2d(x10, 2))
        x01 = m.d(torch.cat([x00, up(x10, mode="nearest", align_corners=None)], 1))
        x11 = m.e(torch.cat([x10, up(x20, mode="nearest", align_corners=None)], 1))
        return m.head(m.f(torch.cat([x00, x01, up(x11, mode="nearest", align_corners=None)], 1)))

    blocks = {name: cbr(i, 8) for name, i in (("b", 8), ("c", 8), ("d", 16), ("e", 16), ("f", 24))}
    return Net(run, a=cbr(3, 8), head=head(), **blocks)


@network
def attention_unet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        fine = m.a(x)
        deep = up(m.b(F.max_pool2d(fine, 2)), corners=True)
        gate = torch.sigmoid(m.psi(F.relu(m.g(deep) + m.x(fine))))
        return m.head(torch.cat([fine * gate, deep], 1))

    one = {name: nn.Conv2d(8, o, 1) for name, o in (("g", 4), ("x", 4))}
    return Net(run, a=cbr(3, 8), b=cbr(8, 8), psi=nn.Conv2d(4, 1, 1), head=head(16), **one)


def pyramid(*levels: nn.Module) -> dict[str, nn.Module]:
    return {f"l{place}": level for place, level in enumerate(levels, 1)}


def _taps(m: Any, x: Tensor) -> list[Tensor]:
    taps = [m.l1(x)]
    for level in (m.l2, m.l3):
        taps.append(level(taps[-1]))
    return taps


@network
def fpn() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        a, b, c = _taps(m, x)
        p = [m.s3(c)]
        p.append(m.s2(b) + up(p[-1], mode="nearest", align_corners=None))
        p.append(m.s1(a) + up(p[-1], mode="nearest", align_corners=None))
        return m.head(sum(up(each, p[-1]) for each in p))

    lateral = {f"s{i}": nn.Conv2d(8, 8, 1) for i in (1, 2, 3)}
    return Net(run, **pyramid(stem(2), cbr(8, 8, s=2), cbr(8, 8, s=2)), **lateral, head=head())


@network
def pspnet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        pools = [
            up(conv(F.adaptive_avg_pool2d(x, side)), x, True) for side, conv in zip((1, 2, 4, 8), m.convs, strict=True)
        ]
        return m.head(torch.cat([x, *pools], 1))

    return Net(run, stem=stem(), convs=nn.ModuleList(cbr(8, 4, 1) for _ in range(4)), head=head(24))


@network
def pan() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        a, _, c = _taps(m, x)
        gate = F.adaptive_avg_pool2d(up(m.g(c), c), 1).sigmoid()
        return m.head(m.low(a) * gate + up(c, a, True))

    return Net(run, **pyramid(stem(2), cbr(8, 8, s=2), cbr(8, 8, s=2)), g=cbr(8, 8, 1), low=cbr(8, 8), head=head())


@network
def linknet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        a, b, c = _taps(m, x)
        return m.head(m.d1(m.d2(c) + b) + a)

    ups = {f"d{i}": nn.Sequential(cbr(8, 4, 1), nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), cbr(4, 8, 1)) for i in (1, 2)}
    return Net(run, **pyramid(stem(2), cbr(8, 8, s=2), cbr(8, 8, s=2)), **ups, head=head())


@network
def manet() -> nn.Module:
    """Position attention and gates on the way up."""

    def run(m: Any, x: Tensor) -> Tensor:
        a, _, c = _taps(m, x)
        b, n, h, w = c.shape
        q, k = m.q(c).view(b, -1, h * w), m.k(c).view(b, -1, h * w)
        weights = torch.softmax(torch.bmm(k.transpose(1, 2), q).view(b, -1), 1).view(b, h * w, h * w)
        c = c + torch.bmm(m.v(c).view(b, n, h * w).transpose(1, 2).transpose(1, 2), weights).view(b, n, h, w)
        return m.head(torch.cat([m.se(a), up(c, a)], 1))

    ones = {name: nn.Conv2d(8, 8, 1) for name in "qkv"}
    return Net(run, **pyramid(stem(2), cbr(8, 8, s=2), cbr(8, 8, s=2)), **ones, se=Squeeze(), head=head(16))


def aspp(c: int = WIDTH) -> nn.ModuleList:
    return nn.ModuleList([cbr(c, c, 1), *(cbr(c, c, d=d) for d in (2, 4))])


@network
def deeplabv3() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        mean = up(m.pool(x), x)
        return m.head(torch.cat([*(branch(x) for branch in m.aspp), mean], 1))

    mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.ReLU())
    return Net(run, stem=stem(), aspp=aspp(), pool=mean, head=nn.Sequential(cbr(32, 8, 1), nn.Dropout(0.5), head()))


@network
def deeplabv3_plus() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        a, _, c = _taps(m, x)
        deep = m.project(torch.cat([branch(c) for branch in m.aspp], 1))
        return up(m.head(torch.cat([m.low(a), F.interpolate(deep, scale_factor=4.0, mode="bilinear")], 1)))

    separable = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1, groups=12), nn.Conv2d(12, 8, 1), nn.ReLU(), head())
    levels = pyramid(stem(2), cbr(8, 8, s=2), cbr(8, 8, s=2))
    return Net(run, **levels, aspp=aspp(), project=cbr(24, 8, 1), low=cbr(8, 4, 1), head=separable)


@network
def upernet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        a, b, c = _taps(m, x)
        c = m.psp(torch.cat([c, *(up(F.adaptive_avg_pool2d(c, s), c) for s in (1, 2, 4))], 1))
        b = b + up(c, b)
        a = a + up(b, a)
        return m.head(torch.cat([a, up(b, a), up(c, a)], 1))

    return Net(run, **pyramid(stem(2), cbr(8, 8, s=2), cbr(8, 8, s=2)), psp=cbr(32, 8), head=head(24))


# --- for real time


@network
def enet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = torch.cat([m.first(x), F.max_pool2d(x, 2)], 1)
        small, places = F.max_pool2d(x, 2, return_indices=True)
        deep = m.body(small)
        x = F.max_unpool2d(deep, places, 2)
        return m.up(F.relu(x))

    body = nn.Sequential(cbr(8, 8, (5, 1), act=nn.PReLU), cbr(8, 8, (1, 5), act=nn.PReLU), cbr(8, 8, d=2, act=nn.PReLU))
    return Net(run, first=nn.Conv2d(3, 5, 3, 2, 1), body=body, up=nn.ConvTranspose2d(8, CLASSES, 3, 2, 1, 1))


@network
def segnet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        a, i = F.max_pool2d(m.a(x), 2, return_indices=True)
        b, j = F.max_pool2d(m.b(a), 2, return_indices=True)
        return m.head(F.max_unpool2d(m.c(F.max_unpool2d(b, j, 2)), i, 2))

    return Net(run, a=cbr(3, 8), b=cbr(8, 8), c=cbr(8, 8), head=nn.Conv2d(8, CLASSES, 3, 1, 1))


@network
def erfnet() -> nn.Module:
    def factorised(d: int) -> nn.Module:
        pair = lambda d: (  # noqa: E731
            nn.Conv2d(8, 8, (3, 1), padding=(d, 0), dilation=(d, 1)),
            nn.ReLU(),
            nn.Conv2d(8, 8, (1, 3), padding=(0, d), dilation=(1, d)),
            nn.BatchNorm2d(8, eps=1e-3),
        )
        return nn.Sequential(Residual(*pair(1), nn.ReLU(), *pair(d), nn.Dropout2d(0.3)), nn.ReLU())

    way = nn.Sequential(nn.ConvTranspose2d(8, 8, 3, 2, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), factorised(1))
    return nn.Sequential(stem(), factorised(2), factorised(4), way, nn.ConvTranspose2d(8, CLASSES, 2, 2))


@network
def espnet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        small = m.reduce(x)
        parts = [branch(small) for branch in m.branches]
        sums = [parts[1]]
        for part in parts[2:]:
            sums.append(sums[-1] + part)
        return m.head(F.prelu(m.bn(torch.cat([parts[0], *sums], 1)) + x, m.slope.weight.flatten()))

    branches = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=d, dilation=d, bias=False) for d in (1, 2, 4, 8))
    parts = {"reduce": nn.Conv2d(8, 2, 1), "branches": branches, "bn": nn.BatchNorm2d(8)}
    return Net(run, stem=stem(), **parts, slope=nn.Embedding(8, 1), head=head())


@network
def bisenet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        detail, context = m.detail(x), m.context(x)
        context = context * torch.sigmoid(m.arm(context.mean((2, 3), keepdim=True)))
        fused = m.fuse(torch.cat([detail, up(context, detail)], 1))
        return m.head(fused + fused * torch.sigmoid(m.ffm(F.avg_pool2d(fused, fused.size()[2:]))))

    paths = {"detail": stem(), "context": nn.Sequential(stem(), cbr(8, 8, s=2))}
    gates = {name: nn.Conv2d(8, 8, 1) for name in ("arm", "ffm")}
    return Net(run, **paths, **gates, fuse=cbr(16, 8, 1), head=head())


@network
def bisenet_v2() -> nn.Module:
    """Bilateral guided aggregation: each side gates the other."""

    def run(m: Any, x: Tensor) -> Tensor:
        detail = m.detail(x)
        semantic = m.semantic(detail)
        fine = m.d1(detail) * torch.sigmoid(up(m.s1(semantic), detail))
        coarse = F.avg_pool2d(m.d2(detail), 3, 2, 1) * torch.sigmoid(m.s2(semantic))
        return m.head(fine + up(coarse, fine))

    ones = {name: nn.Conv2d(8, 8, 3, 1, 1, groups=8) for name in ("d1", "d2", "s1", "s2")}
    return Net(run, detail=stem(), semantic=cbr(8, 8, s=2), **ones, head=head())


@network
def fast_scnn() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        high = m.down(x)
        low = m.ppm(m.deep(high))
        return m.head(F.relu(m.high(high) + m.low(up(low, high, True))))

    depthwise = lambda i, o, s=1: nn.Sequential(cbr(i, i, s=s, g=i), cbr(i, o, 1))  # noqa: E731
    deep = nn.Sequential(depthwise(8, 8, 2), Residual(cbr(8, 16, 1), cbr(16, 16, g=16), nn.Conv2d(16, 8, 1)))
    rest = {"ppm": Residual(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1)), "high": nn.Conv2d(8, 8, 1)}
    return Net(
        run, down=nn.Sequential(stem(2), depthwise(8, 8, 2)), deep=deep, **rest, low=cbr(8, 8, d=4, g=8), head=head()
    )


@network
def cgnet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        small = F.avg_pool2d(x, 3, 2, 1)
        x = m.reduce(torch.cat([m.stem(x), small], 1))
        joint = F.prelu(m.bn(torch.cat([m.local(x), m.around(x)], 1)), m.slope.weight.flatten())
        gate = torch.sigmoid(m.fc(joint.mean([2, 3])))
        return m.head(joint * gate.view(-1, 16, 1, 1))

    local = {name: nn.Conv2d(8, 8, 3, 1, d, d, groups=8) for name, d in (("local", 1), ("around", 3))}
    rest = {"bn": nn.BatchNorm2d(16), "fc": nn.Linear(16, 16), "slope": nn.Embedding(16, 1), "head": head(16)}
    return Net(run, stem=stem(2), reduce=cbr(11, 8, 1), **local, **rest)


@network
def dabnet() -> nn.Module:
    def branch(d: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(4, 4, (3, 1), padding=(d, 0), dilation=(d, 1), groups=4),
            nn.Conv2d(4, 4, (1, 3), padding=(0, d), dilation=(1, d), groups=4),
        )

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = m.squeeze(x)
        return m.head(x + m.expand(F.prelu(m.near(y) + m.far(y), m.slope.weight.flatten())))

    ones = {"squeeze": nn.Conv2d(8, 4, 3, 1, 1), "expand": nn.Conv2d(4, 8, 1), "slope": nn.Embedding(4, 1)}
    return Net(run, stem=stem(), near=branch(1), far=branch(4), **ones, head=head())


@network
def ddrnet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        low, high = m.low(x), m.high(x)
        low, high = low + m.down(high), high + up(m.compress(low), high)
        pools = [m.scale[0](low)]
        for side, conv in zip((5, 0), list(m.scale)[1:], strict=True):
            pooled = F.avg_pool2d(low, side, 2, side // 2) if side else F.adaptive_avg_pool2d(low, (1, 1))
            pools.append(conv(up(pooled, low) + pools[-1]))
        return m.head(high + up(torch.cat(pools, 1)[:, :8], high))

    ones = {"down": cbr(8, 8, s=2), "compress": cbr(8, 8, 1)}
    scale = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3))
    return Net(run, stem=stem(), low=cbr(8, 8, s=2), high=cbr(8, 8), **ones, scale=scale, head=head())


@network
def pidnet() -> nn.Module:
    """Three branches; the boundary's sigmoid weighs the other two."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        p, i, d = m.p(x), m.i(x), m.d(x)
        i = up(i, p)
        likeness = torch.sigmoid(torch.sum(m.fp(p) * m.fi(i), dim=1).unsqueeze(1))
        p = (1 - likeness) * p + likeness * i
        edge = torch.sigmoid(d)
        return m.head(m.a((1 - edge) * i + p) + m.b(p + edge * i))

    branches = {"p": cbr(8, 8), "i": cbr(8, 8, s=2), "d": nn.Conv2d(8, 8, 3, 1, 1)}
    return Net(run, stem=stem(), **branches, **{name: cbr(8, 8, 1) for name in ("fp", "fi", "a", "b")}, head=head())


@network
def stdc() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        parts = [m.a(x)]
        for conv in m.rest:
            parts.append(conv(parts[-1]))
        return m.head(torch.cat([F.avg_pool2d(parts[0], 3, 1, 1), *parts[1:]], dim=1))

    return Net(run, stem=stem(), a=cbr(8, 4, 1), rest=nn.ModuleList([cbr(4, 2), cbr(2, 2)]), head=head(8))


@network
def icnet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        half = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=True)
        low, high = m.low(half), m.high(x)
        return m.head(F.relu(m.project(high) + m.dilated(up(low, high, True))))

    ones = {"project": nn.Conv2d(8, 8, 1), "dilated": nn.Conv2d(8, 8, 3, 1, 2, 2)}
    return Net(run, low=stem(), high=stem(), **ones, head=head())


@network
def regseg() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        one, other = torch.chunk(x, 2, 1)
        return m.head(m.se(torch.cat([m.a(one), m.b(other)], 1)) + x)

    return Net(run, stem=stem(), a=cbr(4, 4, g=2), b=cbr(4, 4, d=3, g=2), se=Squeeze(), head=head())


# --- encoders


@network
def mobilenet_v3_lraspp() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        deep = m.block(x)
        return m.low(x) + m.high(up(m.cbr(deep) * m.scale(deep), x))

    wide = (cbr(8, 16, 1, act=nn.Hardswish), cbr(16, 16, s=2, g=16, act=nn.Hardswish), Squeeze(16, nn.Hardsigmoid))
    scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1, bias=False), nn.Sigmoid())
    ends = {"low": head(), "high": head()}
    return Net(run, stem=stem(act=nn.Hardswish), block=nn.Sequential(*wide), cbr=cbr(16, 8, 1), scale=scale, **ends)


@network
def efficientnet() -> nn.Module:
    inverted = Residual(cbr(8, 16, 1, act=nn.SiLU), cbr(16, 16, 5, g=16, act=nn.SiLU), Squeeze(16), nn.Conv2d(16, 8, 1))
    return nn.Sequential(stem(act=nn.SiLU), inverted, head(), nn.Upsample(scale_factor=4, mode="bicubic"))


@network
def shufflenet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        kept, other = x.chunk(2, dim=1)
        x = torch.cat((kept, m.branch(other)), dim=1)
        b, c, h, w = x.size()
        return m.head(x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w))

    branch = nn.Sequential(cbr(4, 4, 1), nn.Conv2d(4, 4, 3, 1, 1, groups=4), cbr(4, 4, 1))
    return Net(run, stem=stem(), branch=branch, head=head())


@network
def ghostnet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        one = m.primary(m.stem(x))
        return m.head(torch.cat([one, m.cheap(one)], dim=1)[:, :7, :, :])

    return Net(run, stem=stem(), primary=cbr(8, 4, 1), cheap=cbr(4, 4, g=4), head=head(7))


@network
def densenet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        maps = [m.stem(x)]
        for layer in m.layers:
            maps.append(layer(torch.cat(maps, 1)))
        return m.head(torch.cat(maps, 1))

    layer = lambda i: nn.Sequential(nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, 4, 3, 1, 1))  # noqa: E731
    return Net(run, stem=stem(), layers=nn.ModuleList(layer(i) for i in (8, 12)), head=head(16))


@network
def res2net() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        parts = torch.split(x, 2, 1)
        found = [parts[0]]
        for part, conv in zip(parts[1:], m.convs, strict=True):
            found.append(conv(part + found[-1]))
        return m.head(torch.cat(found, 1) + x)

    return Net(run, stem=stem(), convs=nn.ModuleList(cbr(2, 2) for _ in range(3)), head=head())


@network
def repvgg_in_training_form() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(F.relu(m.wide(x) + m.narrow(x) + m.identity(x)))

    pair = lambda k: nn.Sequential(nn.Conv2d(8, 8, k, padding=k // 2, bias=False), nn.BatchNorm2d(8))  # noqa: E731
    return Net(run, stem=stem(), wide=pair(3), narrow=pair(1), identity=nn.BatchNorm2d(8), head=head())


@network
def hrnet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        high = m.stem(x)
        low = m.down(high)
        high, low = m.a(high), m.b(low)
        high, low = F.relu(high + up(m.up(low), high)), F.relu(low + m.again(high))
        return m.head(torch.cat([high, up(low, high)], 1))

    blocks = {"a": Residual(cbr(8, 8)), "b": Residual(cbr(8, 8)), "again": cbr(8, 8, s=2), "up": cbr(8, 8, 1)}
    return Net(run, stem=stem(), down=cbr(8, 8, s=2), **blocks, head=head(16))


@network
def convnext() -> nn.Module:
    block = Residual(nn.Conv2d(8, 8, 7, 1, 3, groups=8), Norm2d(8), nn.Conv2d(8, 32, 1), nn.GELU(), nn.Conv2d(32, 8, 1))
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), Norm2d(8), block, block, head())


@network
def convnext_v2() -> nn.Module:
    """Global response normalisation."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).permute(0, 2, 3, 1)
        x = F.gelu(m.wide(F.layer_norm(x, (8,))), approximate="tanh")
        spread = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        x = x * (spread / (spread.mean(dim=-1, keepdim=True) + 1e-6)) + x
        return m.head(x.permute(0, 3, 1, 2))

    return Net(run, stem=nn.Conv2d(3, 8, 4, 4), wide=nn.Linear(8, 16), head=head(16))


# --- attention


@network
def segformer() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        a = m.t1(m.p1(x))
        b = m.t2(m.p2(a))
        mixed = [m.m1(a.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(a.shape)]
        mixed.append(up(m.m2(b.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(b.shape), a))
        return m.head(m.fuse(torch.cat(mixed[::-1], 1)))

    levels = {"p1": nn.Conv2d(3, 8, 7, 4, 3), "t1": Tokens(reduce=4), "p2": nn.Conv2d(8, 8, 3, 2, 1), "t2": Tokens()}
    return Net(run, **levels, m1=nn.Linear(8, 8), m2=nn.Linear(8, 8), fuse=cbr(16, 8, 1), head=head())


@network
def vit_with_fused_attention() -> nn.Module:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.randn(1, 8, SIZE[0] // 8, SIZE[1] // 8) * 0.1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.places

    return nn.Sequential(nn.Conv2d(3, 8, 8, 8), Placed(), Tokens(fused=True), Tokens(fused=True), head())


@network
def torch_multihead_attention() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        tokens = x.flatten(2).permute(0, 2, 1)
        mixed, _ = m.mha(tokens, tokens, tokens, need_weights=False)
        return m.head(mixed.permute(0, 2, 1).reshape(x.shape))

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    return Net(run, stem=nn.Sequential(stem(), cbr(8, 8, s=2)), mha=attention, head=head())


@network
def swin() -> nn.Module:
    """Windows of 4x4, rolled by two."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        rolled = torch.roll(x, shifts=(-2, -2), dims=(1, 2))
        windows = rolled.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = m.qkv(windows).chunk(3, dim=-1)
        windows = m.out(torch.softmax(q @ k.transpose(-2, -1) / 3 + m.bias.weight, -1) @ v)
        back = windows.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(back, shifts=(2, 2), dims=(1, 2))
        return m.head(F.layer_norm(x, (c,)).permute(0, 3, 1, 2))

    return Net(run, stem=stem(), qkv=nn.Linear(8, 24), out=nn.Linear(8, 8), bias=nn.Embedding(16, 16), head=head())


@network
def mobilevit() -> nn.Module:
    """Patches of 2x2 are tokens of four sequences."""

    def run(m: Any, x: Tensor) -> Tensor:
        local = m.local(m.stem(x))
        b, c, h, w = local.shape
        patches = local.reshape(b * c * (h // 2), 2, w // 2, 2).transpose(1, 2)
        patches = patches.reshape(b, c, h * w // 4, 4).transpose(1, 3).reshape(b * 4, -1, c)
        patches = patches + (m.q(patches) @ m.k(patches).transpose(1, 2)).softmax(-1) @ m.v(patches)
        back = patches.reshape(b, 4, -1, c).transpose(1, 3).reshape(b * c * (h // 2), w // 2, 2, 2)
        return m.head(m.fuse(torch.cat([local, back.transpose(1, 2).reshape(b, c, h, w)], 1)))

    ones = {name: nn.Linear(8, 8) for name in "qkv"}
    return Net(run, stem=stem(act=nn.SiLU), local=cbr(8, 8), **ones, fuse=cbr(16, 8), head=head())


@network
def poolformer() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        normal = m.n1(x)
        x = x + m.scale.weight.view(8, 1, 1) * (F.avg_pool2d(normal, 3, 1, 1, count_include_pad=False) - normal)
        return m.head(x + m.mlp(m.n2(x)))

    norms = {"n1": nn.GroupNorm(1, 8), "n2": nn.GroupNorm(1, 8), "scale": nn.Embedding(8, 1)}
    return Net(
        run, stem=stem(), **norms, mlp=nn.Sequential(nn.Conv2d(8, 16, 1), nn.GELU(), nn.Conv2d(16, 8, 1)), head=head()
    )


@network
def nonlocal_einsum() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        q, k, v = (conv(x).flatten(2) for conv in (m.q, m.k, m.v))
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k), dim=-1)
        return m.head(x + torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape))

    ones = {name: nn.Conv2d(8, 8, 1) for name in "qkv"}
    return Net(run, stem=nn.Sequential(stem(), cbr(8, 8, s=2)), **ones, head=head())


@network
def danet_channels() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        flat = x.view(x.size(0), 8, -1)
        energy = torch.bmm(flat, flat.permute(0, 2, 1))
        other = torch.max(energy, -1, keepdim=True)[0].expand_as(energy) - energy
        return m.head(torch.bmm(F.softmax(other, -1), flat).view_as(x) + x)

    return Net(run, stem=stem(), head=head())


@network
def object_context() -> nn.Module:
    """Each pixel attends to the means of the classes' regions."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        coarse = m.aux(x)
        b, c, h, w = x.shape
        share = F.softmax(coarse.flatten(2), dim=2)
        regions = torch.matmul(share, x.flatten(2).permute(0, 2, 1))
        weights = F.softmax(torch.matmul(m.q(x).flatten(2).permute(0, 2, 1), regions.permute(0, 2, 1)), dim=-1)
        context = torch.matmul(weights, regions).permute(0, 2, 1).reshape(b, c, h, w)
        return m.head(torch.cat([context, x], 1))

    return Net(run, stem=stem(), aux=head(), q=nn.Conv2d(8, 8, 1), head=head(16))


@network
def criss_cross() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        b, c, h, w = x.shape
        q, k, v = m.q(x), m.k(x), m.v(x)
        rows = lambda t: t.permute(0, 2, 3, 1).reshape(b * h, w, c)  # noqa: E731
        columns = lambda t: t.permute(0, 3, 2, 1).reshape(b * w, h, c)  # noqa: E731
        across = torch.softmax(rows(q) @ rows(k).transpose(1, 2), -1) @ rows(v)
        down = torch.softmax(columns(q) @ columns(k).transpose(1, 2), -1) @ columns(v)
        both = across.reshape(b, h, w, c).permute(0, 3, 1, 2) + down.reshape(b, w, h, c).permute(0, 3, 2, 1)
        return m.head(x + both)

    return Net(run, stem=stem(), **{name: nn.Conv2d(8, 8, 1) for name in "qkv"}, head=head())


@network
def strip_pooling() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        h, w = x.shape[2:]
        rows = F.interpolate(m.rows(F.adaptive_avg_pool2d(x, (None, 1))), (h, w), mode="bilinear", align_corners=False)
        columns = F.interpolate(m.columns(F.adaptive_avg_pool2d(x, (1, None))), (h, w), mode="bilinear")
        return m.head(x * torch.sigmoid(m.mix(F.relu(rows + columns))))

    convs = {"rows": nn.Conv2d(8, 8, (3, 1), 1, (1, 0)), "columns": nn.Conv2d(8, 8, (1, 3), 1, (0, 1))}
    return Net(run, stem=stem(), **convs, mix=nn.Conv2d(8, 8, 1), head=head())


@network
def cbam() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        channels = torch.sigmoid(m.mlp(F.adaptive_avg_pool2d(x, 1)) + m.mlp(F.adaptive_max_pool2d(x, 1)))
        x = x * channels
        maps = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return m.head(x * torch.sigmoid(m.space(maps)))

    return Net(
        run,
        stem=stem(),
        mlp=nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1)),
        space=nn.Conv2d(2, 1, 7, 1, 3),
        head=head(),
    )


@network
def coordinate_attention() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        h, w = x.shape[2:]
        both = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)], dim=2)
        rows, columns = torch.split(F.hardswish(m.mix(both)), [h, w], dim=2)
        return m.head(x * m.r(rows).sigmoid() * m.c(columns.permute(0, 1, 3, 2)).sigmoid())

    return Net(run, stem=stem(), mix=cbr(8, 4, 1), r=nn.Conv2d(4, 8, 1), c=nn.Conv2d(4, 8, 1), head=head())


# --- ways to enlarge


def _enlarged(way: Body) -> nn.Module:
    return Net(lambda m, x: m.head(way(m.stem(x))), stem=stem(), head=head())


for _name, _way in {
    "nearest": partial(F.interpolate, scale_factor=2, mode="nearest"),
    "nearest_to_odd": partial(F.interpolate, size=(37, 53), mode="nearest"),
    "bilinear": partial(F.interpolate, scale_factor=2, mode="bilinear", align_corners=False),
    "bilinear_corners": partial(F.interpolate, scale_factor=2, mode="bilinear", align_corners=True),
    "bilinear_by_fraction": partial(F.interpolate, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
    "bilinear_down": partial(F.interpolate, size=(9, 13), mode="bilinear"),
    "bicubic": partial(F.interpolate, scale_factor=2, mode="bicubic", align_corners=False),
    "bicubic_corners": partial(F.interpolate, size=(33, 47), mode="bicubic", align_corners=True),
    "area": partial(F.interpolate, size=(8, 12), mode="area"),
    "bilinear_antialias": partial(F.interpolate, size=(9, 13), mode="bilinear", antialias=True),
    "bicubic_antialias": partial(F.interpolate, size=(9, 13), mode="bicubic", antialias=True),
    "nearest_exact": partial(F.interpolate, size=(37, 53), mode="nearest-exact"),
}.items():
    NETWORKS[f"resized_{_name}"] = partial(_enlarged, _way)


@network
def pixel_shuffle() -> nn.Module:
    return nn.Sequential(stem(), nn.Conv2d(8, CLASSES * 16, 1), nn.PixelShuffle(4))


@network
def duc_by_reshape() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.wide(m.stem(x))
        b, _, h, w = x.shape
        return x.view(b, CLASSES, 4, 4, h, w).permute(0, 1, 4, 2, 5, 3).contiguous().view(b, CLASSES, h * 4, w * 4)

    return Net(run, stem=stem(), wide=nn.Conv2d(8, CLASSES * 16, 1))


@network
def pixel_unshuffle() -> nn.Module:
    return nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 3, 1, 1), nn.ReLU(), head())


@network
def focus_by_slices() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        parts = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return m.head(F.silu(m.conv(torch.cat(parts, 1))))

    return Net(run, conv=nn.Conv2d(12, 8, 3, 1, 1), head=head())


@network
def aligned_by_flow() -> nn.Module:
    """SFNet: the coarse map is sampled where a flow says."""

    def run(m: Any, x: Tensor) -> Tensor:
        fine = m.stem(x)
        coarse = m.deep(fine)
        h, w = fine.shape[2:]
        ys, xs = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        flow = m.flow(torch.cat([fine, up(coarse, fine)], 1)).permute(0, 2, 3, 1)
        grid = torch.stack([xs, ys], -1).unsqueeze(0) + flow / torch.tensor([w, h])
        return m.head(fine + F.grid_sample(coarse, grid, mode="bilinear", padding_mode="zeros", align_corners=True))

    return Net(run, stem=stem(), deep=cbr(8, 8, s=2), flow=nn.Conv2d(16, 2, 3, 1, 1), head=head())


@network
def carafe() -> nn.Module:
    """Kernels that are predicted for each pixel, over unfolded patches."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        b, c, h, w = x.shape
        kernels = F.softmax(F.pixel_shuffle(m.encode(x), 2), dim=1)
        patches = F.unfold(x, 3, padding=1).view(b, c * 9, h, w)
        patches = F.interpolate(patches, scale_factor=2, mode="nearest").view(b, c, 9, 2 * h, 2 * w)
        return m.head((patches * kernels.unsqueeze(1)).sum(2))

    return Net(run, stem=stem(), encode=nn.Conv2d(8, 36, 3, 1, 1), head=head())


# --- norms, activations, ends


def _normed(norm: Callable[[], nn.Module], act: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), norm(), act(), nn.Conv2d(8, 8, 3, 1, 1), norm(), act(), head())


NETWORKS |= {
    "group_norm": partial(_normed, lambda: nn.GroupNorm(2, 8), nn.Mish),
    "instance_norm": partial(_normed, lambda: nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU),
    "layer_norm_2d": partial(_normed, lambda: Norm2d(8), nn.ELU),
    "local_response_norm": partial(_normed, lambda: nn.LocalResponseNorm(3), nn.Softplus),
    "no_affine": partial(_normed, lambda: nn.BatchNorm2d(8, affine=False), nn.CELU),
    "ends_with_softmax": lambda: nn.Sequential(stem(), head(), nn.Softmax(dim=1)),
    "ends_with_log_softmax": lambda: nn.Sequential(stem(), head(), nn.LogSoftmax(1)),
    "reflection_and_replication_padding": lambda: nn.Sequential(
        nn.ReflectionPad2d(3), nn.Conv2d(3, 8, 7, 2), nn.SELU(), nn.ReplicationPad2d(1), nn.Conv2d(8, CLASSES, 3)
    ),
    "weight_norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, 2, 1)), nn.Tanh(), head()
    ),
}


@network
def coordconv() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        h, w = x.shape[2:]
        ys, xs = torch.linspace(-1, 1, h).view(1, 1, h, 1), torch.linspace(-1, 1, w).view(1, 1, 1, w)
        return m.head(torch.cat([x, ys.expand(1, 1, h, w), xs.expand(1, 1, h, w)], 1))

    return Net(run, stem=stem(), head=head(10))


@network
def normalises_in_the_graph() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        mean, std = torch.tensor([123.0, 117.0, 104.0]).view(1, 3, 1, 1), torch.tensor([58.0, 57.0, 57.0])
        return m.body((x[:, [2, 1, 0]] - mean) / std.view(1, 3, 1, 1))

    return Net(run, body=nn.Sequential(stem(), head()))


@network
def weighted_fusion() -> nn.Module:
    """BiFPN: weights of inputs that are learned, normalised in the graph."""

    def run(m: Any, x: Tensor) -> Tensor:
        a, b, c = _taps(m, x)
        share = F.relu(m.share.weight.flatten())
        share = share / (share.sum() + 1e-4)
        return m.head(share[0] * a + share[1] * up(b, a) + share[2] * up(c, a))

    return Net(run, **pyramid(stem(2), cbr(8, 8, s=2), cbr(8, 8, s=2)), share=nn.Embedding(3, 1), head=head())


OLD = (11, 13, 9, 12, 14, 10, 15, 16, 17, 11, 18, 20)  # what the older exporter is asked for, in turn
NEW = (18, 20, 21, 22, 23)
SINCE = {  # the first opset that has what a network needs
    "aligned_by_flow": 16,
    "resized_bicubic": 11,
    "efficientnet": 11,
    "resized_bicubic_corners": 11,
    "resized_bilinear_corners": 11,
    "nonlocal_einsum": 12,
    "vit_with_fused_attention": 14,
    "torch_multihead_attention": 14,
}
BY_DYNAMO_ONLY = (
    *("resized_bilinear_antialias", "resized_bicubic_antialias", "resized_nearest_exact", "enet", "segnet"),
)
BY_DYNAMO = (*BY_DYNAMO_ONLY, "segformer", "swin", "vit_with_fused_attention", "aligned_by_flow", "group_norm")


def _opset(place: int, name: str) -> int:
    opset = OLD[place % len(OLD)]
    corners = name in ("attention_unet", "pspnet", "fast_scnn", "icnet", "pan", "carafe", "focus_by_slices")
    return max(opset, SINCE.get(name, 11 if corners else 9))


NAMES = (
    *(f"{name}, opset {_opset(place, name)}" for place, name in enumerate(NETWORKS) if name not in BY_DYNAMO_ONLY),
    *(f"{name}, dynamo, opset {NEW[place % len(NEW)]}" for place, name in enumerate(BY_DYNAMO)),
)


def file_of(name: str) -> bytes:
    """The ONNX file of one of `NAMES`."""
    kind, *way, opset = name.split(", ")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = NETWORKS[kind]().eval()
        for part in module.modules():  # none is at its neutral start
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
                part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        version = int(opset.removeprefix("opset "))
        image = torch.zeros(1, 3, *SIZE)
        if way:
            program = torch.onnx.export(module, (image,), dynamo=True, opset_version=version, verbose=False)
            assert program is not None
            return program.model_proto.SerializeToString()
        torch.onnx.export(module, (image,), file, opset_version=version, dynamo=False)
    return file.getvalue()
