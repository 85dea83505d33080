"""The nodes: thin over `fastvideo_core`, and the only place that imports ComfyUI."""

from comfy_api.latest import ComfyExtension, io

from . import (
    attention,
    batch,
    calibrate,
    compare,
    compile,
    dbcache,
    demo_wan,
    diffusers_model,
    guider,
    image_motion,
    magcache,
    model_on_workers,
    phase,
    phase_sampler,
    queue_sampler,
    recipe,
    run_report,
    sampler,
    sparse_attention,
    text_encode,
    tune,
    workers,
)
from .native.cancelling import register_cancelling
from .native.magcache import register_folder
from .native.state import register_states

MODULES = (
    text_encode, sampler, guider, diffusers_model, demo_wan, run_report, magcache, dbcache, calibrate, attention,
    sparse_attention, compile, compare, tune, phase, phase_sampler, image_motion, recipe, queue_sampler,
    workers, model_on_workers, batch,
)  # fmt: skip


class FastVideoExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_folder()
        register_states()
        register_cancelling()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for module in MODULES for node in module.NODES]


async def comfy_entrypoint() -> FastVideoExtension:
    return FastVideoExtension()
