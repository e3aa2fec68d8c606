from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

def extent(values: Array, /) -> tuple[float, float, int, int]: ...
def count(values: Array, scale: float, counts: Array, /) -> None: ...
