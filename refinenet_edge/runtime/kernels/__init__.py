"""The pixel loops in C++ and CUDA C++: exact copies of what numpy does in runtime/head.py and runtime/frame.py.

pixel.h     the head's arithmetic, shared
head.cpp    logits -> labels on the CPU: the extension `_head`, built by setup.py where there is a compiler
head.cu     logits -> labels, and how sure they are, on the GPU
frame.cu    frame -> network input on the GPU
device.py   compiles the two with NVRTC for the device at first use, and queues them on its stream
"""
