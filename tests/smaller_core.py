"""A custom node for servers of tests, in which the published networks are as small as the files of `template_files`.

Core knows the text encoder, the CLIP tower and the VAE of Wan 2.2 in their published sizes only, and the pack tells variants
apart by width and number of blocks. Here these figures are smaller, and everything else is as it is. What transformers read
keeps its width: 4096 of the text, 1280 of image tokens.
"""

import json
import sys
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.ldm.wan.vae2_2
import comfy.sd

TEXT_ENCODER = {"vocab_size": 80, "d_kv": 8, "d_ff": 24, "num_heads": 3, "num_layers": 2}
CLIP_TOWER = {"intermediate_size": 32, "num_hidden_layers": 3, "projection_dim": 8}
VAE_2_2 = {"dim": 8, "dec_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}

WIDTH, BLOCKS = 128, {30: 2, 40: 3}
"""Of transformers; blocks by the published number of them."""

load_clip = comfy.sd.load_clip


def load_small_clip(*given: Any, model_options: dict[str, Any], **named: Any) -> Any:
    return load_clip(*given, model_options=model_options | {"umt5xxl_model_config": TEXT_ENCODER}, **named)


class SmallTower(comfy.clip_vision.ClipVisionModel):
    def __init__(self, config: str) -> None:
        small = Path(__file__).with_name("clip_vision.json")  # older cores read a file only
        small.write_text(json.dumps(json.loads(Path(config).read_text()) | CLIP_TOWER))
        super().__init__(str(small))


class SmallVAE(comfy.ldm.wan.vae2_2.WanVAE):
    def __init__(self, **config: Any) -> None:
        super().__init__(**config | VAE_2_2)


def make_variants_small() -> None:
    """The same engine that the pack has registered, or will."""
    sys.path.append(str(Path(__file__).with_name("fastvideo-nodes").resolve()))
    from fastvideo_core.wan import VARIANTS

    for variant in VARIANTS.values():
        object.__setattr__(variant, "dim", WIDTH)
        object.__setattr__(variant, "layers", BLOCKS[variant.layers])


make_variants_small()
comfy.sd.load_clip = load_small_clip
comfy.clip_vision.ClipVisionModel = SmallTower
comfy.ldm.wan.vae2_2.WanVAE = SmallVAE
NODE_CLASS_MAPPINGS: dict[str, Any] = {}
