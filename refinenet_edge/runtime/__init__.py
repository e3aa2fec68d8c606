"""The device side: bundle + frame -> Mask, with numpy, OpenCV and one of the backends.

    Segmenter      bundle or session -> segment(frame) -> Mask, segment_batch, segment_stream
    frame.py       frame -> network input
    Session        network input -> logits: tensorrt/session.py, openvino.py, ort.py; backends.py chooses, of those
                   whose library libraries.py can load
    head.py        logits -> labels at the frame's size
    host_path.py   the three of them with arrays on the host
    multi_scale.py the first at several scales and mirrored, their class scores averaged
    tiles.py       the first tile by tile, for frames larger than the network
    device_path.py all of it on the GPU, which cuda.py owns, by cuda_bindings.py or pycuda.py

Backends are imported when a session is opened, never before; torch and onnx are not needed.
"""

from refinenet_edge.runtime.backends import available, open_session
from refinenet_edge.runtime.segmenter import Segmenter
from refinenet_edge.runtime.session import FakeSession, Session

__all__ = ["FakeSession", "Segmenter", "Session", "available", "open_session"]
