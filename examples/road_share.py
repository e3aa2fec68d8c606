"""How much of what a camera sees is road, frame by frame: what a program does with live masks.

python examples/road_share.py engines/scenes                  # drawn streets
python examples/road_share.py engines/voc50 0 --of person   # the first camera

The five lines are those of `for result in live(...)`.
"""

from __future__ import annotations

from pathlib import Path

import click

from refinenet_edge import Segmenter, live, open_source


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("source", default="scenes")
@click.option("--of", "name", default="road", show_default=True, help="The class that is looked for.")
@click.option("--frames", type=click.IntRange(1), help="Stop after so many.")
def main(bundle: Path, source: str, name: str, frames: int | None) -> None:
    shares: list[float] = []
    with Segmenter(bundle) as segmenter:
        if name not in segmenter.labels.names:
            raise click.BadParameter(f"{name!r} is none of {', '.join(segmenter.labels.names)}", param_hint="--of")
        for result in live(open_source(source), segmenter):
            if result.signal:
                shares.append(result.mask.shares().get(name, 0.0))
                click.echo(f"{name} {100 * shares[-1]:5.1f} %   {result.age_ms:4.0f} ms old, {result.drops} dropped")
            if len(shares) == frames:
                break
    click.echo(f"{name} was {100 * sum(shares) / max(len(shares), 1):.1f} % of {len(shares)} frames")


if __name__ == "__main__":
    main()
