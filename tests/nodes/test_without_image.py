"""Networks with an image branch and no image: Fun Control with a control video alone, Fun InP and InfiniteTalk without tokens."""

from typing import Any

import pytest
import torch
from sampling import normal, relative_error, run_ksampler, run_node
from tiny_wan import METADATA, TEXT_DIM, conditioning, scaled

pytestmark = pytest.mark.usefixtures("direct")


@pytest.fixture
def fun_control(comfy: Any) -> Any:
    """Reads a control video and a start image of 16 channels each, and CLIP tokens."""
    from comfy import ops
    from comfy.ldm.wan.model import WanModel
    from comfy.sd import load_diffusion_model
    from safetensors.torch import save_file

    network = WanModel(
        model_type="i2v", in_dim=48, out_dim=16, text_dim=TEXT_DIM, dim=64, ffn_dim=128, num_heads=1, num_layers=2,
        dtype=torch.float32, device=torch.device("cpu"), operations=ops.disable_weight_init,
    )  # fmt: skip
    path = comfy.model_folder("diffusion_models") / "fun_control.safetensors"
    save_file(scaled(network.state_dict(), 0), path, METADATA)
    return load_diffusion_model(str(path))


def without_tokens(channels: int, **extra: Any) -> dict[str, Any]:
    image = {"concat_latent_image": normal(3, 1, channels, 3, 8, 8), **extra}
    return {"positive": conditioning(1, **image), "negative": conditioning(2, **image)}


def check(comfy: Any, model: Any, kind: str, **prompts: Any) -> Any:
    """The run report, of a run that equals KSampler's."""
    ours, report = run_node(comfy, model, kind, steps=4, **prompts)
    assert relative_error(ours, run_ksampler(model, kind, steps=4, **prompts)) < 1e-5
    return report


def test_fun_control_with_a_control_video_alone(comfy: Any, fun_control: Any) -> None:
    report = check(comfy, fun_control, "t2v", **without_tokens(32))
    assert any("the positive and the negative conditioning held no CLIP image tokens" in note for note in report.notes)


def test_fun_control_without_any_image(comfy: Any, fun_control: Any) -> None:
    check(comfy, fun_control, "t2v")


@pytest.mark.parametrize("kind", ["i2v_clip", "flf2v"])
def test_fun_inpaint_without_tokens(comfy: Any, load_wan: Any, kind: str) -> None:
    prompts = without_tokens(16, concat_mask=torch.ones(1, 4, 3, 8, 8))
    report = check(comfy, load_wan(kind), kind, **prompts)
    assert any("connect CLIPVisionEncode" in note for note in report.notes)
    unguided = run_node(comfy, load_wan(kind), kind, steps=1, guidance_scale=1.0, **prompts)[1]
    assert any("the positive conditioning held no CLIP" in note for note in unguided.notes)
    assert not any("CLIP" in note for note in run_node(comfy, load_wan(kind), kind, steps=1)[1].notes)


def test_folded_text_takes_the_place_of_the_tokens_too(comfy: Any, load_wan: Any) -> None:
    prompts = without_tokens(16, concat_mask=torch.ones(1, 4, 3, 8, 8))
    model = load_wan("i2v_clip")
    chosen = comfy.node_classes["FastVideoAttention"].execute(model, "sdpa", "sdpa", fold_text=True).args[0]
    expected = run_ksampler(model, "i2v_clip", steps=2, **prompts)
    assert relative_error(run_ksampler(chosen, "i2v_clip", steps=2, **prompts), expected) < 1e-5


def test_infinitetalk_without_tokens(comfy: Any, load_wan: Any) -> None:
    """Core's node puts its patches on the MODEL and leaves tokens to the user; here the patches' place is enough."""
    model = load_wan("i2v_clip").clone()
    model.set_model_attn2_patch(lambda args: 0.9 * args["x"])
    check(comfy, model, "i2v_clip", **without_tokens(16, concat_mask=torch.ones(1, 4, 3, 8, 8)))
