"""Eighth stage: how much faster quantising made the network, on this machine."""

import dataclasses
import logging
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from refinenet_edge import bench
from refinenet_edge.build.engine import EngineFiles
from refinenet_edge.build.load import Step
from refinenet_edge.build.typed import TypedModel
from refinenet_edge.bundle import open_bundle, write_bundle
from refinenet_edge.files import scratch_folder
from refinenet_edge.records import Manifest, Speed
from refinenet_edge.runtime import Session, open_session

logger = logging.getLogger(__name__)

SECONDS = 3.0  # of each of the two whose speeds are compared
GAIN = 1.05  # times as fast: quantising gained nothing where the interval ends below


def add_speed(manifest: Manifest, typed: TypedModel, engine: EngineFiles, step: Step) -> Manifest:
    """`manifest` with how much faster its `engine` is than the reference's, in turn; as it is without one."""
    reference, plain = typed.reference, engine.reference
    if reference is None or plain is None:
        return manifest
    than = reference.precision
    step(f"time it against {than}")
    other = dataclasses.replace(
        manifest, precision=than, engine=plain.info, inputs=reference.inputs, outputs=reference.outputs
    )
    with scratch_folder(Path(manifest.recipe.output).parent) as folder, ExitStack() as stack:
        contenders = {}
        for described, files in ((manifest, engine.files), (other, plain.files)):
            path = Path(folder) / described.precision
            write_bundle(path, described, files)
            session = stack.enter_context(open_session(open_bundle(path), manifest.backend, allow_host_code=True))
            contenders[described.precision] = _contender(session, manifest.batch.best)
        ratio = bench.take_turns(contenders, seconds=SECONDS).ratio(than, manifest.precision)
    if ratio.high < GAIN:
        logger.warning(
            "%s is not faster than %s with %s on this machine: %s times as fast; build with --precision %s",
            *(manifest.precision, than, manifest.backend, ratio, than),
        )
    return dataclasses.replace(manifest, speed=Speed(than, ratio.value, ratio.low, ratio.high))


def _contender(session: Session, frames: int) -> bench.Contender:
    """One run of the network on `frames` of noise at once.

    Channels that were added are zero, as the frame kernel has them.
    """
    (source,) = session.inputs
    feed = np.zeros((frames, *(int(side) for side in source.shape[1:])), source.dtype)
    feed[:, :3] = np.random.default_rng(0).standard_normal((frames, 3, *feed.shape[2:]))

    def run() -> bench.Stages:
        stages: bench.Stages = {}
        bench.timed(stages, "network", session.run, {source.name: feed})
        return stages

    return run
