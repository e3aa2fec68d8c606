"""Take a RefineNet checkpoint to a segmentation engine on Jetson and desktop NVIDIA GPUs.

    checkpoint --model--> nn.Module --trace--> graph --fusion--> graph --precision--> typed graph
                                              frames --calibration--> ranges --^          |
      Mask <--runtime-- frame                              bundle: model.onnx, model.plan <--engine

Each stage is one module that takes a record or a graph and returns one; `build` runs them all and writes the bundle.
`refinenet_edge.runtime` is the device side: it needs numpy and OpenCV, and neither torch nor onnx.
"""

__version__ = "0.1.0"
