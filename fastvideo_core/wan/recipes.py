"""Few-step recipes as data, each with its source: what a distilled Wan model or LoRA was trained to be sampled with.

Where an author's text and code differ, the code is followed and the row says so.
"""

from types import MappingProxyType

from ..errors import RequestError
from .recipe import Levels, Recipe, RecipePhase, evenly, fed, tan_grid, virtual_base, warped

T2V_14B, I2V_14B = ("wan2.1_t2v_14B",), ("wan2.1_i2v_480p_14B", "wan2.1_i2v_720p_14B")
T2V_1_3B, TI2V_5B = ("wan2.1_t2v_1.3B",), ("wan2.2_ti2v_5B",)
T2V_A14B, I2V_A14B = ("wan2.2_t2v_A14B",), ("wan2.2_i2v_A14B",)
A14B = (*T2V_A14B, *I2V_A14B)

LIGHTX2V = "ModelTC/LightX2V, lightx2v/models/schedulers/wan/step_distill/scheduler.py"
WAN2GP = "deepbeepmeep/Wan2GP, profiles/wan_2_2/"
FASTVIDEO = "hao-ai-lab/FastVideo, fastvideo/configs/pipelines/wan.py and pipelines/stages/denoising.py"
TURBO = "thu-ml/TurboDiffusion, turbodiffusion/inference/"
WRAPPER = "kijai/ComfyUI-WanVideoWrapper, wanvideo/schedulers/__init__.py"
TRIPLE = "VraethrDalkr/ComfyUI-TripleKSampler"

DISTILLED = r"light(ning|x2v)|4[-_ ]?steps?|distill|seko"
FED_NOTE = (
    "Its authors tell the network the timesteps themselves; here it is told 1000 times the level, which lies 0.5 at most beside."
)
CAUSAL_NOTE = "Its authors sample block by block with kept keys; here all frames are sampled at once, by the same rule."


def switched(until: float) -> tuple[RecipePhase, ...]:
    """Two experts without guidance."""
    return RecipePhase(expert="high_noise", until=until), RecipePhase(expert="low_noise")


def three(base_until: float, until: float, guidance_scale: float = 3.5) -> tuple[RecipePhase, ...]:
    """The high-noise expert as it was before distillation, with guidance, and then `switched`."""
    return RecipePhase(expert="high_noise", until=base_until, guidance_scale=guidance_scale, base=True), *switched(until)


_ROWS = (
    Recipe(
        name="lightx2v_flf2v", title="lightx2v 4 steps, Wan 2.2 first and last frame", networks=I2V_A14B, solver="euler",
        levels=evenly(4, 16.0), phases=switched(0.96), names=(DISTILLED, "flf2v"),
        source="ModelTC/LightX2V, configs/distill/wan22/wan_distill_moe_flf2v.json: shift 16, switch after step 2",
    ),
    Recipe(
        name="lightx2v_nvfp4_sparse_i2v", title="lightx2v NVFP4-Sparse I2V, 4 steps", networks=I2V_A14B, solver="euler",
        levels=evenly(4, 7.0), phases=switched(0.9), names=("nvfp4", "sparse"), off=("step cache",),
        sparse="sparse self-attention that leaves out 90 %",
        source="ModelTC/LightX2V, configs/wan22/extreme: shift 7, 2 + 2 steps",
    ),
    Recipe(
        name="lightx2v_nvfp4_sparse_t2v", title="lightx2v NVFP4-Sparse T2V, 4 steps", networks=T2V_A14B, solver="euler",
        levels=evenly(4, 5.0), phases=switched(0.875), names=("nvfp4", "sparse"), off=("step cache",),
        sparse="sparse self-attention that leaves out 90 %",
        source="ModelTC/LightX2V, configs/wan22/extreme: shift 5, 2 + 2 steps",
    ),
    Recipe(
        name="lightning_t2v", title="Lightning T2V, 4 steps, Wan 2.2", networks=T2V_A14B, solver="euler",
        levels=evenly(4, 3.0), phases=switched(0.876), names=("lightning",),
        source=f"{WAN2GP}Lightning t2v v1.0 2 Phases - 4 Steps.json: shift 3, switch at timestep 876",
    ),
    Recipe(
        name="lightning_i2v", title="Lightning I2V v1.0, 4 steps, Wan 2.2", networks=I2V_A14B, solver="euler",
        levels=evenly(4, 3.0), phases=switched(0.876), names=("lightning|seko",),
        source=f"{WAN2GP}Lightning i2v v1.0 2 Phases - 4 Steps.json: shift 3, switch at timestep 876",
    ),
    Recipe(
        name="lightning_i2v_1014", title="Lightning I2V of 2025-10-14, 4 steps, Wan 2.2", networks=I2V_A14B, solver="euler",
        levels=evenly(4, 5.0), phases=switched(0.876), names=(DISTILLED, r"moe[-_ ]?distill|1014"),
        source=f"{WAN2GP}Lightning i2v v2025-10-14 2 Phases - 4 Steps.json: shift 5, switch at timestep 876",
    ),
    Recipe(
        name="lightx2v_wan2.1", title="lightx2v 4 steps, Wan 2.1 14B T2V and I2V", networks=(*T2V_14B, *I2V_14B), solver="euler",
        levels=evenly(4, 5.0), names=(DISTILLED,), tensors=(r"\.diff_m$",),
        source=f"{LIGHTX2V}: timesteps 1000 750 500 250, shift 5",
        note="Its texts name LCM; its code is euler since 2026. Earlier versions of it added fresh noise, which is solver dmd.",
    ),
    Recipe(
        name="lightx2v_wan2.2", title="lightx2v 4 steps, Wan 2.2 T2V and I2V", networks=A14B, solver="euler",
        levels=evenly(4, 5.0), phases=switched(0.875), names=(DISTILLED,), tensors=(r"\.diff_m$",),
        source=f"{LIGHTX2V}: timesteps 1000 750 500 250, shift 5, switch after step 2",
        note="Its texts name LCM; its code adds the velocity times the next level, which is euler. Boundaries 0.875 and 0.9 give "
        "the same steps.",
    ),
    Recipe(
        name="fastwan_qad_1.3b", title="FastWan-QAD 1.3B, 3 steps", networks=T2V_1_3B, solver="dmd_float64",
        levels=fed((1000, 757, 522), 8.0), names=("fastwan", r"qad"), source=FASTVIDEO, note=FED_NOTE,
    ),
    Recipe(
        name="fastwan_2.1_1.3b", title="FastWan 2.1 T2V 1.3B, 3 steps", networks=T2V_1_3B, solver="dmd_float64",
        levels=fed((1000, 757, 522), 8.0), names=("fastwan",), tensors=("to_gate_compress",), off=("step cache",),
        sparse="VSA at sparsity 0.8", source=FASTVIDEO, note=FED_NOTE,
    ),
    Recipe(
        name="fastwan_2.2_5b", title="FastWan 2.2 TI2V 5B, 3 steps, timesteps as they are", networks=TI2V_5B,
        solver="dmd_float64", levels=fed((1000, 757, 522), 5.0), names=("fastwan",), source=FASTVIDEO,
        note=f"FastVideo's code for GPUs samples so; its code for Apple's shifts the list: see fastwan_2.2_5b_warped. {FED_NOTE}",
    ),
    Recipe(
        name="fastwan_2.2_5b_warped", title="FastWan 2.2 TI2V 5B, 3 steps, timesteps shifted", networks=TI2V_5B,
        solver="dmd_float64", levels=warped((1000, 757, 522), 5.0), names=("fastwan",),
        source="hao-ai-lab/FastVideo, docs/design/apple_silicon_fast_mode.md",
        note="The other of the two published grids, which its authors call unresolved: see fastwan_2.2_5b.",
    ),
    Recipe(
        name="turbo_t2v", title="rCM and TurboDiffusion T2V, Wan 2.1, 4 steps", networks=(*T2V_1_3B, *T2V_14B),
        solver="dmd_float64", levels=tan_grid(80.0), names=(r"turbo|(?<![a-z])rcm",),
        tensors=(r"local_attn\.proj_l", r"\.int8_weight$"), off=("step cache",),
        sparse="SLA that keeps 10 % (TurboDiffusion; rCM alone is dense)",
        source=f"{TURBO}wan2.1_t2v_infer.py: sigma_max 80",
    ),
    Recipe(
        name="rcm_t2v_120", title="rCM T2V from sigma_max 120, Wan 2.1, 4 steps", networks=(*T2V_1_3B, *T2V_14B),
        solver="dmd_float64", levels=tan_grid(120.0), names=(r"(?<![a-z])rcm",), source=WRAPPER,
    ),
    Recipe(
        name="turbo_i2v", title="TurboDiffusion I2V, Wan 2.2, 4 steps", networks=I2V_A14B, solver="dmd_float64",
        levels=tan_grid(200.0), phases=switched(0.9), names=(r"turbo|(?<![a-z])rcm",),
        tensors=(r"local_attn\.proj_l", r"\.int8_weight$"), off=("step cache",), sparse="SLA that keeps 10 %",
        source=f"{TURBO}wan2.2_i2v_infer.py: sigma_max 200, boundary 0.9",
    ),
    Recipe(
        name="turbo_i2v_ode", title="TurboDiffusion I2V, Wan 2.2, 4 steps without fresh noise", networks=I2V_A14B,
        solver="euler_float64", levels=tan_grid(200.0), phases=switched(0.9), names=(r"turbo|(?<![a-z])rcm",),
        off=("step cache",), sparse="SLA that keeps 10 %", source=f"{TURBO}wan2.2_i2v_infer.py --ode",
        note="Sharper and less robust, its authors say.",
    ),
    Recipe(
        name="causvid_mix_8", title="CausVid LoRA, 8 steps", networks=(*T2V_14B, *I2V_14B, *T2V_1_3B), solver="euler",
        levels=evenly(8, 2.0), names=("causvid", "lora"),
        source="deepbeepmeep/Wan2GP, profiles/wan/Cocktail t2v - 10 Steps.json: shift 2; 8 to 10 steps are used",
    ),
    Recipe(
        name="causvid", title="CausVid, 9 steps", networks=(*T2V_14B, *T2V_1_3B), solver="dmd",
        levels=Levels((0.999, 0.934, 0.862, 0.756, 0.603, 0.410, 0.250, 0.140, 0.074, 0.0), "a list of its authors'"),
        names=("causvid",), source=WRAPPER, note=CAUSAL_NOTE,
    ),
    Recipe(
        name="self_forcing", title="Self-Forcing, 4 steps", networks=(*T2V_1_3B, *T2V_14B), solver="dmd_float64",
        levels=warped((1000, 750, 500, 250), 5.0), names=(r"self[-_ ]?forcing",), source=FASTVIDEO, note=CAUSAL_NOTE,
    ),
    Recipe(
        name="causal_wan_2.2", title="CausalWan 2.2, 8 steps", networks=T2V_A14B, solver="dmd_float64",
        levels=warped((1000, 850, 700, 550, 350, 275, 200, 125), 12.0), phases=switched(0.875), names=(r"causal[-_ ]?wan",),
        source=FASTVIDEO, note=CAUSAL_NOTE,
    ),
    Recipe(
        name="anyflow", title="AnyFlow, any number of steps", networks=(*T2V_1_3B, *T2V_14B), solver="euler",
        levels=evenly(4, 5.0), any_steps=True, names=("anyflow",), tensors=(r"delta_embedder",),
        source="hao-ai-lab/FastVideo, docs/distillation/anyflow.md; arXiv 2605.13724",
        engine_only="its network reads a second timestep, the one that a step leads to, which ComfyUI does not tell. The engine "
        "does: python -m fastvideo_core generate --model FOLDER --solver euler --guidance-scale 1 --steps 4 --shift 5.",
    ),
    Recipe(
        name="fusionx_10", title="FusionX and other mixes, 10 steps", networks=(*T2V_14B, *I2V_14B), solver="euler",
        levels=evenly(10, 2.0), names=(r"fusi?on(i|ix|x)",), off=(),
        source="deepbeepmeep/Wan2GP, profiles/wan/FusioniX t2v - 10 Steps.json",
    ),
    Recipe(
        name="three_phases_1_3_4", title="three phases, 1 + 3 + 4 steps, Wan 2.2", networks=A14B, solver="euler",
        levels=evenly(8, 3.0), phases=three(0.965, 0.8), names=(DISTILLED,),
        source=f"{WAN2GP}Lightning t2v v1.0 3 Phases - 8 Steps.json: shift 3, timesteps 965 and 800",
        note="Against the slow motion of distillation LoRAs.",
    ),
    Recipe(
        name="three_phases_1_4_3", title="three phases, 1 + 4 + 3 steps, Wan 2.2", networks=A14B, solver="euler",
        levels=evenly(8, 5.0), phases=three(0.985, 0.8), names=(DISTILLED,),
        source=f"{WAN2GP}Lightning i2v v2025-10-14 3 Phases - 8 Steps.json: shift 5, timesteps 985 and 800",
        note="Against the slow motion of distillation LoRAs.",
    ),
    Recipe(
        name="triple_virtual_base", title="three phases with virtual base steps, Wan 2.2", networks=A14B, solver="euler",
        levels=virtual_base(8, 1, 20, 5.0), phases=three(0.975, 0.875), names=(DISTILLED,), source=TRIPLE,
        note="Its first phase has the step sizes of a run of 24 steps. Its nodes add noise anew in the last phase; here none is.",
    ),
)  # fmt: skip

RECIPES: MappingProxyType[str, Recipe] = MappingProxyType({row.name: row for row in _ROWS})


def recipe(name: str) -> Recipe:
    """The row of that name."""
    if name not in RECIPES:
        raise RequestError(f"Recipe {name!r:.80} is unknown. Known: {', '.join(RECIPES)}.")
    return RECIPES[name]
