"""From a model's name, or a bundle, and a device to bounds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

from refinenet_edge.bench.blocks import OTHER
from refinenet_edge.bundle import MODEL, open_bundle, write_bundle
from refinenet_edge.cli import main
from refinenet_edge.errors import BundleError, InputError
from refinenet_edge.estimate import Bounds, estimate
from refinenet_edge.records import from_json, to_json
from tests.conftest import SIZE
from tests.estimate.test_devices import GOOD

ROOT = Path(__file__).parents[2]


def test_a_name_and_its_bundle_agree(mobile_bundle: Path) -> None:
    of_name = estimate("rf_lw_mbv2", "agx-orin", SIZE)
    of_bundle = estimate(str(mobile_bundle), "agx-orin")
    assert dataclasses.replace(of_bundle, model="rf_lw_mbv2") == of_name
    assert [bound.precision for bound in of_name.bounds] == ["fp32", "fp16", "int8"]
    fp32, fp16, int8 = of_name.bounds
    assert fp32.ms > fp16.ms > int8.ms
    blocks = [block.block for block in fp16.blocks]
    assert blocks[:2] == ["frame", "encoder.layer1"]
    assert blocks[-3:] == ["refine1.crp", "classifier", "head"]
    assert OTHER not in blocks
    fused = open_bundle(mobile_bundle).manifest.fused_cost
    assert fused is not None
    assert sum(block.macs for block in fp16.blocks) == fused.macs
    assert from_json(Bounds, to_json(of_name)) == of_name


def test_a_bundle_keeps_its_own_size(mobile_bundle: Path) -> None:
    assert estimate(str(mobile_bundle), "thor", SIZE).size == SIZE
    with pytest.raises(InputError, match="is fixed to 64x96 and its classes: leave --size and --classes out"):
        estimate(str(mobile_bundle), "thor", (64, 64))
    with pytest.raises(InputError, match="is fixed to 64x96 and its classes"):
        estimate(str(mobile_bundle), "thor", classes=5)


def test_a_bundle_for_any_size_is_refused(mobile_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(mobile_bundle)
    free = dataclasses.replace(bundle.manifest, frame=dataclasses.replace(bundle.manifest.frame, size=None))
    write_bundle(tmp_path / "free", free, {MODEL: bundle.read(MODEL)})
    with pytest.raises(InputError, match="takes frames of any size: name its model instead"):
        estimate(str(tmp_path / "free"), "thor")


def test_what_is_neither_a_model_nor_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model named 'rf_lw_mbv3'; there are rf50"):
        estimate("rf_lw_mbv3", "thor", SIZE)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        estimate(str(tmp_path), "thor")
    with pytest.raises(InputError, match="no device 'tx2'"):
        estimate("rf_lw_mbv2", "tx2", SIZE)


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_link_that_a_device_cites_is_whole(mobile_bundle: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    link = "https://example.org/boards?topic=2#page=7"
    (tmp_path / "mine.toml").write_text(GOOD.replace("its data sheet", link))
    done = CliRunner().invoke(main, ["estimate", str(mobile_bundle), "--device", str(tmp_path / "mine.toml"), *more])
    assert done.exit_code == 0, done.output
    assert link in done.stdout


def test_the_published_loop_stands_beside_what_is_estimated() -> None:
    """The rows of docs/measure.md, of the card that it was measured on."""
    page = (ROOT / "docs/measure.md").read_text("utf-8")
    bounds = {b.precision: b for b in estimate("rf_lw50", str(ROOT / "benchmarks/gtx1060.toml"), (512, 512), 7).bounds}
    for row, precision, frames in (("TensorRT, float32", "fp32", 21), ("TensorRT, INT8", "int8", 32)):
        low, middle, high = bounds[precision].expected_ms
        said = f"| {row} | {bounds[precision].ms:.3g} | {middle:.3g} ({low:.3g} to {high:.3g}) | "
        assert f"{said}{1000 / frames:.0f} ({frames} a second) |" in page
        assert bounds[precision].ms < 1000 / frames
