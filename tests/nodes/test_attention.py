"""FastVideo Attention: what was chosen runs, self- and cross-attention apart, on this MODEL only, and is gone with the node."""

from types import MethodType
from typing import Any

import pytest
import torch
from caching import cached, put_table
from sampling import conditions_of, latent_of, normal, relative_error, run_ksampler, run_node
from test_composition import PATCHES
from test_diffusers_model import load

from fastvideo_core import RequestError
from fastvideo_core.attention import BACKENDS

pytestmark = pytest.mark.usefixtures("direct")

LAYERS = 2
KINDS = ["t2v", "i2v", "i2v_clip", "flf2v", "ti2v"]
OVERRIDE = "optimized_attention_override"


def attended(host: Any, model: Any, own: str = "sdpa_math", cross: str = "sdpa_math", fold_text: bool = False) -> Any:
    inputs = {"self_attention": own, "cross_attention": cross, "fold_text": fold_text}
    return host.node_classes["FastVideoAttention"].execute(model=model, **inputs).args[0]


def calls(report: Any) -> list[tuple[str, str, int, int]]:
    return [(part.part, part.backend, part.calls, part.network_calls) for part in report.attention]


def test_off_the_model_goes_through_as_it_came(direct: Any, load_wan: Any) -> None:
    model = load_wan()
    node = direct.node_classes["FastVideoAttention"]
    assert node.execute(model=model, self_attention="auto", cross_attention="auto", enabled=False).args[0] is model


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_attention_runs_in_its_backend_and_is_counted(comfy: Any, load_wan: Any, kind: str) -> None:
    """KSampler's video is the measure; torch's plain mathematics rounds differently from its fused kernel."""
    model = load_wan(kind)
    plain, before = run_node(comfy, model, kind, steps=2)
    ours, report = run_node(comfy, attended(comfy, model, "sdpa_math", "sdpa"), kind, steps=2)
    cross = 2 if kind in ("i2v_clip", "flf2v") else 1
    assert calls(report) == [
        ("self-attention", "sdpa_math", 2 * LAYERS, 2),
        ("cross-attention", "sdpa", 2 * LAYERS * cross, 2),
    ]
    assert before.attention == ()
    assert not torch.equal(ours, plain) and relative_error(ours, plain) < 1e-5
    assert f"self-attention of the single expert: sdpa_math (as asked), {2 * LAYERS} calls in 2 of the network" in report.text()


@pytest.mark.parametrize("kind", ["t2v", "i2v_clip"])
def test_torch_sdpa_is_bit_equal_to_core_own(comfy: Any, load_wan: Any, kind: str) -> None:
    model = load_wan(kind)
    assert torch.equal(run_ksampler(attended(comfy, model, "sdpa", "sdpa"), kind, steps=2), run_ksampler(model, kind, steps=2))


def test_a_video_as_long_as_the_text_is_told_apart(comfy: Any, load_wan: Any) -> None:
    """Latents of 2 frames of 32 x 32 are 512 tokens, as many as the text has rows."""
    model, latent = load_wan(), latent_of("t2v", frames=2, side=32)
    positive, negative = conditions_of("t2v", frames=2, side=32)
    inputs = {"positive": positive, "negative": negative, "latent": latent, "steps": 1}
    _, report = run_node(comfy, attended(comfy, model, "sdpa_math", "sdpa"), **inputs)
    assert calls(report) == [("self-attention", "sdpa_math", LAYERS, 1), ("cross-attention", "sdpa", LAYERS, 1)]


def test_two_models_have_two_backends_in_one_process(comfy: Any, load_wan: Any) -> None:
    """Both experts are patchings of one network."""
    model = load_wan()
    high, low = attended(comfy, model, "sdpa_math", "sdpa"), attended(comfy, model, "sdpa", "sdpa_math")
    _, report = run_node(comfy, high, low_noise_model=low, steps=4)
    steps = {phase.expert: phase.steps for phase in report.phases}
    assert [(part.expert, part.part, part.backend, part.calls) for part in report.attention] == [
        ("high_noise", "self-attention", "sdpa_math", LAYERS * steps["high_noise"]),
        ("high_noise", "cross-attention", "sdpa", LAYERS * steps["high_noise"]),
        ("low_noise", "self-attention", "sdpa", LAYERS * steps["low_noise"]),
        ("low_noise", "cross-attention", "sdpa_math", LAYERS * steps["low_noise"]),
    ]


def test_only_one_expert_may_have_it(comfy: Any, load_wan: Any) -> None:
    model = load_wan()
    _, report = run_node(comfy, model, low_noise_model=attended(comfy, load_wan("t2v", 1)), steps=4)
    assert {part.expert for part in report.attention} == {"low_noise"}


def test_without_the_node_nothing_of_it_remains(comfy: Any, load_wan: Any) -> None:
    model = load_wan()
    before = run_ksampler(model, steps=2)
    modules = {name: set(vars(module)) for name, module in model.model.diffusion_model.named_modules()}
    assert not torch.equal(run_ksampler(attended(comfy, model), steps=2), before)
    assert torch.equal(run_ksampler(model, steps=2), before)
    assert OVERRIDE not in model.model_options["transformer_options"]
    assert {name: set(vars(module)) for name, module in model.model.diffusion_model.named_modules()} == modules


def test_nothing_remains_after_an_interrupt(comfy: Any, load_wan: Any) -> None:
    model = load_wan()
    chosen = attended(comfy, model)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    stopped = chosen.clone()
    stopped.set_model_patch_replace(interrupt, "dit", "double_block", 1)
    with pytest.raises(KeyboardInterrupt):
        run_ksampler(stopped, steps=1)
    assert not any("forward" in vars(module) for module in model.model.diffusion_model.modules())
    assert isinstance(run_node(comfy, chosen, steps=1)[1].attention[0].calls, int)


@pytest.mark.parametrize("kind", ["t2v", "i2v_clip"])
def test_diffusers_networks_get_it_through_their_processors(comfy: Any, load_wan: Any, kind: str) -> None:
    load_wan(kind)
    model = load(comfy, f"{kind}_0.safetensors")
    plain = run_node(comfy, model, kind, steps=2)[0]
    ours, report = run_node(comfy, attended(comfy, model, "sdpa_math", "sdpa"), kind, steps=2)
    cross = 2 if kind == "i2v_clip" else 1
    assert calls(report) == [
        ("self-attention", "sdpa_math", 2 * LAYERS, 2),
        ("cross-attention", "sdpa", 2 * LAYERS * cross, 2),
    ]
    assert not torch.equal(ours, plain) and relative_error(ours, plain) < 1e-5
    assert torch.equal(run_node(comfy, model, kind, steps=2)[0], plain)


def test_calls_outside_of_a_generation_compute_with_it_too(comfy: Any, load_wan: Any) -> None:
    for model in (load_wan(), load(comfy, "t2v_0.safetensors")):
        plain, chosen = (
            given.model.apply_model(
                normal(51, 1, 16, 3, 8, 8), torch.tensor([0.7]), c_crossattn=normal(52, 1, 512, 32),
                transformer_options=given.model_options["transformer_options"],
            )
            for given in (model, attended(comfy, model))
        )  # fmt: skip
        assert not torch.equal(chosen, plain) and relative_error(chosen, plain) < 1e-5


@pytest.mark.parametrize("name", [name for name in PATCHES if name != "attention override"])
def test_other_nodes_act_as_before(comfy: Any, load_wan: Any, name: str) -> None:
    """Bit for bit, with torch's own attention, whichever node comes first."""
    patch, model = PATCHES[name], load_wan()
    expected = run_ksampler(patch(comfy, model), steps=3)
    assert torch.equal(run_ksampler(patch(comfy, attended(comfy, model, "sdpa", "sdpa")), steps=3), expected)
    assert torch.equal(run_ksampler(attended(comfy, patch(comfy, model), "sdpa", "sdpa"), steps=3), expected)


@pytest.mark.parametrize("name", ["block replace", "SkipLayerGuidanceDiT"])
def test_other_nodes_act_as_before_on_diffusers_networks(comfy: Any, load_wan: Any, name: str) -> None:
    load_wan()
    patch, model = PATCHES[name], load(comfy, "t2v_0.safetensors")
    expected = run_ksampler(patch(comfy, model), steps=3)
    assert relative_error(run_ksampler(patch(comfy, attended(comfy, model, "sdpa", "sdpa")), steps=3), expected) < 1e-5


@pytest.mark.parametrize("network", ["core", "diffusers"])
@pytest.mark.parametrize("order", ["cache first", "attention first"])
def test_blocks_that_a_step_cache_skips_are_no_calls(comfy: Any, load_wan: Any, network: str, order: str) -> None:
    put_table(comfy, load_wan())
    base = load_wan() if network == "core" else load(comfy, "t2v_0.safetensors")
    model = attended(comfy, cached(comfy, base)) if order == "cache first" else cached(comfy, attended(comfy, base))
    _, report = run_node(comfy, model)
    computed = report.caches[0].phases[0].computed
    assert 0 < computed < 8
    assert calls(report)[0] == ("self-attention", "sdpa_math", computed * LAYERS, 8)


def test_self_attention_that_another_pack_replaced_is_still_self_attention(comfy: Any, load_wan: Any) -> None:
    """Packs replace a module's forward by an object patch, before or after this node."""
    from comfy.ldm.wan.model import WanSelfAttention

    def doubled(self: Any, x: Any, freqs: Any, transformer_options: Any = {}) -> Any:  # noqa: B006
        return 2 * WanSelfAttention.forward(self, x, freqs, transformer_options=transformer_options)

    model = attended(comfy, load_wan(), "sdpa_math", "sdpa")
    module = model.model.diffusion_model.blocks[0].self_attn
    model.add_object_patch("diffusion_model.blocks.0.self_attn.forward", MethodType(doubled, module))
    video, report = run_node(comfy, model, steps=2)
    assert calls(report)[0] == ("self-attention", "sdpa_math", 2 * LAYERS, 2)
    assert relative_error(video, run_node(comfy, load_wan(), steps=2)[0]) > 1e-3


def test_another_attention_on_the_model_is_refused_by_name(comfy: Any, load_wan: Any) -> None:
    patched = PATCHES["attention override"](comfy, load_wan())
    with pytest.raises(RequestError, match=r"another pack's attention \(test_composition\..*override.*\) are on one MODEL"):
        attended(comfy, patched)
    with pytest.raises(RequestError, match="two FastVideo Attention nodes on one MODEL"):
        attended(comfy, attended(comfy, load_wan()))
    with pytest.raises(RequestError, match="another pack's attention"):
        run_ksampler(PATCHES["attention override"](comfy, attended(comfy, load_wan())), steps=1)


def test_a_backend_that_cannot_run_here_raises_every_reason(comfy: Any, load_wan: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("states the reasons of a machine without a GPU")
    with pytest.raises(RequestError) as raised:
        attended(comfy, load_wan(), "sageattention_2")
    for part in ("the package sageattention", "NVIDIA GPU of compute capability 8.0", "float16 or bfloat16"):
        assert part in str(raised.value)


def test_the_list_has_everything_and_first_what_runs_here(comfy: Any) -> None:
    schema = comfy.node_classes["FastVideoAttention"].define_schema()
    for name in ("self_attention", "cross_attention"):
        given = next(given for given in schema.inputs if given.id == name)
        assert given.options[0] == "auto" and set(given.options) == {"auto", *BACKENDS}
    assert given.options[1] == "sdpa"
    if not torch.cuda.is_available():
        own = schema.inputs[1]
        assert "flash_attn_3 needs the package flash-attn-3, which is not installed; needs an NVIDIA GPU" in own.tooltip
        assert own.options.index("sdpa_math") < own.options.index("sdpa_cudnn")


def test_another_model_than_wan_is_refused(tiny: Any) -> None:
    import nodes

    other = nodes.NODE_CLASS_MAPPINGS["TinyOtherModel"]().make("stable diffusion")[0]
    with pytest.raises(RequestError, match=r"samples Wan 2\.1 and 2\.2"):
        attended(tiny, other)


def test_core_own_choice_is_named_where_it_is_replaced(comfy: Any, load_wan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy.ldm.modules import attention

    monkeypatch.setattr(attention, "optimized_attention", attention.attention_sub_quad)
    _, report = run_node(comfy, attended(comfy, load_wan()), steps=1)
    assert "ComfyUI was started with attention_sub_quad, which FastVideo Attention replaces on its MODEL" in report.notes
    assert not any("attention_sub_quad" in note for note in run_node(comfy, load_wan(), steps=1)[1].notes)


def test_ksampler_says_in_the_log_what_ran(comfy: Any, load_wan: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run_ksampler(attended(comfy, load_wan(), "auto", "sdpa_math"), steps=2)
    assert f"cross-attention of the single expert: sdpa_math (as asked), {2 * LAYERS} calls in 2 of the network" in caplog.text
    assert "self-attention of the single expert: sdpa (auto; not flash_attn_3: " in caplog.text or torch.cuda.is_available()


def test_compiled_blocks_are_compiled_as_often_as_without_it(comfy: Any, load_wan: Any) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from torch._dynamo.testing import CompileCounter

    counts, videos = [], []
    for chosen in (load_wan(), attended(comfy, load_wan(), "sdpa", "sdpa")):
        compiled, model = CompileCounter(), chosen.clone()
        set_torch_compile_wrapper(model, backend=compiled, keys=[f"diffusion_model.blocks.{i}" for i in range(LAYERS)])
        torch.compiler.reset()
        video, report = run_node(comfy, model, steps=4)
        counts.append(compiled.frame_count)
        videos.append(video)
    assert counts[1] == counts[0]
    assert torch.equal(*videos)
    assert [(part.calls, part.network_calls) for part in report.attention] == [(0, 4), (0, 4)]
    assert "compiled blocks, which do not count in 4 of the network" in report.text()
