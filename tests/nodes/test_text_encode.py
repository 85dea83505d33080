"""FastVideo Text Encode on core's own text encoder with tiny weights, against the engine's text encoder on the same file."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sampling import relative_error
from tiny_files import text_file
from tiny_model import umt5
from torch import Tensor

from fastvideo_core import ConditioningError, RequestError
from fastvideo_core.wan.text_encoder import TextEncoder

pytestmark = pytest.mark.usefixtures("direct")

PROMPT = "a red ball moves left over the sea"


@pytest.fixture(scope="module")
def text_encoder_file(comfy: Any) -> Any:
    return text_file(comfy.model_folder("text_encoders") / "tiny_umt5.safetensors", umt5().state_dict())


@pytest.fixture
def clip(text_encoder_file: Any, direct: Any) -> Any:
    """Core's Wan CLIP over the tiny file. Core's loader knows one size only, so it is told of this one."""
    from comfy.sd import CLIP
    from comfy.text_encoders.wan import WanT5Tokenizer, te
    from comfy.utils import load_torch_file

    config = umt5().config
    names = ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers")
    weights = load_torch_file(str(text_encoder_file), safe_load=True)
    return CLIP(
        SimpleNamespace(params={}, clip=te(), tokenizer=WanT5Tokenizer),
        tokenizer_data={"spiece_model": weights.pop("spiece_model")},
        state_dict=[weights],
        model_options={"umt5xxl_model_config": {name: getattr(config, name) for name in names}, "dtype": torch.float32},
    )


def encode(host: Any, clip: Any, positive: str = PROMPT, negative: str = "") -> tuple[Tensor, Tensor]:
    outputs = host.node_classes["FastVideoTextEncode"].execute(clip=clip, positive=positive, negative=negative).args
    (((positive_rows, _),), ((negative_rows, _),)) = outputs
    return positive_rows, negative_rows


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        (PROMPT, ""),
        ("a (red:1.3) ball, ((moves)) left [over] the sea", "blurred (grey:0.2)"),
        ("  a red\n\tball &amp;amp; the   sea  ", "a&lt;b"),
        ("ball " * 120, "x"),
    ],
    ids=["plain", "brackets", "not clean", "long"],
)
def test_equals_the_engine(comfy: Any, clip: Any, text_encoder_file: Any, positive: str, negative: str) -> None:
    rows = torch.cat(encode(comfy, clip, positive, negative))
    assert rows.shape[1] == 512
    assert relative_error(rows, TextEncoder.load(text_encoder_file).encode([positive, negative])) < 1e-5


def test_padding_is_zero(comfy: Any, clip: Any) -> None:
    positive, negative = encode(comfy, clip)
    filled = [int((rows[0].abs().sum(-1) > 0).sum()) for rows in (positive, negative)]
    assert filled[0] > filled[1] == 1  # of an empty prompt there is the end token
    assert not positive[0, filled[0] :].any()


def test_weights_of_core_text_encode_are_not_parsed(comfy: Any, clip: Any) -> None:
    plain, _ = encode(comfy, clip, "a (red:1.5) ball")
    parsed = clip.encode_from_tokens_scheduled(clip.tokenize("a (red:1.5) ball"))[0][0]
    assert relative_error(parsed, plain) > 1e-2


def test_too_long_a_prompt_is_refused_with_its_length(comfy: Any, clip: Any) -> None:
    with pytest.raises(
        ConditioningError, match=r"The negative prompt has \d{3,4} tokens and Wan reads 512: shorten it by about \d+ %"
    ):
        encode(comfy, clip, PROMPT, "ball and sea " * 300)


def test_another_text_encoder_is_refused(comfy: Any, direct: Any) -> None:
    from comfy.sd import CLIP
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer

    config = {
        "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 49408,
        "max_position_embeddings": 77, "hidden_act": "quick_gelu", "eos_token_id": 49407, "projection_dim": 32,
    }  # fmt: skip
    target = SimpleNamespace(params={}, clip=SD1ClipModel, tokenizer=SD1Tokenizer)
    other = CLIP(target, model_options={"clip_l_model_config": config, "dtype": torch.float32})
    with pytest.raises(
        ConditioningError, match=r"This CLIP gave 77 rows for the positive prompt.*Load umt5_xxl with core's CLIP"
    ):
        encode(comfy, other)


def test_missing_text_encoder_is_said(comfy: Any, direct: Any) -> None:
    with pytest.raises(RequestError, match=r"The clip input got None and needs a connection"):
        encode(comfy, None)
