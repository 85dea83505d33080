"""Networks of core that call their blocks in their own way: a node that would do nothing there says so in the first step."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from caching import cached, put_table
from safetensors.torch import save_file
from sampling import core_guider, relative_error, run_guider, run_ksampler, run_node, sigmas_of
from test_attention import attended
from test_compile import compiled, dbcached
from test_sparse_attention import sparse
from tiny_wan import metadata, random_weights, save_wan
from torch import nn

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")

NODES: dict[str, Callable[[Any, Any], Any]] = {
    "FastVideo Attention": lambda host, model: attended(host, model, "sdpa", "sdpa", fold_text=True),
    "FastVideo Sparse Attention": lambda host, model: sparse(host, model),
    "FastVideo Compile": compiled,
    "MagCache": cached,
    "DBCache": dbcached,
}


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def causal(comfy: Any) -> Any:
    """Core's causal Wan, as its loader makes it of a file."""
    pytest.importorskip("comfy.ldm.wan.ar_model", reason="this ComfyUI has no causal Wan yet")
    of = metadata(heads=1)
    of["config"] = of["config"].replace('"text_dim"', '"causal_ar": true, "text_dim"')
    path = comfy.model_folder("diffusion_models") / "t2v_causal.safetensors"
    save_file(random_weights("t2v", 0), path, of)
    model = loaded(path)
    assert type(model.model.diffusion_model).__name__ == "CausalWanModel"
    put_table(comfy, model)
    return model


@pytest.mark.parametrize("name", NODES)
def test_core_causal_wan_block_by_block_is_refused_by_name(comfy: Any, causal: Any, name: str) -> None:
    from comfy_extras.nodes_ar_video import SamplerARVideo

    sampler = SamplerARVideo.execute(num_frame_per_block=1).args[0]
    plain = run_guider(core_guider(causal, cfg=1.0), sampler, sigmas_of(10))
    with pytest.raises(RequestError, match=rf"{name} is on a CausalWanModel, whose blocks this sampler calls past"):
        run_guider(core_guider(NODES[name](comfy, causal), cfg=1.0), sampler, sigmas_of(10))
    assert torch.equal(run_guider(core_guider(causal, cfg=1.0), sampler, sigmas_of(10)), plain)


@pytest.mark.parametrize("name", NODES)
def test_core_causal_wan_as_a_whole_runs(comfy: Any, causal: Any, name: str) -> None:
    expected = run_ksampler(causal, steps=2)
    assert (
        name in ("FastVideo Sparse Attention", "DBCache")
        or relative_error(run_ksampler(NODES[name](comfy, causal), steps=2), expected) < 1e-5
    )


@pytest.mark.parametrize("name", ["FastVideo Attention", "FastVideo Sparse Attention", "FastVideo Compile"])
@pytest.mark.parametrize("sampler", [run_ksampler, run_node])
def test_a_network_that_calls_its_attention_piece_by_piece_is_refused_by_name(
    comfy: Any, piecewise: Any, name: str, sampler: Any
) -> None:
    """As Wan Animate 2 of newer cores does, which is a WAN21 as any other."""
    call = (
        (lambda model: run_node(comfy, model, steps=2)) if sampler is run_node else (lambda model: run_ksampler(model, steps=2))
    )
    call(piecewise)
    with pytest.raises(RequestError, match=rf"{name} is on a Piecewise, which calls its"):
        call(NODES[name](comfy, piecewise))


@pytest.mark.parametrize("name", ["MagCache", "DBCache"])
def test_step_caches_run_on_such_a_network(comfy: Any, piecewise: Any, name: str) -> None:
    """They stand around its blocks, which core's hooks do there too."""
    put_table(comfy, piecewise)
    _, report = run_node(comfy, NODES[name](comfy, piecewise))
    assert 0 < report.caches[0].phases[0].computed <= 8


def loaded(path: Any) -> Any:
    from comfy.sd import load_diffusion_model

    with torch.inference_mode():
        return load_diffusion_model(str(path))


@pytest.fixture
def piecewise(comfy: Any) -> Any:
    """Core's network with blocks and self-attention that are asked by other names than `forward`, and with what it is told of
    poses."""
    from comfy.conds import CONDConstant, CONDRegular
    from comfy.ldm.wan.model import WanAttentionBlock, WanModel, WanSelfAttention
    from comfy.model_base import WAN21

    class SelfAttention(WanSelfAttention):
        forward_gen = WanSelfAttention.forward

    class Inside:
        """A block as its own forward sees it."""

        def __init__(self, block: Any) -> None:
            self.block, self.self_attn = block, block.self_attn.forward_gen

        def __getattr__(self, name: str) -> Any:
            return getattr(self.block, name)

    class Block(WanAttentionBlock):
        def forward_gen(self, *args: Any, **kwargs: Any) -> Any:
            return WanAttentionBlock.forward(Inside(self), *args, **kwargs)

    class Piecewise(WanModel):
        def forward_orig(self, *args: Any, pose_latents: Any, context_pose: Any, pose_strength: float,
                         reference_strength: float, **kwargs: Any) -> Any:  # fmt: skip
            assert pose_latents.shape == args[0].shape and context_pose.shape == args[2].shape
            assert (pose_strength, reference_strength) == (1.0, 0.5)
            blocks: nn.ModuleList = self._modules.pop("blocks")
            self.__dict__["blocks"] = [block.forward_gen for block in blocks]
            try:
                return super().forward_orig(*args, **kwargs)
            finally:
                del self.__dict__["blocks"]
                self._modules["blocks"] = blocks

    class Posed(WAN21):
        def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
            strengths = {name: CONDConstant(value) for name, value in (("pose_strength", 1.0), ("reference_strength", 0.5))}
            poses = {"pose_latents": CONDRegular(kwargs["noise"]), "context_pose": CONDRegular(kwargs["cross_attn"])}
            return {**super().extra_conds(**kwargs), **poses, **strengths}

    model = loaded(save_wan(comfy.model_folder("diffusion_models"), "t2v_piecewise", "t2v"))
    model.model.__class__ = Posed
    network = model.model.diffusion_model
    network.__class__ = Piecewise
    for block in network.blocks:
        block.__class__, block.self_attn.__class__ = Block, SelfAttention
    return model
