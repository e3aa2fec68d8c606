"""How the commands explain themselves: options under headings, summaries in full, defaults in one style, examples."""

from __future__ import annotations

from typing import Any

import click

# an option stands under the first heading that names it, the others under the last
HEADINGS = {
    "Model": ("model", "checkpoint", "state_key", "collapse_ind", "crp", "align_corners", "onnx", "output_name",
              "labels", "classes", "gives"),
    "Frames and labels": ("size", "sizes", "dynamic", "batch", "layout", "preprocess", "mean", "std", "scale", "order",
                          "resize", "upsample", "masks_as_stored", "scales", "short_side", "flip", "beside", "tiles",
                          "overlap", "confidence", "sources", "source", "together", "frames", "rate"),
    "Precision and accuracy": ("precision", "calib", "judge", "max_miou_drop", "min_agreement", "cpu", "method",
                               "special", "without", "force", "strict"),
    "Engine": ("backend", "second_backend", "target", "workspace_mib", "timing_cache", "version_compatible",
               "hardware_compatible", "io", "plan", "allow_host_code", "ray", "device"),
    "Measurement": ("against", "batches", "streams", "rounds", "brief", "threshold"),
    "Output": ("output", "folder", "path", "result_path", "result", "page", "markdown", "repository", "record", "form",
               "formats", "least", "opacity", "legend", "side_by_side", "view", "port", "host", "token", "public_url",
               "name", "explain", "as_json"),
}  # fmt: skip
REST = "Other"

EXAMPLES = {
    "build": ("refinenet-edge build --checkpoint people -o engines/people", "build-engine engines/scenes_int8.toml"),
    "build-engine": ("build-engine engines/scenes_int8.toml", "build-engine --onnx model.onnx -o engines/mine"),
    "calibrate": ("refinenet-edge calibrate engines/people --frames photos -o calib/mine.ranges.json",),
    "plan": ("refinenet-edge plan engines/people --backend tensorrt",),
    "inspect": ("refinenet-edge inspect engines/people", "refinenet-edge inspect engines/people/model.plan"),
    "models": ("refinenet-edge models --size 1080x1920",),
    "doctor": ("refinenet-edge doctor",),
    "dla-check": ("refinenet-edge dla-check engines/people",),
    "run": ("refinenet-edge run engines/people photo.jpg -o masks", "refinenet-edge run engines/people a.mp4 -o masks"),
    "compare": ("refinenet-edge compare engines/people engines/people_int8 photos",),
    "eval": ("refinenet-edge eval engines/scenes scenes:1:20", "refinenet-edge eval engines/mine voc:data -o r.json"),
    "demo": ("refinenet-edge demo", "refinenet-edge demo engines/people --source rtsp://camera/stream"),
    "bench run": ("refinenet-edge bench engines/people --against torch,onnxruntime -o result.json",),
    "bench compare": ("refinenet-edge bench compare before.json after.json",),
    "report": ("refinenet-edge report result.json -o result.html",),
    "estimate": ("refinenet-edge estimate rf_lw50 --device orin-nano",),
    "batch": ("refinenet-edge batch engines/people videos -o labels",),
    "export-deepstream": ("refinenet-edge export-deepstream engines/plain -o deepstream",),
    "export-triton": ("refinenet-edge export-triton engines/people -o repository",),
}  # fmt: skip


class Option(click.Option):
    """An option that tells its default, which may be in words (`show_default="as built"`)."""

    def __init__(self, *declarations: Any, **options: Any) -> None:
        if options.get("default"):
            options.setdefault("show_default", True)
        super().__init__(*declarations, **options)

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        return extra


def write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The options of `command` under their headings, in the order they are declared; without any if they are few."""
    heading_of = {name: heading for heading, names in reversed(HEADINGS.items()) for name in names}
    found: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*HEADINGS, REST)}
    for parameter in command.get_params(ctx):
        if isinstance(parameter, click.Argument):
            continue
        record = parameter.get_help_record(ctx)
        if record is not None:
            found[heading_of.get(parameter.name or "", REST)].append(record)
    for heading, records in found.items():
        if records:
            with formatter.section(heading):
                formatter.write_dl(records)


def write_examples(ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The examples of the command that is asked."""
    names: list[str] = []
    above: click.Context | None = ctx
    while above is not None and (above.parent is not None or not names):
        names.insert(0, above.command.name or "")
        above = above.parent
    name = " ".join(names)
    if name in EXAMPLES:
        with formatter.section("Examples"):
            for example in EXAMPLES[name]:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def write_commands(group: click.Group, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The commands of `group`, each with its whole first sentence."""
    with formatter.section("Commands"):
        formatter.write_dl([(name, group.commands[name].get_short_help_str(1000)) for name in group.list_commands(ctx)])
