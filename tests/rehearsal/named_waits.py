"""Where a generation may wait for the GPU, or copy to it or from it, each with its reason. All else is a fault."""

from collections.abc import Callable, Mapping

from torch import Tensor

ENGINE = "fastvideo_core"
BEGINNING: Mapping[str, str] = {
    f"{ENGINE}/generate.py:seeded_noise": "a seed means the same noise on every device, so the CPU draws it",
    f"{ENGINE}/conditioning.py:GivenFrame.to": "a given frame comes once",
    f"{ENGINE}/wan/loading/offload.py:group_offload": "diffusers waits for the device when its hooks come",
}
"""Before the first step."""
LOADING: Mapping[str, str] = {
    f"{ENGINE}/wan/placement.py:_move": "an expert's weights come with its phases, and leave with them",
    f"{ENGINE}/conditioning.py:Conditioning.to": "text and image come once per phase",
    f"{ENGINE}/attention/folding.py:FoldedText.of": "the bias that weighs the folded rows comes once per phase",
    f"{ENGINE}/attention/sparse/tiles.py:TileGrid.build": "the tiles of a video's size, once per phase",
    f"{ENGINE}/attention/sparse/window.py:window_map": "which tiles are near each other, once per phase",
    f"{ENGINE}/attention/sparse/bsa.py:BSASettings.prepare": "how many queries each tile keeps, once per phase",
    f"{ENGINE}/solvers.py:fresh_noise": "a few-step solver's noise of all steps is drawn at once, by the CPU",
}
"""In the first step of a phase, and after its last one."""
HOST_LOADING: Mapping[str, str] = {
    "comfy/model_patcher.py:ModelPatcher.load": "core's loader brings the weights, module by module",
    "comfy/model_patcher.py:ModelPatcher.patch_weight_to_device": "core patches weights where they compute",
    "comfy/model_management.py:cast_to": "core brings a patch of weights",
    "comfy/sampler_helpers.py:prepare_mask": "the mask of a given frame comes once",
    "comfy/samplers.py:CFGGuider.outer_sample": "noise, latents and levels come once",
    "comfy/samplers.py:CFGGuider.inner_sample": "core looks whether the latents are all zero",
    "comfy/samplers.py:KSampler.set_steps": "core's KSampler has its levels on the device",
    "comfy/samplers.py:Sampler.max_denoise": "core compares the first level with its own",
    "comfy/model_base.py:WAN21.concat_cond": "image and mask come once per conditioning",
    "comfy/latent_formats.py:Wan21.process_in": "the latents' mean and deviation come with them",
    "nodes/native/expert.py:LaterExpert.load": "as core does for a whole run",
    "nodes/native/generation.py:generation_of": "whether a frame is given, once",
    **{place: why for place, why in LOADING.items() if "/sparse/" in place or "FoldedText" in place},
}
"""In steps in which an expert is loaded."""
HOST_STEPS: Mapping[str, str] = {
    "comfy/ldm/wan/model.py:sinusoidal_embedding_1d": "core makes the embedding of a timestep on the CPU, in each call",
}
"""Core's own, in any step."""
OFFLOADING: Mapping[str, str] = {
    f"{ENGINE}/wan/denoiser.py:WanDenoiser._call": "blocks come and go within a call, by diffusers' hooks",
}
"""In any step, with group offloading."""
STATES: Mapping[str, str] = {
    f"{ENGINE}/state.py:_copied": "a state's tensors are on the CPU",
    f"{ENGINE}/state.py:go_on": "and come from there",
    f"{ENGINE}/state.py:_on": "and come from there",
    f"{ENGINE}/generate.py:check_finite": "a state is never of values that are none",
}
"""Where a state is asked for, and where a generation goes on from one."""
RANKS: Mapping[str, str] = {
    f"{ENGINE}/wan/ranked.py:RankExperts.call": "the loop is the parent's, whose latents are on the CPU",
    f"{ENGINE}/parallel/stop.py:AgreedStop._hold": "a GPU's queue holds two blocks at the most, so that a stop comes soon",
}
"""In each call of a rank."""
ENDING: Mapping[str, str] = {
    f"{ENGINE}/generate.py:check_finite": "one look at the latents of a whole run",
    f"{ENGINE}/attention/sparse/session.py:SparseSession.report": "what was counted on the device, when a report is asked for",
    "nodes/native/text.py:GenerationText.check": "whether a text was longer than the fold, one look for a whole run",
    "comfy/latent_formats.py:Wan21.process_out": "as when they came",
    "comfy/sample.py:sample": "as core's own sampler",
    "nodes/native/sample.py:sample": "core's nodes hand latents on over the CPU",
}
"""After the last step."""
VALUES: Mapping[str, Callable[[Tensor], float]] = {
    "nodes/native/text.py:GenerationText.check": lambda longer: 0,
    "comfy/samplers.py:CFGGuider.inner_sample": lambda nonzero: 0,
    "comfy/samplers.py:Sampler.max_denoise": lambda level: 1.0,
    "nodes/native/expert.py:LaterExpert.load": lambda nonzero: 0,
    "nodes/native/generation.py:generation_of": lambda given: 1,
    f"{ENGINE}/generate.py:check_finite": lambda bad: 0,
    f"{ENGINE}/attention/sparse/session.py:SparseSession.report": lambda counted: 1,
    f"{ENGINE}/attention/sparse/gather.py:GatherKernel.plan": lambda longest: 8,
    f"{ENGINE}/step_cache/dbcache.py:DBCacheSession._difference": lambda change: 0.05,
}
"""What stands at those places where a value is read."""
DECISIONS: Mapping[str, str] = {
    f"{ENGINE}/attention/sparse/gather.py:GatherKernel.plan": "how many tiles the longest row has says how much is copied",
    f"{ENGINE}/step_cache/dbcache.py:DBCacheSession._difference": "whether to skip is the host's to decide: one number per call",
}
"""In any step, of those who ask for it."""
