"""bundle + frames -> masks: run, compare, eval."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from refinenet_edge.bundle import Bundle, open_bundle
from refinenet_edge.cli.command import (
    BACKENDS,
    MASK_FORMATS,
    LocalPath,
    Running,
    allow_host_code,
    main,
    option,
    unknown_below,
    with_json,
    with_ray,
    with_running,
)
from refinenet_edge.cli.screen import err, numbers, out, passes, percent, print_json, progress_bar, styled, upsampling
from refinenet_edge.errors import BundleError, InputError, PartFailed, RefineNetEdgeError
from refinenet_edge.files import make_folder
from refinenet_edge.records import Bilinear, Cubic, Interpolation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from refinenet_edge.evaluation import EvaluationResult
    from refinenet_edge.evaluation.score import Evaluator
    from refinenet_edge.frames import Frames
    from refinenet_edge.records import Frame, Mask
    from refinenet_edge.runtime.frame_path import Answer

UPSAMPLINGS: dict[str, Interpolation] = {
    "bilinear": Bilinear(align_corners=False),
    "bilinear-corners": Bilinear(align_corners=True),
    "cubic": Cubic(),
}


@main.command("run")
@click.argument("bundle", type=LocalPath())
@click.argument("images")
@option("--out", "-o", "folder", type=LocalPath(), required=True, help="Folder for overlays and labels.")
@option("--opacity", type=click.FloatRange(0, 1), default=0.5, help="Of the classes on the overlay.")
@option("--legend", is_flag=True, help="Write the classes' names and colours into the overlay.")
@option("--side-by-side", is_flag=True, help="Put the frame as it came left of its overlay.")
@option("--confidence", is_flag=True, help="Write NAME_confidence.png, too: how sure each label is, 255 is certain.")
@unknown_below
@option(
    "--format",
    "formats",
    type=click.Choice(MASK_FORMATS),
    multiple=True,
    default=["png"],
    help="How masks are written: label PNGs, polygons, run lengths or polygons as COCO has them, shares. Repeatable.",
)
@with_json
@with_running
def run(
    bundle: Path,
    images: str,
    folder: Path,
    opacity: float,
    legend: bool,
    side_by_side: bool,
    confidence: bool,
    least: float | None,
    formats: tuple[str, ...],
    as_json: bool,
    running: Running,
) -> None:
    """Segment IMAGES, an image or video file, a folder or scenes:SEED:COUNT: an overlay and a label PNG each."""
    from refinenet_edge.frames.images import write_image
    from refinenet_edge.mask_files import MaskWriter
    from refinenet_edge.overlay import OverlayStyle, draw, legend_of
    from refinenet_edge.runtime import Segmenter
    from refinenet_edge.runtime.many import Many

    frames, stems = _named_frames(images, folder)
    style = OverlayStyle(opacity, side_by_side=side_by_side)
    done = _Segmented(len(frames) == 1, least)
    bar = progress_bar()
    task = bar.add_task("tiles", visible=False)
    opened = Segmenter(
        bundle,
        confidence=confidence or least is not None,
        progress=lambda done, tiles: bar.update(task, completed=done, total=tiles, visible=True),
        throughput=len(frames) > 1,
        **running,
    )
    with opened as segmenter, bar, Many(segmenter) as many:
        make_folder(folder)
        writer = MaskWriter(folder, formats)
        every = many.each(_read(frames), lambda frame: (frame, frame), lambda *answered: answered)
        names = bar.track(stems, description="segment")
        for name, file_name, (frame, answer, ms) in zip(names, frames.names, every, strict=True):
            if (mask := done.note(name, answer, ms)) is None:
                continue
            assert not isinstance(frame, RefineNetEdgeError)  # it has a mask
            picture = draw(frame, mask, style, legend=legend_of(mask) if legend else ())
            write_image(folder / f"{name}_overlay.jpg", picture)
            writer.add(name, file_name, mask)
            if confidence and mask.confidence is not None:
                write_image(folder / f"{name}_confidence.png", mask.confidence)
        writer.finish()
    if as_json:
        print_json({"images": done.images, "failed": done.failed})
    else:
        out.print(done.table(str(bundle)))
        out.print(f"{len(done.images)} of {len(frames)} images segmented into {folder}")
    done.require_all()


def _named_frames(images: str, folder: Path) -> tuple[Frames, list[str]]:
    """The frames of `run`, and the name of each in `folder`. Raises `InputError` where results would overwrite."""
    from refinenet_edge.frames import Images, open_frames, parse

    address = parse(images)
    frames = open_frames(address)
    if isinstance(address, Images) and folder.resolve() == address.path.resolve():
        raise InputError(
            f"{folder} is where the images are: what goes there would be an image, too; name another --out"
        )
    stems = [Path(name).stem for name in frames.names]
    if twice := next((stem for stem, count in Counter(stems).items() if count > 1), None):
        raise InputError(f"two images are named {twice}: their results would overwrite each other, rename one")
    return frames, stems


def _read(frames: Frames) -> Iterator[Frame | RefineNetEdgeError]:
    """Each of `frames`, or why it cannot be used."""
    for index in range(len(frames)):
        try:
            yield frames.read(index)
        except (InputError, BundleError) as exc:
            yield exc


class _Segmented:
    """What became of the frames of `run`: `images` and `failed` as its JSON has them; a frame alone may not fail."""

    def __init__(self, alone: bool, least: float | None) -> None:
        self.images: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self._alone, self._least = alone, least

    def note(self, name: str, answer: Answer, ms: float) -> Mask | None:
        """The mask of frame `name`, in which labels less sure than `least` are unknown; None where it has none."""
        from refinenet_edge.runtime.frame_path import or_raise

        if isinstance(answer, (InputError, BundleError)) and not self._alone:
            self.failed.append(str(answer))
            return None
        mask = or_raise(answer)
        if self._least is not None:
            mask = mask.unknown_below(self._least)
        height, width = mask.labels.shape
        self.images.append({"image": name, "height": height, "width": width, "ms": ms, "shares": mask.shares()})
        return mask

    def require_all(self) -> None:
        """Raise `PartFailed` where frames could not be used."""
        if self.failed:
            raise PartFailed(f"{len(self.failed)} images could not be used: {'; '.join(self.failed[:3])}")

    def table(self, title: str) -> Table:
        table = Table("image", *numbers("height x width", "ms"), "classes", title=title)
        for each in self.images:
            size = f"{each['height']}x{each['width']}"
            table.add_row(each["image"], size, f"{each['ms']:.0f}", _largest(each["shares"]))
        return table


@main.command("compare")
@click.argument("first", type=LocalPath())
@click.argument("second", type=LocalPath())
@click.argument("images")
@option("--backend", type=click.Choice(BACKENDS), default="auto", help="What runs FIRST.")
@option("--second-backend", type=click.Choice(BACKENDS), default="auto", help="What runs SECOND.")
@with_json
@allow_host_code
def compare(
    first: Path, second: Path, images: str, backend: str, second_backend: str, as_json: bool, allow_host_code: bool
) -> None:
    """Compare two bundles, or one bundle on two backends: logit error and label agreement on IMAGES."""
    from refinenet_edge.bundle_comparison import compare_bundles
    from refinenet_edge.frames import open_frames, parse
    from refinenet_edge.runtime import Segmenter

    frames = open_frames(parse(images))
    opened = functools.partial(Segmenter, allow_host_code=allow_host_code, throughput=len(frames) > 1)
    with opened(first, backend) as a, opened(second, second_backend) as b, progress_bar() as bar:
        differences = list(bar.track(compare_bundles(a, b, frames), total=len(frames), description="compare"))
        title = f"{first} on {a.session.name} and {second} on {b.session.name}"
    mean = sum(d.label_agreement for d in differences) / len(differences)
    if as_json:
        print_json({"label_agreement": mean, "images": [dataclasses.asdict(d) for d in differences]})
        return
    table = Table("image", *numbers("logit error", "label agreement"), title=title)
    for d in differences:
        error = "other size" if d.relative_error is None else f"{d.relative_error:.2e}"
        table.add_row(d.image, error, f"{100 * d.label_agreement:.3f} %")
    out.print(table)
    out.print(f"mean label agreement {100 * mean:.3f} % over {len(differences)} images")


@main.command("eval")
@click.argument("bundle", type=LocalPath())
@click.argument("dataset")
@option("--out", "-o", "result_path", type=LocalPath(dir_okay=False), help="File for the result (JSON).")
@option(
    "--upsample",
    type=click.Choice(list(UPSAMPLINGS)),
    show_default="as built",
    help="How logits reach the frame's size.",
)
@option("--masks-as-stored", is_flag=True, help="Take masks as lying like their images before EXIF turns these.")
@option("--strict", is_flag=True, help="Stop at the first sample that cannot be used.")
@with_json
@with_running
@with_ray
def evaluate(
    bundle: Path,
    dataset: str,
    result_path: Path | None,
    upsample: str | None,
    masks_as_stored: bool,
    strict: bool,
    as_json: bool,
    running: Running,
    ray: str,
) -> None:
    """Measure mIoU on DATASET: scenes, scenes:SEED:COUNT, or a folder.

    Folders: Cityscapes, VOC, Context, Person-Part, ADE20K, NYUv2-40, SUN RGB-D, CamVid (SegNet's), or images/ and
    masks/. PATH:SPLIT takes another split than val; cityscapes:PATH, voc:, context:, person:, ade150:, nyu40: (masks
    0..39), nyu40-from1: (1..40), sun37: (1..37), camvid:, plain: (0.., 255 is void), plain-from1: (1.., 0 is void) and
    plain-binary: (0 and 255) name the layout.

    With --out, a run that was stopped goes on where it was when it is started again.
    """
    from refinenet_edge import evaluation

    opened = open_bundle(bundle)
    data = evaluation.open_dataset(dataset, masks_as_stored=masks_as_stored)
    way = UPSAMPLINGS[upsample] if upsample else None
    with contextlib.ExitStack() as stack, progress_bar("evaluate") as bar:
        by = _evaluator(stack, opened, running, ray, way)
        result = evaluation.evaluate(
            by, data, identity=opened.identity, out=result_path, strict=strict, progress=bar.count
        )
    if as_json:
        print_json(result)
        return
    _show(result, f"{bundle} on {data.name}")


def _evaluator(
    stack: contextlib.ExitStack, opened: Bundle, running: Running, ray: str, way: Interpolation | None
) -> Evaluator:
    """What evaluates: this process, or a Ray cluster; closed with `stack`."""
    from refinenet_edge.evaluation.score import here
    from refinenet_edge.runtime import Segmenter

    if ray == "off":
        segmenter = stack.enter_context(Segmenter(opened, throughput=True, **running))
        return here(stack.enter_context(segmenter.with_upsample(way)) if way else segmenter)
    from refinenet_edge.cluster.bundles import common_backend, gpus_of
    from refinenet_edge.cluster.evaluate import distributed
    from refinenet_edge.cluster.pool import open_pool

    backend, how = common_backend(opened, running["backend"], ray), running["inference"]
    pool = stack.enter_context(open_pool(ray, gpus=gpus_of(backend)))
    allow, beside = running["allow_host_code"], running["beside"]
    return distributed(opened, backend, pool, upsample=way, allow_host_code=allow, inference=how, beside=beside)


def _show(result: EvaluationResult, title: str) -> None:
    """The table, the mean, and what was not used."""
    out.print(_scores(result, title))
    out.print(
        Text.assemble(
            "mIoU ",
            (percent(result.miou), "bold"),
            f", pixel accuracy {percent(result.pixel_accuracy)}, {result.counted} of {result.samples} samples on "
            f"{result.backend}, {upsampling(result.frame.upsample)}{passes(result.inference)}"
            + ", of the pixels that a cropped frame has left"
            * (result.frame.fit == "crop"),
        ),
        soft_wrap=True,
    )
    if result.problems:
        kinds = Counter(problem.kind for problem in result.problems)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        err.print(styled(f"{len(result.problems)} not used:", "yellow", f" {counts}"))
        for problem in result.problems[:5]:
            err.print(f"  {problem.sample}: {problem.detail}", soft_wrap=True)


def _largest(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in list(shares.items())[:4] if share >= 0.005)


def _scores(result: EvaluationResult, title: str) -> Table:
    table = Table("class", *numbers("IoU", "share of truth"), "most often taken for", title=title)
    pixels = max(sum(map(sum, result.confusion)), 1)
    for label, row in enumerate(result.confusion):
        others = [0 if other == label else count for other, count in enumerate(row)]
        most = max(range(len(row)), key=others.__getitem__)
        taken = f"{result.classes[most]}, {percent(others[most] / sum(row))}" if others[most] else ""
        share = percent(sum(row) / pixels)
        table.add_row(result.classes[label], percent(result.iou[label]), share, taken)
    return table
