"""Power, heat and clocks of the machine while something computes, read from its own sensors.

    with Meters(gpu=gpu_bus_id()) as meters:
        for _ in range(frames):
            segmenter.segment(frame)
    reading = meters.reading()

discovery.py   the sensors of a machine, from files below a root folder; nvml.py asks the GPU's driver
meters.py      reads them all, at both ends of a block and in a thread between
reading.py     samples -> a `Reading`: watts, joules, temperatures, clocks
"""

from refinenet_edge.sensors.meters import Meters
from refinenet_edge.sensors.nvml import Gpu
from refinenet_edge.sensors.reading import Reading

__all__ = ["Gpu", "Meters", "Reading"]
