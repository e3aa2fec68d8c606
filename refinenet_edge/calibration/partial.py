"""A calibration that is not finished: what is known after each frame, in a file beside its result."""

import io
import logging
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refinenet_edge.calibration.histogram import BINS, Histogram
from refinenet_edge.files import open_regular
from refinenet_edge.records import RangesKey, to_json

logger = logging.getLogger(__name__)

MAX_HEAD = 16 << 20  # bytes, besides the rows
NO_EXPONENT = -(1 << 15)
ROW = np.dtype([("counts", np.int64, BINS), ("exponent", int), ("zeros", int), ("low", float), ("high", float)])
# what numpy, zipfile and zlib raise on bytes that are not a whole archive; SystemError: for text that is no Unicode
DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, RuntimeError, SyntaxError, MemoryError, SystemError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def read_partial(
    path: Path | None, key: RangesKey, tensors: Sequence[str], frames: int
) -> tuple[int, dict[str, Histogram]]:
    """Frames done and their histograms; none of them when there is nothing of `key`, what its frames are of."""
    fresh = {name: Histogram() for name in tensors}
    if path is None or not path.exists():
        return 0, fresh
    try:
        # opened here: on a damaged archive numpy leaves a file of its own open
        with warnings.catch_warnings(), open_regular(path) as file, np.load(file, allow_pickle=False) as held:
            warnings.simplefilter("ignore")  # of headers that no numpy of today writes
            if sum(part.file_size for part in held.zip.infolist()) > MAX_HEAD + len(tensors) * 2 * ROW.itemsize:
                raise ValueError("it is larger than it can be")
            kept, names, count, rows = (_array(held, name) for name in ("key", "names", "done", "histograms"))
            if str(kept) != to_json(key) or names.tolist() != list(tensors):
                logger.warning("%s is of another calibration: starting at the first frame", path)
                return 0, fresh
            done = int(count)
            if not 0 <= done <= frames or rows.shape != (len(tensors),) or rows.dtype != ROW:
                raise ValueError("its numbers do not fit")
            histograms = [
                Histogram(
                    counts, None if exponent == NO_EXPONENT else int(exponent), int(zeros), float(low), float(high)
                )
                for counts, exponent, zeros, low, high in rows
            ]
            logger.info("going on after frame %d", done)
            return done, dict(zip(tensors, histograms, strict=True))
    except DAMAGED as exc:
        logger.warning("%s cannot be read (%s): starting at the first frame", path, exc)
        return 0, fresh


def partial_bytes(key: RangesKey, done: int, histograms: Mapping[str, Histogram]) -> bytes:
    """What `read_partial` reads."""
    exponents = (NO_EXPONENT if h.exponent is None else h.exponent for h in histograms.values())
    rows = [(h.counts, e, h.zeros, h.low, h.high) for h, e in zip(histograms.values(), exponents, strict=True)]
    file = io.BytesIO()
    np.savez_compressed(
        file,
        key=np.array(to_json(key)),
        done=np.array(done),
        names=np.array(list(histograms)),
        histograms=np.array(rows, ROW),
    )
    return file.getvalue()


def _array(held: Mapping[str, Any], name: str) -> npt.NDArray[Any]:
    """A file of numpy's archive, which gives bytes where it holds something else."""
    if not isinstance(found := held[name], np.ndarray):
        raise ValueError(f"{name} is no array")
    return found
