from setuptools import Extension, setup

KERNELS = "refinenet_edge/runtime/kernels"
FLAGS = ["-O3", "-std=c++17", "-ffp-contract=off", "-pthread"]  # off: a fused multiply-add would change the results
head = Extension(
    "refinenet_edge.runtime.kernels._head",
    [f"{KERNELS}/head.cpp"],
    depends=[f"{KERNELS}/pixel.h"],
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
    optional=True,  # without a compiler numpy does the same
)
setup(ext_modules=[head])
