"""The real-time demo: frames -> masks while they are fresh -> a window, a recording, a web page.

stream.py    live(source, segmenter): reads, infers and hands out at once; the newest frame wins
overlay.py   mask over frame, figures and legend
show.py      one picture and one set of figures for all who look, and what can be changed
record.py, window.py, web.py   where it is looked at

for result in live(open_source("0"), segmenter):
    print(result.mask.shares(), result.age_ms)
"""

from refinenet_edge.demo.overlay import OverlayStyle, blend, draw
from refinenet_edge.demo.record import Recording
from refinenet_edge.demo.show import DemoSummary, Figures, Model, Show, View
from refinenet_edge.demo.stream import SegmentedFrame, live
from refinenet_edge.frames import Captured, LiveSource, open_source

__all__ = [
    "Captured",
    "DemoSummary",
    "Figures",
    "LiveSource",
    "Model",
    "OverlayStyle",
    "Recording",
    "SegmentedFrame",
    "Show",
    "View",
    "blend",
    "draw",
    "live",
    "open_source",
]
