"""A checkpoint becomes an nn.Module. Needs torch and safetensors."""

from refinenet_edge.model.checkpoint import SHIPPED, load_checkpoint, locate, open_network, save_checkpoint
from refinenet_edge.model.refinenet import MODELS, SegmentationNet, create

__all__ = [
    "MODELS", "SHIPPED", "SegmentationNet", "create", "load_checkpoint", "locate", "open_network", "save_checkpoint",
]  # fmt: skip
