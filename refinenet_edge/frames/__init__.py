"""Where frames come from: image files, videos, cameras and drawn scenes."""

from refinenet_edge.frames.indexed import Frames, open_frames
from refinenet_edge.frames.live import Captured, CapturedFrames, LiveSource, open_source

__all__ = ["Captured", "CapturedFrames", "Frames", "LiveSource", "open_frames", "open_source"]
