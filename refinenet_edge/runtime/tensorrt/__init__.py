"""TensorRT, its lean and dispatch runtimes, and TensorRT-RTX: the same calls on each.

builder.py   typed ONNX graph -> plan
library.py   what TensorRT says: logger, report of a build, errors
engine.py    plan, checked and loaded; who wrote it, from its first bytes
session.py   engine on the GPU: `TrtSession`
rtx.py       what TensorRT-RTX alone has
"""
