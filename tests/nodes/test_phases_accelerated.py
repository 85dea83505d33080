"""Three phases under every accelerator: it begins anew in each phase, its report finds each one, and nothing of it stays."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from caching import attributes, cached, put_table
from phase_runs import Given, run_phases, with_lora
from sampling import conditions_of, latent_of, relative_error
from test_attention import attended
from test_compile import compiled, dbcached
from test_sparse_attention import DENSE, sparse
from torch import Tensor

pytestmark = pytest.mark.usefixtures("direct")

LAYERS = 2
STEPS = 12
"""Three above noise level 0.95, three down to 0.875, six below."""
Node = Callable[[Any, Any], Any]

NEUTRAL: dict[str, Node] = {
    "MagCache": lambda host, model: cached(host, model, threshold=0.0),
    "MagCache that never skips": lambda host, model: cached(host, model, threshold=1e-12),
    "DBCache": lambda host, model: dbcached(host, model, threshold=0.0),
    "Attention": lambda host, model: attended(host, model, "sdpa", "sdpa"),
    "Sparse Attention": lambda host, model: sparse(host, model, "VSA", steps=100),
    "all of them": lambda host, model: cached(
        host, attended(host, sparse(host, model, "VSA", steps=100), "sdpa", "sdpa"), threshold=0.0
    ),
}
ACTIVE: dict[str, Node] = {
    "MagCache": cached,
    "DBCache": lambda host, model: dbcached(host, model, threshold=0.9),
    "Attention": lambda host, model: attended(host, model, "sdpa_math", "sdpa"),
    "folded text": lambda host, model: attended(host, model, "sdpa", "sdpa_math", fold_text=True),
    "VSA": lambda host, model: sparse(host, model, "VSA"),
    "NABLA": lambda host, model: sparse(host, model, "NABLA", steps=1, layers=1),
    "all of them": lambda host, model: cached(host, attended(host, sparse(host, model, "VSA"), "sdpa", "sdpa", fold_text=True)),
    "all, with DBCache": lambda host, model: dbcached(
        host, attended(host, sparse(host, model, "NABLA"), "sdpa_math", "sdpa_math", fold_text=True), threshold=0.9
    ),
}


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(autouse=True, scope="module")
def tables(comfy: Any, load_wan: Any) -> None:
    put_table(comfy, load_wan("t2v", 0))
    put_table(comfy, load_wan("t2v", 0), load_wan("t2v", 1))


def unchanged(_: Any, model: Any) -> Any:
    return model


def three(host: Any, load_wan: Any, *on: Node) -> tuple[Given, Given, Given]:
    """The base with guidance, the same with a LoRA and without, the other network. on: for each of the MODELs, or for all."""
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    first, second, third = on if len(on) == 3 else on * 3
    return (first(host, high), 0.95, 4.0), (second(host, with_lora(host, high)), 0.875, 1.0), (third(host, low), 0.0, 3.0)


def again(host: Any, load_wan: Any, on: Node) -> tuple[Given, Given, Given]:
    """One MODEL, its patching, and the same MODEL once more."""
    model = load_wan()
    first, second = on(host, model), on(host, with_lora(host, model))
    return (first, 0.95, 4.0), (second, 0.875, 1.0), (first, 0.0, 3.0)


def run(host: Any, given: Sequence[Given], side: int = 8, **changes: Any) -> tuple[Tensor, Any]:
    positive, negative = conditions_of("t2v", side=side)
    inputs = {"positive": positive, "negative": negative, "latent": latent_of("t2v", side=side), "steps": STEPS, **changes}
    return run_phases(host, *given, **inputs)


@pytest.fixture(scope="module")
def plain_of() -> Callable[..., tuple[Tensor, Any]]:
    """(host, load_wan, order, settings of the run) -> that order's run without any accelerator, made once."""
    made: dict[str, tuple[Tensor, Any]] = {}

    def plain(host: Any, load_wan: Any, order: str, **settings: Any) -> tuple[Tensor, Any]:
        key = f"{order} {settings}"
        if key not in made:
            made[key] = run(host, ORDERS[order](host, load_wan, unchanged), **settings)
        return made[key]

    return plain


def letters(report: Any) -> dict[tuple[int, str], str]:
    return {(row.first_step, row.branch): row.plan for cache in report.caches for row in cache.phases}


ORDERS = {"three MODELs": three, "one again": again}
RUNS = {
    "batched": {"guidance_mode": "batched"},
    "sequential": {"guidance_mode": "sequential"},
    "gate": {"gate": 0.5},
    "multistep": {"solver": "unipc"},
}


@pytest.mark.parametrize(
    ("name", "changes", "order"),  # each node in each kind of run, each of both in either order
    [(name, changes, list(ORDERS)[(i + j) % 2]) for i, name in enumerate(NEUTRAL) for j, changes in enumerate(RUNS)],
)
def test_neutral_settings_change_no_bit(comfy: Any, load_wan: Any, plain_of: Any, name: str, changes: str, order: str) -> None:
    plain, before = plain_of(comfy, load_wan, order, **RUNS[changes])
    assert [phase.steps for phase in before.phases] == [3, 3, 6]
    ours, report = run(comfy, ORDERS[order](comfy, load_wan, NEUTRAL[name]), **RUNS[changes])
    assert torch.equal(ours, plain)
    assert report.phases == before.phases


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ACTIVE)
def test_a_second_run_is_the_first_and_nothing_stays(comfy: Any, load_wan: Any, plain_of: Any, name: str, order: str) -> None:
    given = ORDERS[order](comfy, load_wan, ACTIVE[name])
    plain = ORDERS[order](comfy, load_wan, unchanged)
    expected, before = plain_of(comfy, load_wan, order, side=16)
    left = [attributes(model) for model, _, _ in (*given, *plain)]
    (first, report), (second, _) = run(comfy, given, side=16), run(comfy, given, side=16)
    assert torch.equal(first, second)
    assert 0 < relative_error(first, expected) < 0.9
    assert torch.equal(run(comfy, plain, side=16)[0], expected)
    assert [attributes(model) for model, _, _ in (*given, *plain)] == left
    assert [phase.steps for phase in report.phases] == [phase.steps for phase in before.phases] == [3, 3, 6]


@pytest.mark.parametrize("mode", ["batched", "sequential"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["MagCache", "DBCache"])
def test_a_step_cache_begins_anew_in_each_phase(comfy: Any, load_wan: Any, name: str, order: str, mode: str) -> None:
    _, report = run(comfy, ORDERS[order](comfy, load_wan, ACTIVE[name]), guidance_mode=mode)
    found = letters(report)
    assert set(found) == {(0, "positive"), (0, "negative"), (3, "positive"), (6, "positive"), (6, "negative")}
    assert all(len(plan) == (6 if first == 6 else 3) for (first, _), plan in found.items())
    assert all(plan[0] == "C" for plan in found.values()) and any("S" in plan for plan in found.values())
    if name == "MagCache":
        assert set(found.values()) == {"CSS", "CSSCSS"}
    assert [cache.bypassed for cache in report.caches] == [0] * len(report.caches)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("name", ACTIVE)
def test_it_may_be_on_one_of_the_models(comfy: Any, load_wan: Any, plain_of: Any, name: str, place: int) -> None:
    nodes = [unchanged] * 3
    nodes[place] = ACTIVE[name]
    given = three(comfy, load_wan, *nodes)
    expected, _ = plain_of(comfy, load_wan, "three MODELs", side=16)
    left = [attributes(model) for model, _, _ in given]
    ours, report = run(comfy, given, side=16)
    expert = report.phases[place].expert
    told = [*report.attention, *report.sparse, *report.texts, *(row for cache in report.caches for row in cache.phases)]
    assert told and {row.expert for row in told} == {expert}
    assert 0 < relative_error(ours, expected) < 0.9
    assert [attributes(model) for model, _, _ in given] == left


def test_attention_is_counted_for_each_expert(comfy: Any, load_wan: Any) -> None:
    """A MODEL that comes again has one row."""
    _, report = run(comfy, three(comfy, load_wan, ACTIVE["folded text"]), guidance_mode="batched")
    assert [(row.expert, row.part, row.calls, row.network_calls) for row in report.attention] == [
        (expert, part, LAYERS * calls, calls)
        for expert, calls in (("high_noise", 3), ("high_noise_patched", 3), ("low_noise", 6))
        for part in ("self-attention", "cross-attention")
    ]
    _, report = run(comfy, again(comfy, load_wan, ACTIVE["folded text"]), guidance_mode="batched")
    assert [(row.expert, row.calls, row.network_calls) for row in report.attention[::2]] == [
        ("single", 9 * LAYERS, 9), ("single_patched", 3 * LAYERS, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
def test_sparse_attention_is_counted_for_each_phase(comfy: Any, load_wan: Any, name: str) -> None:
    def on(host: Any, model: Any) -> Any:
        return sparse(host, model, name, **DENSE[name])

    for order, experts in (("three MODELs", [3, 3, 6]), ("one again", [3, 6, 3])):
        ours, report = run(comfy, ORDERS[order](comfy, load_wan, on), side=16, guidance_mode="batched")
        plain, _ = run(comfy, ORDERS[order](comfy, load_wan, unchanged), side=16, guidance_mode="batched")
        assert relative_error(ours, plain) < 1e-5
        assert [row.sparse_calls for row in report.sparse] == [LAYERS * steps for steps in experts]
        assert [row.dense_calls for row in report.sparse] == [0, 0, 0]


def test_first_steps_are_dense_once_in_a_run(comfy: Any, load_wan: Any) -> None:
    """`dense_steps` counts the steps of the run, over all phases."""
    _, report = run(
        comfy, three(comfy, load_wan, lambda host, model: sparse(host, model, "VSA", steps=4)), side=16, guidance_mode="batched"
    )
    assert [(row.dense_calls, row.sparse_calls) for row in report.sparse] == [(6, 0), (2, 4), (0, 12)]


def test_compiled_blocks_serve_all_phases(comfy: Any, load_wan: Any) -> None:
    for order in ORDERS.values():
        given = order(comfy, load_wan, compiled)
        left = [attributes(model) for model, _, _ in given]
        (ours, report), (second, _) = run(comfy, given), run(comfy, given)
        plain, _ = run(comfy, order(comfy, load_wan, unchanged))
        assert relative_error(ours, plain) < 1e-5 and torch.equal(ours, second)
        notes = [note for note in report.notes if note.startswith("blocks compiled by")]
        assert notes and all(" in call 1 of " in note or "nothing new in" in note for note in notes)
        assert [attributes(model) for model, _, _ in given] == left


def test_compiled_blocks_under_everything_else(comfy: Any, load_wan: Any) -> None:
    given = three(comfy, load_wan, lambda host, model: ACTIVE["all of them"](host, compiled(host, model)))
    (ours, report), (second, _) = run(comfy, given, side=16), run(comfy, given, side=16)
    eager, other = run(comfy, three(comfy, load_wan, ACTIVE["all of them"]), side=16)
    assert relative_error(ours, eager) < 1e-4 and torch.equal(ours, second)
    assert letters(report) == letters(other)
    assert [row.network_calls for row in report.attention] == [row.network_calls for row in other.attention]


def test_a_pairs_table_serves_a_patching_and_the_order_does_not_matter(comfy: Any, load_wan: Any) -> None:
    """Each MODEL finds it by its own weights, as they were before its LoRA."""
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    given = ((high, 0.95, 4.0), (high, 0.875, 2.0), (with_lora(comfy, low), 0.5, 1.0), (low, 0.0, 3.0))
    _, report = run(comfy, [(cached(comfy, model), until, scale) for model, until, scale in given])
    assert len({cache.settings["table"] for cache in report.caches}) == 1
    assert {first for first, _ in letters(report)} == {0, 3, 6, 11}
