"""The commands: `refinenet-edge COMMAND`, and `build-engine`, which is `refinenet-edge build`.

    build.py    checkpoint -> bundle           build, calibrate, plan
    look.py     what there is, what works      inspect, models, doctor, dla-check
    run.py      bundle + frames -> masks       run, compare, eval
    demo.py     camera -> masks on a screen    demo
    bench.py    how long it takes              bench, report, estimate
    cluster.py  beyond one machine             batch, export-triton

Each command imports its stage when it runs, so that `run` works where torch is absent. What goes wrong is one line on
stderr and exit code 2; `--debug` shows the trace instead.
"""

from refinenet_edge.cli import bench, build, cluster, demo, look, run
from refinenet_edge.cli.build import build_engine
from refinenet_edge.cli.command import main

__all__ = ["bench", "build", "build_engine", "cluster", "demo", "look", "main", "run"]
