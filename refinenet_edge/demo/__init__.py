"""The real-time demo: frames -> masks while they are fresh -> a window, a recording, a web page.

stream.py    live(source, segmenter): reads, infers and hands out at once; the newest frame wins, of several in turn
controls.py  what viewers set, and whether it can be
figures.py   what is counted, and the figures made of it
show.py      plays sources through models: one picture and one set of figures for all who look
grid.py      the pictures of several cameras in one
record.py, window.py, web.py   where it is looked at; access.py: who may; metrics.py: what a monitor asks

for result in live(open_source("0"), segmenter):
    print(result.mask.shares(), result.age_ms)
"""

from refinenet_edge.demo.controls import Controls
from refinenet_edge.demo.figures import Figures
from refinenet_edge.demo.record import Recording
from refinenet_edge.demo.show import Model, Show
from refinenet_edge.demo.stream import SegmentedFrame, live
from refinenet_edge.frames import Captured, LiveSource, open_source

__all__ = [
    "Captured", "Controls", "Figures", "LiveSource", "Model", "Recording", "SegmentedFrame", "Show", "live",
    "open_source",
]  # fmt: skip
