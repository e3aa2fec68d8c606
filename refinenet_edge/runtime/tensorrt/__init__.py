"""TensorRT, its lean and dispatch runtimes, and TensorRT-RTX: the same calls on each.

builder.py      typed ONNX graph -> plan
plan_header.py  who wrote a plan, from its first bytes; needs no TensorRT
library.py      what TensorRT says: logger, report of a build, errors
engine.py       plan, checked and loaded
session.py      engine on the GPU: `TrtSession`
rtx.py          what TensorRT-RTX alone has
"""
