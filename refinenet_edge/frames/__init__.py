"""Where frames come from: one grammar, one reader of each kind of file, two ways to read.

    address.py   text -> Scenes | Images | Video | Camera | Url; which text means what stands there
    readers.py   Frames, by number (calibrate, run, compare, bench); LiveSource, as they come (demo, bench --source)
    opening.py   address -> Frames or LiveSource
    scenes.py, images.py, video.py, camera.py   a file for each kind of source

Which files are images: PNG, JPEG, BMP and WebP, with the extra `images` TIFF, AVIF and HEIF too, by their ending in a
folder, by their first bytes otherwise. A folder is its images by name, hidden ones left out. Sub-folders are entered by
`batch` only, which also takes the videos: a frame's name is where its labels go. What is there and cannot be read stops
what would then be about other frames (calibrate, compare, bench); run, eval, batch and demo leave it out, name it, and
go on with the rest.
"""

from refinenet_edge.frames.address import Address, Camera, Images, Scenes, Url, Video, parse, parse_scenes
from refinenet_edge.frames.opening import open_frames, open_source
from refinenet_edge.frames.readers import Captured, CapturedFrames, Frames, LiveSource

__all__ = [
    "Address", "Camera", "Captured", "CapturedFrames", "Frames", "Images", "LiveSource", "Scenes", "Url", "Video",
    "open_frames", "open_source", "parse", "parse_scenes",
]  # fmt: skip
