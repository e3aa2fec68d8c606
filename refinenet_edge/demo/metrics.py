"""The figures for Prometheus, in its text format (version 0.0.4), and whether the demo is well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from refinenet_edge import __version__
from refinenet_edge.demo.figures import CameraFigures, Figures

KIND = "text/plain; version=0.0.4"
HANGS = 10.0  # seconds without a picture, after which something hangs

CAMERAS: list[tuple[str, str, str, Callable[[CameraFigures], float]]] = [
    ("live", "gauge", "1 while frames of this camera come.", lambda camera: camera.state == "live"),
    ("frames_total", "counter", "Frames of this camera segmented.", lambda camera: camera.frames),
    ("dropped_frames_total", "counter", "Its frames that newer ones replaced unseen.", lambda camera: camera.drops),
    ("frames_per_second", "gauge", "Its pictures shown, of the last two seconds.", lambda camera: camera.fps),
    ("age_seconds", "gauge", "Age of its newest mask when it was shown.", lambda camera: camera.age_ms / 1000),
    ("share", "gauge", "Its share of the frames segmented, last two seconds.", lambda camera: camera.share),
]

Series = tuple[Mapping[str, str], float]  # labels, value


def metrics(figures: Figures, viewers: int) -> str:
    """`figures` as metrics, one family after the other; what is not known here is left out. Durations are seconds."""
    return "".join(
        f"# HELP refinenet_edge_{name} {told}\n# TYPE refinenet_edge_{name} {kind}\n"
        + "".join(f"refinenet_edge_{name}{_labels(labels)} {value!r}\n" for labels, value in series)
        for name, kind, told, series in _families(figures, viewers)
        if series
    )


def _families(figures: Figures, viewers: int) -> Iterator[tuple[str, str, str, list[Series]]]:
    """(name, type, help, series) of each."""
    speed, playing, controls = figures.speed, figures.playing, figures.controls
    source, model = playing.sources[controls.source], playing.models[controls.model]
    about = {"version": __version__, "model": model, "backend": playing.backend, "source": source}
    shares: dict[str, float] = {}
    for item in figures.classes:  # two classes of one name would be one series twice
        shares[item.name] = shares.get(item.name, 0.0) + item.share

    def one(value: float | None) -> list[Series]:
        return [] if value is None else [({}, float(value))]

    def timed(value: float) -> list[Series]:
        return one(value / 1000 if speed.frames else None)

    yield "info", "gauge", "What plays.", [(about, 1.0)]
    yield (
        "live",
        "gauge",
        "1 while frames come, 0 while it opens, is paused or has no signal.",
        one(figures.state == "live"),
    )
    yield "frames_total", "counter", "Frames segmented.", one(speed.frames)
    yield "dropped_frames_total", "counter", "Frames of live sources that newer ones replaced unseen.", one(speed.drops)
    yield "frames_per_second", "gauge", "Pictures shown, of the last two seconds.", one(speed.fps)
    yield "age_seconds", "gauge", "Age of the newest mask when shown; the oldest camera's.", timed(speed.age_ms)
    yield "segment_p50_seconds", "gauge", "Median from frame to labels, last 300 frames.", timed(speed.p50_ms)
    yield "segment_p99_seconds", "gauge", "99 of 100 from frame to labels, last 300 frames.", timed(speed.p99_ms)
    stages: list[Series] = [({"stage": stage}, ms / 1000) for stage, ms in speed.stages_ms.items()]
    yield "stage_seconds", "gauge", "Median of each stage of a frame, last 300 frames.", stages
    yield "class_share", "gauge", "Share of the picture, smoothed.", [({"class": k}, v) for k, v in shares.items()]
    yield (
        "miou",
        "gauge",
        "Mean IoU over the last frames whose truth is known.",
        one(figures.score.miou if figures.score else None),
    )
    yield "power_watts", "gauge", "Power of what computes, mean of two seconds.", one(figures.power_w)
    for name, kind, told, value in CAMERAS:
        series: list[Series] = [({"camera": camera.name}, float(value(camera))) for camera in figures.cameras]
        yield f"camera_{name}", kind, told, series
    yield "viewers", "gauge", "Who looks at the page's picture.", one(viewers)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def problem(figures: Figures | None, silent: float) -> str:
    """Why the demo is not well, "" where it is; nothing was shown for `silent` seconds. Paused is well."""
    if figures is None or figures.state == "opening":
        return "opening the source"
    if figures.state == "no signal":
        return f"no signal from {figures.playing.sources[figures.controls.source]}"
    return f"nothing was shown for {silent:.0f} s" if silent > HANGS else ""


def remark(figures: Figures | None) -> str:
    """What is to be said of a demo that is well: which of several cameras give nothing."""
    silent = [camera.name for camera in figures.cameras if camera.state == "no signal"] if figures else []
    return f", no signal from {', '.join(silent)}" if silent else ""
