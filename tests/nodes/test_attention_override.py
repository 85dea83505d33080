"""The override of FastVideo Attention against core's own attention function: every layout, and nothing dropped."""

from typing import Any

import pytest
import torch
from caching import module_of
from sampling import normal, relative_error
from test_attention import attended

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")


@pytest.mark.parametrize("skip_output_reshape", [False, True])
@pytest.mark.parametrize("skip_reshape", [False, True])
def test_every_layout_of_core_means_the_same(comfy: Any, load_wan: Any, skip_reshape: bool, skip_output_reshape: bool) -> None:
    """The override against core's own function."""
    from comfy.ldm.modules.attention import attention_pytorch

    q, k, v, call = core_call(skip_reshape, skip_output_reshape)
    given = {**call, "transformer_options": core_options(comfy, load_wan(), "sdpa")}
    assert torch.equal(attention_pytorch(q, k, v, **given), attention_pytorch(q, k, v, **call))
    scaled = attention_pytorch(q, k, v, **given, scale=0.3)
    assert relative_error(scaled, attention_pytorch(q * 0.3 * 8**0.5, k, v, **call)) < 1e-6


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"mask": torch.ones(10, 14, dtype=torch.bool)}, "gives the model's attention a mask, and sdpa was prepared for calls"),
        ({"attn_precision": torch.float64}, "asks for attention in torch.float64 and computes in torch.float32"),
        ({"enable_gqa": True}, "asks attention for enable_gqa, which FastVideo Attention does not know"),
    ],
)
def test_what_it_cannot_do_is_refused_and_not_dropped(comfy: Any, load_wan: Any, asked: dict[str, Any], said: str) -> None:
    from comfy.ldm.modules.attention import attention_pytorch

    q, k, v, call = core_call()
    options = core_options(comfy, load_wan(), "sdpa")
    with pytest.raises(RequestError, match=said):
        attention_pytorch(q, k, v, **call, **asked, transformer_options=options)
    unread = {"low_precision_attention": False, "enable_gqa": False, "attn_precision": torch.float32}
    assert torch.equal(
        attention_pytorch(q, k, v, **call, **unread, transformer_options=options), attention_pytorch(q, k, v, **call)
    )


def test_a_call_from_outside_the_network_is_refused(comfy: Any, load_wan: Any) -> None:
    from comfy.ldm.modules.attention import attention_pytorch

    q, k, v, call = core_call()
    options = attended(comfy, load_wan()).model_options["transformer_options"]
    with pytest.raises(RequestError, match="cannot tell self- from cross-attention"):
        attention_pytorch(q, k, v, **call, transformer_options=options)


def core_options(host: Any, model: Any, name: str) -> dict[str, Any]:
    """Transformer options inside a call of the network."""
    return {
        **attended(host, model, name, name).model_options["transformer_options"],
        "fastvideo_call": module_of(host, "network_call").NetworkCall(),
    }


def core_call(skip_reshape: bool = False, skip_output_reshape: bool = False) -> tuple[Any, Any, Any, dict[str, Any]]:
    """q, k, v and the other arguments of core's attention functions, of 3 heads of 8 values."""
    q, k, v = normal(1, 2, 10, 24), normal(2, 2, 14, 24), normal(3, 2, 14, 24)
    if skip_reshape:
        q, k, v = (x.unflatten(-1, (3, 8)).transpose(1, 2) for x in (q, k, v))
    return q, k, v, {"heads": 3, "skip_reshape": skip_reshape, "skip_output_reshape": skip_output_reshape}
