from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

def fill(
    logits: Array,
    classes: int,
    row_starts: Array,
    row_t: Array,
    column_starts: Array,
    column_t: Array,
    labels: Array,
    threads: int,
    confidence: Array = ...,
    /,
) -> bool: ...
