"""Data set + segmenter -> mIoU.

    datasets.py     text -> DataSet: procedural scenes, or a folder
    layouts.py      folder -> its samples: the authors' seven data sets, CamVid, images and masks
    samples.py      sample -> frame and truth
    masks.py        PNG -> the class numbers in it
    confusion.py    truth + prediction -> Confusion -> IoU, mIoU, pixel accuracy
    doubts.py       the matrix, once more: do the masks mean what they were read as?
    score.py        Segmenter + DataSet -> EvaluationResult, resumable

numpy and OpenCV only, as the device side.
"""

from refinenet_edge.evaluation.confusion import IGNORE, Confusion
from refinenet_edge.evaluation.datasets import DataSet, open_dataset
from refinenet_edge.evaluation.samples import Sample, Unusable
from refinenet_edge.evaluation.score import EvaluationResult, SampleProblem, evaluate

__all__ = [
    "IGNORE", "Confusion", "DataSet", "EvaluationResult", "Sample", "SampleProblem", "Unusable", "evaluate",
    "open_dataset",
]  # fmt: skip
