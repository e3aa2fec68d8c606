"""Round weights so that sums stay: of each kernel, then of all kernels that make an output channel.

Neighbours in an activation are much alike, so what the errors of a 3x3 kernel do is mostly their sum times that value.
To the nearest, each weight is off by up to half a step and the sum of nine by .87 of a step (root mean square); here
the sum, too, is off by up to half a step: of weights that were rounded up, some that were nearly rounded down are. The
same goes for kernels over the channels, which after a ReLU are all positive. No data is needed; the idea is that of
SQuant (Guo et al., ICLR 2022, arXiv:2202.07471).
"""

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32]


def round_sums(weights: Weights) -> Weights:
    """`weights` (out x in x ..., in units of the scale) as whole numbers, none further than one step off."""
    exact = weights.reshape(*weights.shape[:2], -1)
    rounded = np.rint(exact)
    error = rounded - exact
    _lower(rounded, error, np.rint(error.sum(-1)))
    over = error.sum(-1)  # of a kernel
    steps = np.rint(over.sum(-1, keepdims=True))  # of an output channel
    order = np.argsort(-over * np.sign(steps), axis=1)  # the kernels that are most to blame come first
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(order.shape[1])[None], axis=1)
    _lower(rounded, error, np.where(place < np.abs(steps), np.sign(steps), 0))
    return rounded.reshape(weights.shape)


def _lower(rounded: Weights, error: Weights, steps: Weights) -> None:
    """Take `steps` (out x in, whole) off the kernels, one from each of the weights that lie furthest over."""
    while len((kernels := np.nonzero(steps))[0]):
        sign = np.sign(steps[kernels])
        furthest = (error[kernels] * sign[:, None]).argmax(-1)
        for array in (rounded, error):
            array[(*kernels, furthest)] -= sign
        steps[kernels] -= sign
