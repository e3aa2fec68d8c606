"""Stage 1: a checkpoint becomes an nn.Module. Needs torch and safetensors."""

from refinenet_edge.model.checkpoint import load_checkpoint, save_checkpoint
from refinenet_edge.model.refinenet import MODELS, ModelSpec, SegmentationNet, create

__all__ = ["MODELS", "ModelSpec", "SegmentationNet", "create", "load_checkpoint", "save_checkpoint"]
