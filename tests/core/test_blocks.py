"""The seam: a stack in the place of the blocks sees the block loop, and leaves no trace."""

import pytest
import tiny
import torch
from diffusers import WanTransformer3DModel
from tiny import normal
from torch import Tensor

from fastvideo_core.wan import WanDenoiser, installed

VARIANTS = tiny.variants()
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))


class Plain:
    """The block loop as it is, keeping the shapes that it was given."""

    def __init__(self, network: WanTransformer3DModel) -> None:
        self.blocks = list(network.blocks)
        self.shapes: tuple[tuple[int, ...], ...] = ()

    def __call__(self, x: Tensor, context: Tensor, time_mod: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        self.shapes = (tuple(x.shape), tuple(context.shape), tuple(time_mod.shape), tuple(rope[0].shape))
        for block in self.blocks:
            x = block(x, context, time_mod, rope)
        return x


def predict(network: WanTransformer3DModel, variant: tiny.Variant) -> Tensor:
    denoiser = WanDenoiser(network, variant.conditioning, variant.shape)
    return torch.cat(list(denoiser.predict(normal(variant.shape, 1), 0.8, ("positive", "negative")).velocities))


@every_variant
def test_the_plain_loop_in_the_seam_changes_no_bit(variant: tiny.Variant) -> None:
    network = variant.network(0)
    before = predict(network, variant)
    with installed(network, Plain(network)):
        assert torch.equal(predict(network, variant), before)
    assert torch.equal(predict(network, variant), before)


@every_variant
def test_a_stack_is_given_the_shapes_that_the_seam_promises(variant: tiny.Variant) -> None:
    network = variant.network(0)
    stack = Plain(network)
    with installed(network, stack):
        predict(network, variant)
    image_tokens = 0 if variant.conditioning.image_tokens is None else variant.conditioning.image_tokens.shape[1]
    time_mod = (2, 18, 6, 24) if variant.conditioning.first_frame is not None else (2, 6, 24)
    assert stack.shapes == ((2, 18, 24), (2, 512 + image_tokens, 24), time_mod, (1, 18, 1, 12))


def trace(network: WanTransformer3DModel) -> tuple[object, ...]:
    return (network.blocks, tuple(network.state_dict()), tuple(name for name, _ in network.named_modules()), *network.blocks)


def test_removing_a_stack_is_an_exact_inverse() -> None:
    network = tiny.t2v()
    before, values = trace(network), {key: value.clone() for key, value in network.state_dict().items()}
    with installed(network, Plain(network)):
        predict(network, VARIANTS["T2V"])
    assert trace(network) == before
    assert all(torch.equal(value, values[key]) for key, value in network.state_dict().items())


class Interrupted(BaseException):
    """Like ComfyUI's interrupt, no Exception."""


@pytest.mark.parametrize("failure", [RuntimeError, Interrupted])
def test_the_blocks_are_back_when_a_stack_raises(failure: type[BaseException]) -> None:
    network = tiny.t2v()
    before, velocity = trace(network), predict(network, VARIANTS["T2V"])

    def raising(x: Tensor, context: Tensor, time_mod: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        raise failure

    with pytest.raises(failure), installed(network, raising):
        predict(network, VARIANTS["T2V"])
    assert trace(network) == before
    assert torch.equal(predict(network, VARIANTS["T2V"]), velocity)


def test_an_installed_stack_adds_no_parameters_of_its_own() -> None:
    network = tiny.t2v()
    outside = {key for key in network.state_dict() if not key.startswith("blocks.")}
    with installed(network, Plain(network)):
        assert set(network.state_dict()) == outside


def test_what_a_stack_returns_is_what_the_network_goes_on_with() -> None:
    network = tiny.t2v()
    plain = predict(network, VARIANTS["T2V"])
    with installed(network, lambda x, context, time_mod, rope: x):
        assert not torch.allclose(predict(network, VARIANTS["T2V"]), plain)
