"""Which recipes a model is taken for, by names as they are published."""

import pytest

from fastvideo_core import recognised

NAMES = {
    "wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors": "lightx2v_wan2.2",
    "loras/wan2.2_t2v_A14b_high_noise_lora_rank64_lightx2v_4step_1217.safetensors": "lightx2v_wan2.2",
    "Wan2.2_I2V_A14B_HIGH_lightx2v_MoE_distill_lora_rank_64_bf16.safetensors": "lightning_i2v_1014",
    "Wan2.2_I2V_A14B_LOW_4steps_lora_rank64_Seko_V1_forKJ.safetensors": "lightning_i2v",
    "Wan2.2-Lightning_T2V-v1.1-A14B-4steps-lora_HIGH_fp16.safetensors": "lightning_t2v",
    "lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank64_bf16.safetensors": "lightx2v_wan2.1",
    "Wan21_I2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors": "lightx2v_wan2.1",
    "wan2.2_flf2v_distill_lightx2v_high.safetensors": "lightx2v_flf2v",
    "Wan2.2-I2V-A14B-NVFP4-Sparse/high_noise.safetensors": None,
    "Wan2.2-I2V-A14B-NVFP4-Sparse-high.safetensors": "lightx2v_nvfp4_sparse_i2v",
    "Wan2.2-T2V-A14B-NVFP4-Sparse-high.safetensors": "lightx2v_nvfp4_sparse_t2v",
    "FastWan2.1-T2V-1.3B-Diffusers": "fastwan_2.1_1.3b",
    "FastWan-QAD-1.3B": "fastwan_qad_1.3b",
    "FastWan2.2-TI2V-5B-FullAttn-Diffusers": "fastwan_2.2_5b",
    "folder\\TurboWan2.1-T2V-1.3B-480P.safetensors": "turbo_t2v",
    "TurboWan2.2-I2V-A14B-high-720P-quant.safetensors": "turbo_i2v",
    "rCM_Wan2.1_T2V_14B_480p.safetensors": "turbo_t2v",
    "Wan21_CausVid_14B_T2V_lora_rank32.safetensors": "causvid_mix_8",
    "causvid_14b.safetensors": "causvid",
    "self_forcing_dmd.safetensors": "self_forcing",
    "CausalWan2.2-T2V-A14B": "causal_wan_2.2",
    "AnyFlow-Wan2.1-T2V-14B": "anyflow",
    "Wan14BT2VFusioniX_fp16.safetensors": "fusionx_10",
    "Wan2.1_T2V_14B_FusionX_LoRA.safetensors": "fusionx_10",
    "wan2.1_t2v_14B_fp8_e4m3fn.safetensors": None,
    "wan2.2_i2v_high_noise_14B_fp16.safetensors": None,
    "some_style_lora.safetensors": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_published_names_are_recognised_and_others_are_not(name: str) -> None:
    guesses = recognised([name])
    assert (guesses[0].recipe.name if guesses else None) == NAMES[name]
    for guess in guesses:
        assert guess.why and guess.recipe.name in guess.text()


def test_both_published_grids_of_fastwan_5b_are_offered() -> None:
    guesses = recognised(["FastWan2.2-TI2V-5B"])
    assert [guess.recipe.name for guess in guesses] == ["fastwan_2.2_5b", "fastwan_2.2_5b_warped"]


def test_why_is_told() -> None:
    (guess,) = recognised(["a/FastWan-QAD-1.3B"])[:1]
    assert guess.why == ("'FastWan' in the name FastWan-QAD-1.3B", "'QAD' in the name FastWan-QAD-1.3B")


def test_tensors_tell_of_what_names_do_not() -> None:
    def best(tensor: str, **known: object) -> str | None:
        guesses = recognised(["model.safetensors"], ["blocks.0.ffn.0.weight", tensor], **known)  # type: ignore[arg-type]
        return guesses[0].recipe.name if guesses else None

    assert best("condition_embedder.delta_embedder.linear_1.weight") == "anyflow"
    assert best("blocks.0.to_gate_compress.weight") == "fastwan_2.1_1.3b"
    assert best("blocks.3.self_attn.attn_op.local_attn.proj_l.weight") == "turbo_t2v"
    assert best("blocks.3.self_attn.attn_op.local_attn.proj_l.weight", experts=2) == "turbo_i2v"
    assert best("diffusion_model.blocks.0.diff_m", experts=1) == "lightx2v_wan2.1"
    assert best("diffusion_model.blocks.0.diff_m", experts=2) == "lightx2v_wan2.2"
    assert best("blocks.0.self_attn.q.lora_A.weight") is None


def test_what_is_known_of_the_network_rules_out_others() -> None:
    name = ["my_lightx2v_lora.safetensors"]
    assert {guess.recipe.name for guess in recognised(name, experts=1)} == {"lightx2v_wan2.1"}
    assert {guess.recipe.name for guess in recognised(name, experts=2)} == {"lightx2v_wan2.2"}
    assert recognised(name, networks=["wan2.2_ti2v_5B"]) == ()
    assert recognised(["FastWan"], networks=["wan2.2_ti2v_5B"])[0].recipe.name == "fastwan_2.2_5b"


def test_recipes_that_begin_without_the_lora_need_a_base() -> None:
    name = ["Wan2.2-Lightning_T2V-v1.1-A14B-4steps-lora_HIGH_fp16.safetensors"]
    assert not any(guess.recipe.has_base for guess in recognised(name))
    with_base = recognised(name, with_base=True)
    assert [guess.recipe.name for guess in with_base] == ["three_phases_1_3_4", "three_phases_1_4_3", "triple_virtual_base"]
