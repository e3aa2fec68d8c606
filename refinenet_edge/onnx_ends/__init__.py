"""The ends of somebody's ONNX graph: what it takes becomes an image, what it gives becomes logits.

    takes   1x3xHxW or 1xHxWx3, of float32, float16 or uint8     -> image, float32 1x3xHxW
    gives   scores of classes in either layout, with or without
            a Softmax; one channel, a score or what a Sigmoid
            makes of it; an ArgMax of scores; other labels       -> logits, float32 1xCxhxw

It is done in the graph, in the opset that the file is of, so that all that comes later sees a network like any other.
`Ends` keeps what was found: the proof runs the file as it was given with it, and holds the labels to the file's own.

    ends.py      what is said of a file and found in it   takes.py     what it takes
    gives.py     what its logits can be made of           logits.py    the logits made in the graph
    batch.py     one frame or several at once
"""

from refinenet_edge.onnx_ends.batch import fix_batch, set_batch
from refinenet_edge.onnx_ends.ends import NOTHING, Ends, Said
from refinenet_edge.onnx_ends.gives import give_logits
from refinenet_edge.onnx_ends.takes import in_float32, take_image

__all__ = ["NOTHING", "Ends", "Said", "fix_batch", "give_logits", "in_float32", "set_batch", "take_image"]
