import contextlib
import sys
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = "refinenet_edge/runtime/kernels"
FLAGS = ["-O3", "-std=c++17", "-ffp-contract=off", "-pthread"]  # off: a fused multiply-add would change the results
WITHOUT = """
refinenet-edge: THE C++ PARTS WERE NOT BUILT, so numpy makes labels and counts activations: the same ones, slower.
Install Python's headers and a compiler (sudo apt install python3-dev g++), then this package again:
pip install --force-reinstall --no-deps --no-cache-dir refinenet-edge

"""


class LoudlyOptional(build_ext):
    """Says once what is missed, on the terminal, too: pip shows nothing of a build that succeeds."""

    said = False

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception:
            if not self.said:
                self.said = True
                print(WITHOUT, file=sys.stderr)
                with contextlib.suppress(OSError), open("/dev/tty", "w") as terminal:
                    terminal.write(WITHOUT)
            raise


# one file for this Python and every later one: buffers are in the stable interface from 3.11 on, not without the GIL
ABI3 = sys.version_info >= (3, 11) and not sysconfig.get_config_var("Py_GIL_DISABLED")


def compiled(name: str, *headers: str) -> Extension:
    """`name`.cpp of the kernels as a module of Python."""
    return Extension(
        f"refinenet_edge.runtime.kernels._{name}",
        [f"{KERNELS}/{name}.cpp"],
        depends=[f"{KERNELS}/{header}" for header in headers],
        extra_compile_args=FLAGS,
        extra_link_args=["-pthread"],
        define_macros=[("Py_LIMITED_API", "0x030B0000")] if ABI3 else [],
        py_limited_api=ABI3,
        optional=True,  # without a compiler numpy does the same
    )


tag = {"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {}
setup(
    ext_modules=[compiled("head", "pixel.h"), compiled("histogram")],
    cmdclass={"build_ext": LoudlyOptional},
    options=tag,
)
