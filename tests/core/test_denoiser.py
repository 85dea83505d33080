"""Diffusers' network as a denoiser: what reaches the network, what is refused before, and where the weights are."""

import re
from dataclasses import replace

import pytest
import tiny
import torch
from tiny import normal, relative_error
from torch import Tensor

from fastvideo_core import Conditioning, ConditioningError, GivenFrame, image_condition, plan, shifted_sigmas
from fastvideo_core.wan import WanDenoiser, WanExperts
from fastvideo_core.wan.memory import activation_bytes, compute_dtype

VARIANTS = tiny.variants()
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))


def told(variant: tiny.Variant, sigma: float = 0.8) -> dict[str, Tensor]:
    """The arguments of the network in one batched call."""
    network, seen = variant.network(0), {}
    network.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    WanDenoiser(network, variant.conditioning, variant.shape).predict(normal(variant.shape, 1), sigma, ("positive", "negative"))
    return seen


@every_variant
def test_a_call_equals_the_networks_own_forward(variant: tiny.Variant) -> None:
    network, condition, latents = variant.network(0), variant.conditioning, normal(variant.shape, 1)
    prediction = WanDenoiser(network, condition, variant.shape).predict(latents, 0.8, ("negative",))
    channels = latents if condition.image is None else torch.cat([latents, condition.image], dim=1)
    timestep = torch.tensor([800.0])
    if condition.first_frame is not None:
        timestep = torch.tensor([[0.0] * 6 + [800.0] * 12])  # 2 x 3 tokens per frame, the first frame given
    tokens = condition.image_tokens
    if tokens is not None and tokens.shape[1] == 514:
        tokens = tokens.view(2, 257, tiny.IMAGE_DIM)
    expected = network(channels, timestep, condition.negative, encoder_hidden_states_image=tokens, return_dict=False)[0]
    assert relative_error(prediction.velocities[0], expected) <= 1e-6
    assert prediction.calls == [("negative",)]


def test_timesteps_are_told_as_floats() -> None:
    timestep = told(VARIANTS["T2V"], sigma=0.97297)["timestep"]
    assert timestep.dtype == torch.float32
    assert timestep.tolist() == pytest.approx([972.97, 972.97], rel=1e-6)


def test_a_given_frames_tokens_have_timestep_0_and_all_others_the_steps() -> None:
    timestep = told(VARIANTS["TI2V"])["timestep"]
    assert timestep.shape == (2, 3 * 2 * 3)  # two branches; frames x (height / 2) x (width / 2)
    assert timestep[:, :6].eq(0).all()
    assert timestep[:, 6:].eq(800).all()


def test_text_image_and_tokens_are_repeated_for_each_branch_in_its_order() -> None:
    variant = VARIANTS["I2V with CLIP"]
    arguments, condition = told(variant), variant.conditioning
    assert condition.image is not None
    assert torch.equal(arguments["encoder_hidden_states"], torch.cat([condition.positive, condition.text("negative")]))
    assert torch.equal(arguments["hidden_states"][:, 16:], torch.cat([condition.image] * 2))
    assert torch.equal(arguments["encoder_hidden_states_image"], torch.cat([condition.image_tokens] * 2))


def test_the_two_images_of_flf2v_stay_together_in_a_batch() -> None:
    variant = VARIANTS["FLF2V"]
    first, last = variant.conditioning.image_tokens.split(257, dim=1)
    assert torch.equal(told(variant)["encoder_hidden_states_image"], torch.cat([first, last, first, last]))


def test_the_solvers_latents_stay_float32_under_a_bfloat16_network() -> None:
    network, condition = tiny.t2v().to(torch.bfloat16), tiny.conditioning()
    assert compute_dtype(network) == torch.bfloat16
    with tiny.experts({"single": network}, condition).active(plan((1.0, 0.0), 5.0).phases[0]) as denoiser:
        velocity = denoiser.predict(normal(tiny.SHAPE, 1), 0.8, ("positive",)).velocities[0]
    plain = WanDenoiser(tiny.t2v(), condition, tiny.SHAPE).predict(normal(tiny.SHAPE, 1), 0.8, ("positive",)).velocities[0]
    assert velocity.dtype == torch.float32
    assert relative_error(velocity, plain) < 2e-2


def test_no_gradient_is_recorded() -> None:
    network = tiny.t2v().requires_grad_(True)
    velocities = WanDenoiser(network, tiny.conditioning(), tiny.SHAPE).predict(normal(tiny.SHAPE, 1), 0.8, ("positive",))
    assert not velocities.velocities[0].requires_grad


T2V, CLIP_TOKENS = VARIANTS["T2V"].conditioning, normal((1, 257, tiny.IMAGE_DIM), 1)
IMAGE = VARIANTS["I2V 2.2"].conditioning.image


@pytest.mark.parametrize(
    ("network", "condition", "shape", "text"),
    [
        (tiny.i2v, T2V, tiny.SHAPE, "reads 36 channels and got 16: 16 of latents and no image condition"),
        (tiny.t2v, replace(T2V, image=IMAGE), tiny.SHAPE, "reads 16 channels and got 36: 16 of latents and an image"),
        (tiny.ti2v, T2V, tiny.SHAPE, "reads 48 channels and got 16"),
        (tiny.i2v, replace(T2V, image=IMAGE), (1, 16, 4, 4, 6), "The image condition is 3 x 4 x 6 and the latents are 4 x 4 x 6"),
        (tiny.i2v_clip, replace(T2V, image=IMAGE), tiny.SHAPE, "reads CLIP image tokens and got none"),
        (tiny.t2v, replace(T2V, image_tokens=CLIP_TOKENS), tiny.SHAPE, "reads no CLIP image tokens and got some"),
        (
            tiny.flf2v, replace(T2V, image=IMAGE, image_tokens=CLIP_TOKENS), tiny.SHAPE,
            "reads 514 image tokens, those of the first and the last image, and got 257. Give both images",
        ),
        (
            tiny.i2v_clip, replace(T2V, image=IMAGE, image_tokens=CLIP_TOKENS[..., :8]), tiny.SHAPE,
            "The image tokens are 8 wide and the single network reads 20",
        ),
        (
            tiny.ti2v, replace(T2V, first_frame=GivenFrame(normal((1, 48, 1, 2, 6), 1))), tiny.SHAPE_48,
            "The first frame has 48 channels of 1 x 2 x 6 and the latents 48 of 3 x 4 x 6",
        ),
        (
            tiny.t2v, Conditioning(positive=normal((1, 512, 12), 1)), tiny.SHAPE,
            "The positive text embedding is 12 wide and the single network reads 16: the text encoder belongs to another",
        ),
        (
            tiny.t2v, replace(T2V, negative=normal((1, 512, 12), 1)), tiny.SHAPE,
            "The negative text embedding is 12 wide",
        ),
    ],
)  # fmt: skip
def test_conditions_that_do_not_fit_the_network_are_refused_before_it_runs(
    network: object, condition: Conditioning, shape: tuple[int, ...], text: str
) -> None:
    with pytest.raises(ConditioningError, match=re.escape(text)):
        tiny.experts({"single": network(0)}, condition, shape)  # type: ignore[operator]


def test_an_expert_of_another_shape_is_refused_by_its_name() -> None:
    with pytest.raises(ConditioningError, match="The low_noise network reads 36 channels and got 16"):
        tiny.experts({"high_noise": tiny.t2v(), "low_noise": tiny.i2v()}, tiny.conditioning())


def test_text_that_is_not_512_rows_is_refused() -> None:
    with pytest.raises(ConditioningError, match=r"The negative text embedding has shape \(1, 226, 16\): Wan reads \(batch, 512"):
        Conditioning(positive=normal((1, 512, 16), 1), negative=normal((1, 226, 16), 1))


def test_guidance_without_a_negative_text_is_refused() -> None:
    condition = Conditioning(positive=normal((1, 512, 16), 1))
    with pytest.raises(ConditioningError, match="Guidance needs a negative text embedding and there is none"):
        WanDenoiser(tiny.t2v(), condition, tiny.SHAPE).predict(normal(tiny.SHAPE, 1), 0.8, ("positive", "negative"))


def test_the_image_condition_is_4_mask_and_16_latent_channels() -> None:
    frames, known = normal(tiny.SHAPE, 1), torch.tensor([True] + [False] * 7 + [True])
    condition = image_condition(frames, known)
    assert condition.shape == (1, 20, 3, 4, 6)
    assert torch.equal(condition[:, 4:], frames)
    # One latent frame covers four video frames, the first one only video frame 0, which fills its four channels.
    assert condition[0, :4, :, 0, 0].T.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
    with pytest.raises(ConditioningError, match="8 known frames for 3 latent frames"):
        image_condition(frames, known[1:])


def test_an_expert_leaves_the_device_when_its_phase_ends() -> None:
    # "meta" stands for a place to offload to that the CPU can be told from.
    high, low, phases = tiny.t2v(1), tiny.t2v(2), plan(shifted_sigmas(6, 5.0), 4.0, 3.0, 0.875).phases
    experts = WanExperts(
        {"high_noise": high, "low_noise": low}, tiny.conditioning(), tiny.SHAPE, torch.device("cpu"), torch.device("meta")
    )
    places = []
    for phase, expert in zip(phases, (high, low), strict=True):
        with experts.loaded(phase.expert), experts.active(phase) as denoiser:
            assert denoiser.transformer is expert
            places.append((high.device.type, low.device.type))
        places.append((high.device.type, low.device.type))
    assert places == [("cpu", "cpu"), ("meta", "cpu"), ("meta", "cpu"), ("meta", "meta")]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_the_weights_are_back_when_a_phase_ends_by_an_exception(failure: type[BaseException]) -> None:
    network, (phase,) = tiny.t2v(), plan((1.0, 0.0), 5.0).phases
    experts = WanExperts({"single": network}, tiny.conditioning(), tiny.SHAPE, torch.device("cpu"), torch.device("meta"))
    with pytest.raises(failure), experts.loaded(phase.expert), experts.active(phase):
        assert network.device.type == "cpu"
        raise failure
    assert network.device.type == "meta"


def test_a_group_offloaded_network_keeps_its_own_places_and_its_values() -> None:
    from diffusers.hooks import apply_group_offloading

    plain, offloaded = tiny.t2v(), tiny.t2v()
    cpu = torch.device("cpu")
    apply_group_offloading(offloaded, cpu, cpu, offload_type="block_level", num_blocks_per_group=1)
    velocities = []
    for network in (plain, offloaded):
        with tiny.experts({"single": network}, tiny.conditioning()).active(plan((1.0, 0.0), 5.0).phases[0]) as denoiser:
            velocities.append(denoiser.predict(normal(tiny.SHAPE, 1), 0.8, ("positive", "negative")).velocities[0])
    assert torch.equal(*velocities)


def test_the_memory_estimate_grows_with_branches_and_size() -> None:
    network = tiny.t2v()
    one = activation_bytes(network, tiny.SHAPE, branches=1)
    assert one == int(
        3 * 2 * 3 * (8 * 24 + 4 * (16 + 2 * 16) + 12) * 4 * 1.05
    )  # tokens x (the widest + latents + rope) x float32
    assert activation_bytes(network, tiny.SHAPE, branches=2) == pytest.approx(2 * one, rel=0.03)  # one rope table
    assert activation_bytes(network, (1, 16, 6, 4, 6), branches=1) == pytest.approx(2 * one, abs=1)
