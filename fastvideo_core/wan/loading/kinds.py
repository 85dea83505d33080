"""What a file looks like that is not the Wan transformer which was asked for: said in errors."""

import re
from collections.abc import Iterable

_KINDS = (  # regular expression found in a key, what has such keys
    (r"\blora_|\.lora\.|\.alpha$|\.diff(_[bm])?$|\.(lokr|hada)_", "a LoRA, which is applied to a loaded model"),
    (r"\bvace_", "a VACE model"),
    (r"\bdelta_embedder\.", "an AnyFlow model, whose diffusers folder is to be given: its config.json says how it reads time"),
    (r"\bcontrol_adapter\.", "a camera control model"),
    (r"\bcasual_audio_encoder\.", "an S2V (speech to video) model"),
    (r"\baudio_proj\.", "a HuMo or other audio model"),
    (r"\b(face_adapter|motion_encoder)\.", "an Animate model"),
    (r"\bpatch_embedding_(pose|mask)\.|\bpose_patch_embedding\.", "a pose-driven model (Animate, SCAIL)"),
    (r"\bpatch_embedding_global\.", "a WanDancer model"),
    (r"\bref_conv\.", "a Fun Control model with a reference image"),
    (r"^shared\.weight$|^encoder\.block\.\d|\btoken_embedding\.weight$", "a T5 or UMT5 text encoder"),
    (r"\bvision_model\.|^visual\.|^image_encoder\.", "a CLIP vision encoder"),
    (r"^(first_stage_model\.)?(encoder|decoder)\.(conv|down|up|mid|middle)", "a VAE"),
    (r"\b(double_blocks|single_blocks|joint_blocks|single_transformer_blocks)\.", "another transformer (Flux, Hunyuan)"),
    (r"\btransformer_blocks\.|\b(input|output)_blocks\.\d|\bdown_blocks\.\d", "a model of another family"),
)  # fmt: skip


def kind_of(keys: Iterable[str]) -> str | None:
    """Words for the first kind of which one key is typical; None when no key tells."""
    names = list(keys)
    for pattern, words in _KINDS:
        if any(re.search(pattern, name) for name in names):
            return words
    return None
