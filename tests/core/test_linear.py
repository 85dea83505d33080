"""Linear layers on the CPU: every way computes the same, and the machine at hand says which is taken."""

from collections.abc import Iterator

import pytest
import tiny
import tiny_model
import torch
from torch import Tensor, nn

from fastvideo_core import AttentionSettings, SamplingRequest
from fastvideo_core.wan import linear
from fastvideo_core.wan.fast_linears import fast_linears
from fastvideo_core.wan.linear import WAYS, LinearAccount, fastest, gelu_

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.fixture(autouse=True)
def measured_anew() -> Iterator[None]:
    """What a test measures or pretends holds for no other."""
    fastest.cache_clear()
    yield
    fastest.cache_clear()


def layer(biased: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    return tiny.normal((2, 19, 24), 1), tiny.normal((40, 24), 2), tiny.normal((40,), 3) if biased else None


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", ["torch", "oneDNN", "torch, GELU in place", "oneDNN, GELU in place"])
@pytest.mark.parametrize("gelu", [False, True])
def test_every_way_is_as_exact_as_torchs(name: str, gelu: bool, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if name not in WAYS[gelu]:
        return
    monkeypatch.setattr(linear, "_VALUES", 100)  # and in several pieces
    given = layer(biased)
    exact = nn.functional.linear(*(None if x is None else x.double() for x in given))
    exact = nn.functional.gelu(exact, approximate="tanh") if gelu else exact
    by_torch, out = WAYS[gelu]["torch"](*given), WAYS[gelu][name](*given)
    assert out.shape == by_torch.shape
    assert tiny.relative_error(out, exact) < 4 * tiny.relative_error(by_torch, exact)


def test_gelu_in_place_is_gelu_over_the_whole_range() -> None:
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([0.0, -1e30, 1e30, -100.0, 100.0])])
    exact = nn.functional.gelu(x.double(), approximate="tanh")
    out = gelu_(x.clone())
    assert out.isfinite().all()
    assert (out.double() - exact).abs().max() < 2e-6


def pretend(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    monkeypatch.setattr(linear, "_seconds", lambda runs, threads: {name: seconds.get(name, 9.0) for name in runs})


@needs_onednn
@pytest.mark.parametrize(("torchs", "onednns", "taken"), [(1.0, 0.5, "oneDNN"), (1.0, 0.99, "torch"), (1.0, 1.1, "torch")])
def test_another_way_is_taken_where_it_is_clearly_faster(
    torchs: float, onednns: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, torch=torchs, oneDNN=onednns)
    assert fastest(8, 24, 40, True, False, 1) == taken


@needs_onednn
def test_a_network_computes_each_shape_as_was_chosen_and_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    network, account = tiny.t2v(), LinearAccount()
    x = tiny.normal((2, 9, 24), 1)
    ffn, out = network.blocks[0].ffn, network.blocks[0].attn1.to_out[0]
    with torch.no_grad():
        expected = ffn(x), out(x)
        pretend(monkeypatch, torch=1.0)
        with fast_linears(network, account):
            assert torch.equal(ffn(x), expected[0]) and torch.equal(out(x), expected[1])
        assert account.notes() == ("linear layers of 3 shapes, each by what was faster on this machine: torch for 3",)
        fastest.cache_clear()
        monkeypatch.setattr(linear, "_seconds", lambda runs, threads: {name: 1.0 - i / 10 for i, name in enumerate(runs)})
        with fast_linears(network, account):
            assert tiny.relative_error(ffn(x), expected[0]) < 1e-6
    assert set(account.ways.values()) == {"oneDNN, GELU in place", "oneDNN", "torch"}


def test_a_shape_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def seconds(runs: dict[str, object], threads: int) -> dict[str, float]:
        asked.append(threads)
        return dict.fromkeys(runs, 1.0)

    monkeypatch.setattr(linear, "_seconds", seconds)
    network, x = tiny.t2v(), tiny.normal((2, 9, 24), 1)
    with torch.no_grad(), fast_linears(network, LinearAccount()):
        for _ in range(3):
            network.blocks[0].attn1.to_q(x), network.blocks[1].attn1.to_k(x)
    assert asked == [torch.get_num_threads()]


def test_measuring_draws_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    assert fastest(8, 24, 40, True, True, torch.get_num_threads()) in WAYS[True]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_compiled_code_computes_by_what_was_chosen() -> None:
    network, x = tiny.t2v(), tiny.normal((2, 9, 24), 1)
    with torch.no_grad(), fast_linears(network, LinearAccount()):
        plain = network.blocks[0].ffn(x)
        compiled = torch.compile(network.blocks[0].ffn, backend="eager", fullgraph=True, dynamic=False)
        assert torch.equal(compiled(x), plain)


@pytest.mark.parametrize("attention", [None, AttentionSettings()])
def test_the_report_of_a_generation_says_what_linear_layers_were_computed_by(attention: AttentionSettings | None) -> None:
    model = tiny_model.model_of("t2v")
    size = tiny_model.small(model)
    condition = model.condition("a red fox", "", size)
    request = SamplingRequest(steps=1, shift=5.0, guidance_scale=3.0, seed=1)
    generation = model.generate(request, condition, size, attention=attention)
    assert list(generation)
    assert "each by what was faster on this machine: " in generation.report().text()


def test_what_was_chosen_once_is_taken_again_and_what_is_not_here_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    x, layer = tiny.normal((2, 24), 1), torch.nn.Linear(24, 8)
    first, second = LinearAccount(), LinearAccount()
    pretend(monkeypatch, torch=1.0)
    first.compute(x, layer, gelu=False)
    assert first.json() == [[2, 24, 8, False, "torch"]]
    monkeypatch.setattr(linear, "_seconds", lambda runs, threads: pytest.fail("measured anew"))
    fastest.cache_clear()
    second.take([*first.json(), [3, 24, 8, False, "of another machine"]])
    second.compute(x, layer, gelu=False)
    assert second.json() == first.json()
    assert (3, 24, 8, False) not in second.taken
