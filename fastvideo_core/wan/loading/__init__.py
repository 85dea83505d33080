"""Files into networks: transformers in every common format, LoRAs on top of them, and weights that visit the device in groups."""

from .checkpoint import Checkpoint, StoredTensor, open_checkpoint
from .keys import original_key, original_keys
from .lora import Lora, LoraReport, apply_lora, read_lora, remove_loras
from .lora_change import before_loras, tensors_of
from .lora_layers import LayerChange
from .lora_strengths import AppliedLora, applied_loras, check_strengths, strengths
from .offload import group_offload
from .trained_attention import trained_with, unused_training
from .trained_file import NetworkSize, load_trained_attention
from .transformer import load_transformer

__all__ = [
    "AppliedLora",
    "Checkpoint",
    "LayerChange",
    "Lora",
    "LoraReport",
    "NetworkSize",
    "StoredTensor",
    "applied_loras",
    "apply_lora",
    "before_loras",
    "check_strengths",
    "group_offload",
    "load_trained_attention",
    "load_transformer",
    "open_checkpoint",
    "original_key",
    "original_keys",
    "read_lora",
    "remove_loras",
    "strengths",
    "tensors_of",
    "trained_with",
    "unused_training",
]
