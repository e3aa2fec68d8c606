"""Loops in C++ and CUDA C++: exact copies of what numpy does in head.py and frame.py, and in calibration/histogram.py.

pixel.h         the head's arithmetic, shared
head.cpp        logits -> labels on the CPU: the module `_head`, built by setup.py where there is a compiler
histogram.cpp   how often each magnitude came, likewise: the module `_histogram`
head.cu         logits -> labels, and how sure they are, on the GPU
frame.cu        frame -> network input on the GPU
device.py       compiles the two with NVRTC for the device at first use, and queues them on its stream
"""
