"""The table of Wan checkpoints agrees with itself, with the network's architecture and with the VAEs."""

import pytest

from fastvideo_core import RequestError, VideoSize, plan, shifted_sigmas
from fastvideo_core.wan import VARIANTS, WanVariant, recognise, variant

ROWS = list(VARIANTS.values())
every_variant = pytest.mark.parametrize("row", ROWS, ids=list(VARIANTS))


def measures(row: WanVariant) -> dict[str, int]:
    return {
        "in_channels": row.in_channels, "latent_channels": row.latent_channels, "dim": row.dim, "layers": row.layers,
        "image_tokens": row.image_tokens, "two_experts": row.two_experts,
    }  # fmt: skip


@every_variant
def test_its_input_channels_are_latents_and_perhaps_an_image_condition(row: WanVariant) -> None:
    assert row.in_channels - row.latent_channels in (0, 4 + 16)


@every_variant
def test_its_image_tokens_are_those_of_one_or_two_clip_images(row: WanVariant) -> None:
    assert row.image_tokens in (0, 257, 514)
    assert row.image_tokens == 0 or row.in_channels == 36


@every_variant
def test_its_default_video_is_on_its_grid(row: WanVariant) -> None:
    size = VideoSize(width=row.width, height=row.height, frames=row.frames, spatial=row.spatial)
    assert size.latent_shape(row.latent_channels)[1] == row.latent_channels


@every_variant
def test_it_has_two_experts_exactly_where_it_has_a_boundary_and_a_low_noise_scale(row: WanVariant) -> None:
    assert row.two_experts == (row.boundary is not None) == (row.low_noise_guidance_scale is not None)


@every_variant
def test_its_own_settings_give_a_schedule_with_every_expert_at_work(row: WanVariant) -> None:
    schedule = plan(shifted_sigmas(row.steps, row.shift), row.guidance_scale, row.low_noise_guidance_scale, row.boundary)
    assert len(schedule.phases) == (2 if row.two_experts else 1)
    assert all(phase.guided for phase in schedule.phases)


def test_only_the_5b_takes_a_given_first_frame_and_only_it_has_the_48_channel_vae() -> None:
    assert [row.name for row in ROWS if row.first_frame] == ["wan2.2_ti2v_5B"]
    assert [row.name for row in ROWS if row.latent_channels == 48 or row.spatial == 16] == ["wan2.2_ti2v_5B"]


@every_variant
def test_a_variant_is_recognised_by_the_measures_of_its_network(row: WanVariant) -> None:
    assert row in recognise(**measures(row))


def test_only_the_two_resolutions_of_wan_2_1_image_to_video_look_alike() -> None:
    alike = {tuple(found.name for found in recognise(**measures(row))) for row in ROWS}
    assert {names for names in alike if len(names) > 1} == {("wan2.1_i2v_480p_14B", "wan2.1_i2v_720p_14B")}


def test_a_network_of_other_measures_is_none_of_them() -> None:
    assert not recognise(in_channels=16, latent_channels=16, dim=256, layers=8, image_tokens=0, two_experts=False)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"Wan variant 'wan3' is unknown. Known: wan2.1_t2v_1.3B, .*wan2.2_ti2v_5B"):
        variant("wan3")
    assert variant("wan2.2_t2v_A14B").boundary == 0.875
