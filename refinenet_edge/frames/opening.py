"""Address -> frames: by number (`open_frames`), or as they come (`open_source`)."""

import dataclasses

from refinenet_edge.errors import InputError
from refinenet_edge.files import is_there
from refinenet_edge.frames import camera, images, scenes, video
from refinenet_edge.frames.address import Address, Images, Scenes, Video, parse
from refinenet_edge.frames.readers import Frames, LiveSource


def open_frames(address: Address, most: int | None = None) -> Frames:
    """The frames of `address` by number; of a video every one, or `most` evenly spread.

    Raises `InputError` where there is none, and for cameras and URLs.
    """
    if isinstance(address, Scenes):
        return scenes.frames_of(address)
    if not isinstance(address, (Images, Video)):
        raise InputError(
            f"{address} has no frames to number: expected images, a video or scenes (a folder called like a camera: "
            "./0)"
        )
    path = address.path
    frames = video.frames_of(path, most) if isinstance(address, Video) else images.frames_of(path)
    return dataclasses.replace(frames, source=str(address))  # what names it again


def open_source(text: str, *, every_frame: bool = False, repeat: bool = False) -> LiveSource:
    """The live source that `text` names (see address.py). Raises `InputError` for what is none, or cannot work here.

    Files play at their own rate and frames that nobody takes are lost; `every_frame`: as fast as they are taken, none
    is lost. `repeat`: files start again at their end.
    """
    address = parse(text)
    if isinstance(address, Scenes):
        return scenes.source_of(address)
    if not isinstance(address, (Images, Video)):
        return camera.source_of(address)
    if not is_there(address.path):
        raise InputError(f"no source {text!r}: expected a camera (0), csi, rtsp://, http://, a video, images or scenes")
    source_of = video.source_of if isinstance(address, Video) else images.source_of
    return source_of(address.path, every_frame=every_frame, repeat=repeat)
