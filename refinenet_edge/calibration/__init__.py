"""A fused float32 graph and calibration frames become ranges, once, for every INT8 target.

calibrate.py open -> observe.py run -> histogram.py count, partial.py keep -> methods.py choose amax
ranges.py write, read, hold to what they were measured on
"""

from refinenet_edge.calibration.calibrate import COUNT, DEFAULT, calibrate, calibration_frames
from refinenet_edge.calibration.methods import parse_method, parse_overrides
from refinenet_edge.calibration.observe import peaks, uneven
from refinenet_edge.calibration.ranges import read_ranges, require_measured_on, write_ranges

__all__ = [
    "COUNT", "DEFAULT", "calibrate", "calibration_frames", "parse_method", "parse_overrides", "peaks", "read_ranges",
    "require_measured_on", "uneven", "write_ranges",
]  # fmt: skip
