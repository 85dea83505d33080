"""The nodes: thin over `fastvideo_core`, and the only place that imports ComfyUI."""

from comfy_api.latest import ComfyExtension, io

from . import demo_wan, diffusers_model, guider, run_report, sampler, text_encode


class FastVideoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [*text_encode.NODES, *sampler.NODES, *guider.NODES, *diffusers_model.NODES, *demo_wan.NODES, *run_report.NODES]


async def comfy_entrypoint() -> FastVideoExtension:
    return FastVideoExtension()
