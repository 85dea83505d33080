"""What the engine puts in the place of slower parts of diffusers' network: the same values up to rounding, and nothing stays."""

import pytest
import tiny
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor, nn

from fastvideo_core import GivenFrame, SamplingRequest, seeded_noise
from fastvideo_core.attention.processors import normalised
from fastvideo_core.attention.rope import interleaved, rotated
from fastvideo_core.wan.embeddings import kept_embeddings
from fastvideo_core.wan.fast_linears import FastGELU, FastLinear, fast_linears
from fastvideo_core.wan.linear import LinearAccount

VARIANTS = tiny.variants()
every_variant = pytest.mark.parametrize("kind", list(VARIANTS))
PHASE = SamplingRequest(steps=4, shift=5.0, guidance_scale=4.0, seed=1).plan().phases[0]


def plain_velocity(network: WanTransformer3DModel, variant: tiny.Variant, latents: Tensor, sigma: float) -> Tensor:
    """Diffusers' own forward, on everything that Wan reads."""
    condition = variant.conditioning
    inputs = latents if condition.image is None else torch.cat([latents, condition.image], dim=1)
    tokens = condition.image_tokens
    if tokens is not None and network.config.pos_embed_seq_len is not None:
        tokens = tokens.reshape(2, -1, tokens.shape[2])
    frame = condition.first_frame
    timestep = torch.full((1,), 1000 * sigma) if frame is None else frame.timesteps(1000 * sigma, latents)
    with torch.no_grad():
        return network(inputs, timestep, condition.positive, tokens, return_dict=False)[0]


@every_variant
def test_the_engine_computes_what_diffusers_does(kind: str) -> None:
    variant = VARIANTS[kind]
    network, latents = variant.network(0), seeded_noise(variant.shape, 1)
    expected = {sigma: plain_velocity(network, variant, latents, sigma) for sigma in (0.9, 0.4)}
    experts = tiny.experts({"single": network}, variant.conditioning, variant.shape)
    with experts.active(PHASE) as denoiser:
        for sigma in (0.9, 0.4, 0.9):
            (velocity,) = denoiser.predict(latents, sigma, ("positive",)).velocities
            assert tiny.relative_error(velocity, expected[sigma]) < 3e-6
    assert torch.equal(plain_velocity(network, variant, latents, 0.9), expected[0.9]), "nothing stays"


def test_time_is_embedded_for_each_batch_and_each_given_frame() -> None:
    """Tokens of the given frame have timestep 0, whatever the batch."""
    network, latents = tiny.ti2v(), tiny.normal((2, 48, 3, 4, 6), 1)
    frame = GivenFrame(tiny.normal((1, 48, 1, 4, 6), 2))
    text = tiny.normal((2, 512, tiny.TEXT_DIM), 3)
    with torch.no_grad():
        expected = network(latents, frame.timesteps(700.0, latents), text, return_dict=False)[0]
        with kept_embeddings(network, 6) as kept:
            for kept.time_of in ("a", "a", "b"):
                velocity = network(latents, frame.timesteps(700.0, latents), text, return_dict=False)[0]
                assert tiny.relative_error(velocity, expected) < 1e-6


def test_another_timestep_text_or_size_is_embedded_anew() -> None:
    network = tiny.t2v()
    with torch.no_grad(), kept_embeddings(network, 0) as kept:
        for name, seed, sigma, shape in (("a", 1, 0.9, tiny.SHAPE), ("b", 2, 0.9, tiny.SHAPE), ("b", 2, 0.3, (1, 16, 2, 6, 4))):
            kept.tokens_of, kept.time_of = name, sigma
            text, latents = tiny.normal((1, 512, tiny.TEXT_DIM), seed), seeded_noise(shape, 1)
            velocity = network(latents, torch.tensor([1000 * sigma]), text, return_dict=False)[0]
            expected = tiny.t2v()(latents, torch.tensor([1000 * sigma]), text, return_dict=False)[0]
            assert tiny.relative_error(velocity, expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rotation_is_that_of_the_complex_plane(dtype: torch.dtype) -> None:
    """Closed form: the pair (a, b) at place p is turned by p * theta ** (-2 i / D), in float64."""
    places, dim = 7, 8
    x = tiny.normal((2, places, 3, dim), 1).to(dtype)
    angles = torch.arange(places, dtype=torch.float64)[:, None] * 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    expected = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[None, :, None]).flatten(-2)
    cos, sin = get_1d_rotary_pos_embed(dim, places, use_real=True, repeat_interleave_real=True)
    rope = cos[None, :, None], sin[None, :, None]
    limit = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    with torch.no_grad():
        for table in (rope, interleaved(rope)):
            out = rotated(x.clone(), table)
            assert out.dtype == dtype and tiny.relative_error(out, expected) < limit


def test_the_interleaved_table_is_one_that_diffusers_reads_too() -> None:
    rope = WanRotaryPosEmbed(12, (1, 2, 2), 32)(torch.zeros(1, 16, 3, 4, 6))
    cos, sin = interleaved(rope)
    assert cos is sin
    assert torch.equal(cos[..., 0::2], rope[0][..., 0::2]) and torch.equal(sin[..., 1::2], rope[1][..., 1::2])


def test_a_norm_in_place_is_the_norm() -> None:
    norm, x = nn.RMSNorm(24, eps=1e-6), tiny.normal((2, 5, 24), 1)
    nn.init.normal_(norm.weight)
    exact = nn.functional.rms_norm(x.double(), (24,), norm.weight.double(), 1e-6)
    with torch.no_grad():
        assert tiny.relative_error(normalised(norm, x.clone()), exact) < 2 * tiny.relative_error(norm(x), exact) + 1e-7
    assert torch.equal(normalised(norm, x), norm(x)), "with gradients nothing is overwritten"
    half = nn.RMSNorm(24, eps=1e-6).bfloat16()
    with torch.no_grad():
        assert torch.equal(normalised(half, x.bfloat16()), half(x.bfloat16()))


def test_fast_linear_layers_are_as_exact_as_torchs_and_put_back() -> None:
    network = tiny.t2v()
    kinds = [type(module) for module in network.modules()]
    layer, x = network.blocks[0].ffn.net[0], tiny.normal((2, 9, 24), 1)
    with torch.no_grad():
        exact = nn.functional.linear(*(values.double() for values in (x, layer.proj.weight, layer.proj.bias)))
        exact = nn.functional.gelu(exact, approximate="tanh")
        by_torch = layer(x)
        with pytest.raises(KeyboardInterrupt), fast_linears(network, LinearAccount()):
            assert type(layer) is FastGELU and type(network.proj_out) is FastLinear
            assert tiny.relative_error(layer(x), exact) < 4 * tiny.relative_error(by_torch, exact)
            assert list(network.state_dict()) == list(tiny.t2v().state_dict())
            raise KeyboardInterrupt
        assert torch.equal(layer(x), by_torch)
    assert [type(module) for module in network.modules()] == kinds


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_layer_of_another_class_keeps_its_own_way() -> None:
    layer, x = tiny.t2v().blocks[0].ffn.net[0], tiny.normal((2, 9, 24), 1)
    layer.proj.__class__ = Doubled
    with torch.no_grad():
        before = layer(x)
        with fast_linears(layer, LinearAccount()):
            assert torch.equal(layer(x), before)


def test_layers_in_other_dtypes_are_left_alone() -> None:
    network = tiny.t2v().to(torch.bfloat16)
    with fast_linears(network, LinearAccount()):
        assert not any(isinstance(module, FastLinear | FastGELU) for module in network.modules())
