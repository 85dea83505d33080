"""Tiny real text encoder, tokenizer, CLIP tower and repositories, made on the spot with fixed seeds."""

import io
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import sentencepiece
import tiny
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

import fastvideo_core
from fastvideo_core import ImageEncoder, TextEncoder, VideoSize, VideoVAE, WanModel

SENTENCES = (
    "a cat sits on a mat and looks at the rain", "the quick brown fox jumps over the lazy dog", "a red circle moves to the left",
    "a blue square on a green background", "slow camera pan over mountains in the morning fog",
    "worst quality, blurry, jpeg artifacts", "fish & chips cost < 10 dollars, said Zoë's friend", "un café très fort",
)  # fmt: skip


@cache
def sentencepiece_model() -> bytes:
    """A unigram model with UMT5's special tokens: <pad> 0, </s> 1, <unk> 2."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 10),
        model_writer=model,
        vocab_size=120,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


@cache
def fast_tokenizer() -> PreTrainedTokenizerFast:
    """The same vocabulary in the `tokenizers` package, set up as transformers sets up T5's."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    pieces = range(processor.get_piece_size())
    rules = Tokenizer(models.Unigram([(processor.id_to_piece(i), processor.get_score(i)) for i in pieces], unk_id=2))
    rules.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    rules.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=rules, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def umt5(seed: int = 0, width: int = tiny.TEXT_DIM) -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=fast_tokenizer().vocab_size, d_model=width, d_kv=8, d_ff=24, num_layers=2, num_heads=3, dropout_rate=0.0
    )
    return tiny.seeded(seed, UMT5EncoderModel, config).eval().requires_grad_(False)


def clip(seed: int = 0, width: int = tiny.IMAGE_DIM, heads: int = 2) -> CLIPVisionModel:
    """257 tokens per image, as ViT-H gives."""
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=32, num_hidden_layers=3, num_attention_heads=heads, image_size=224, patch_size=14,
        hidden_act="gelu",
    )  # fmt: skip
    return tiny.seeded(seed, CLIPVisionModel, config).eval().requires_grad_(False)


def pipeline(
    transformer: WanTransformer3DModel,
    vae: AutoencoderKLWan,
    *,
    transformer_2: WanTransformer3DModel | None = None,
    image_encoder: CLIPVisionModel | None = None,
    **settings: float | bool,
) -> WanPipeline | WanImageToVideoPipeline:
    """Diffusers' own pipeline: image-to-video for 36 channels, with the settings of model_index.json."""
    parts = {
        "tokenizer": fast_tokenizer(), "text_encoder": umt5(), "vae": vae, "transformer": transformer,
        "transformer_2": transformer_2, "scheduler": UniPCMultistepScheduler(), **settings,
    }  # fmt: skip
    if transformer.config.in_channels != 36:
        return WanPipeline(**parts)
    processor = CLIPImageProcessor() if image_encoder else None
    return WanImageToVideoPipeline(**parts, image_encoder=image_encoder, image_processor=processor)


def image(width: int, height: int, seed: int = 7) -> Tensor:
    """(1, 3, height, width) in 0..1, with values that 8 bits hold."""
    noise = torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(seed))
    return noise.float() / 255


NETWORKS: Mapping[str, dict[str, WanTransformer3DModel]] = MappingProxyType({
    "t2v": {"single": tiny.t2v()},
    "t2v two experts": {"high_noise": tiny.t2v(1), "low_noise": tiny.t2v(2)},
    "i2v clip": {"single": tiny.i2v_clip()},
    "flf2v": {"single": tiny.flf2v()},
    "i2v two experts": {"high_noise": tiny.i2v(1), "low_noise": tiny.i2v(2)},
    "ti2v": {"single": tiny.ti2v()},
})  # fmt: skip


def model_of(kind: str) -> WanModel:
    """The networks of `pipeline_of(kind)`, put together by hand. All models of a kind share them: a test changes copies."""
    vae, text_encoder, image_encoder = encoders_of(kind)
    return WanModel(
        name=kind,
        transformers=NETWORKS[kind],
        vae=vae,
        text_encoder=text_encoder,
        image_encoder=image_encoder,
        boundary=0.9 if "two experts" in kind else None,
        first_frame=kind == "ti2v",
    )


@cache
def encoders_of(kind: str) -> tuple[VideoVAE, TextEncoder, ImageEncoder | None]:
    pipe = pipeline_of(kind)
    return (
        VideoVAE(pipe.vae),
        TextEncoder(pipe.text_encoder, fastvideo_core.Tokenizer.from_sentencepiece(sentencepiece_model())),
        ImageEncoder(pipe.image_encoder, pipe.image_processor) if "clip" in kind or kind == "flf2v" else None,
    )


def pipeline_of(kind: str) -> WanPipeline | WanImageToVideoPipeline:
    networks = list(NETWORKS[kind].values())
    tower = clip() if networks[0].config.image_dim else None
    settings = {"boundary_ratio": 0.9} if len(networks) > 1 else {}
    return pipeline(
        networks[0], tiny.vae_48() if kind == "ti2v" else tiny.vae(), transformer_2=networks[1] if len(networks) > 1 else None,
        image_encoder=tower, expand_timesteps=kind == "ti2v", **settings,
    )  # fmt: skip


def images(kind: str, size: VideoSize) -> dict[str, Tensor]:
    """Those that a kind of model reads."""
    first, last = {"first_image": picture(size)}, {"last_image": picture(size, seed=8)}
    return {} if kind.startswith("t2v") else first | last if kind == "flf2v" else first


def picture(size: VideoSize, seed: int = 7) -> Tensor:
    return image(size.width, size.height, seed)


def small(of: WanModel) -> VideoSize:
    """Latents of 2 frames of 4 x 6."""
    return of.video_size(width=6 * of.vae.spatial, height=4 * of.vae.spatial, frames=5)
