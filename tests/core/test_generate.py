"""The loop: what it yields, and that nothing stays behind however it ends."""

from collections.abc import Iterator

import pytest
import tiny
import torch
from tiny import normal, relative_error

from fastvideo_core import (
    Guidance,
    GuidanceSettings,
    NumericsError,
    RequestError,
    SamplingRequest,
    Step,
    check_finite,
    generate,
    make_solver,
    seeded_noise,
)
from fastvideo_core.wan import WanExperts

VARIANTS = tiny.variants()
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))


def request(**changes: object) -> SamplingRequest:
    return SamplingRequest(**({"steps": 4, "shift": 5.0, "guidance_scale": 3.0, "seed": 11} | changes))


def offloading_to_meta(asked: SamplingRequest) -> tuple[WanExperts, Iterator[Step]]:
    """A generation whose weights go to "meta" when they leave the device, so that their place can be told."""
    networks = {"high_noise": tiny.t2v(1), "low_noise": tiny.t2v(2)}
    experts = WanExperts(networks, tiny.conditioning(), tiny.SHAPE, torch.device("cpu"), torch.device("meta"))
    guidance = Guidance(asked.plan(), asked.guidance)
    return experts, generate(asked, experts, tiny.conditioning(), seeded_noise(tiny.SHAPE, asked.seed), guidance)


def places(experts: WanExperts) -> list[str]:
    return [network.device.type for network in experts.transformers.values()]


@every_variant
@pytest.mark.parametrize("solver", ["euler", "unipc", "dpmpp_2m", "dmd", "euler_float64", "dmd_float64"])
def test_every_variant_generates_with_every_solver(variant: tiny.Variant, solver: str) -> None:
    steps, _ = tiny.run(request(solver=solver), {"single": variant.network(0)}, variant.conditioning, variant.shape)
    assert [step.index for step in steps] == [0, 1, 2, 3]
    for step in steps:
        assert step.latents.shape == step.denoised.shape == variant.shape
        assert step.latents.dtype == step.denoised.dtype == torch.float32
        assert step.seconds > 0


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpmpp_2m", "dmd", "euler_float64", "dmd_float64"])
def test_the_last_step_leads_to_the_clean_video_it_saw(solver: str) -> None:
    steps, _ = tiny.run(request(solver=solver), {"single": tiny.t2v()}, tiny.conditioning())
    assert relative_error(steps[-1].latents, steps[-1].denoised) < (0.02 if solver == "unipc" else 1e-6)


def test_the_loop_is_predict_guide_solve() -> None:
    asked, network, condition = request(guidance=GuidanceSettings(mode="sequential")), tiny.t2v(), tiny.conditioning()
    sigmas = asked.plan().sigmas
    solver, latents = make_solver("unipc", sigmas, asked.seed), seeded_noise(tiny.SHAPE, asked.seed)
    with tiny.experts({"single": network}, condition).active(asked.plan().phases[0]) as denoiser:
        for i, sigma in enumerate(sigmas[:-1]):
            positive, negative = (denoiser.predict(latents, sigma, (b,)).velocities[0] for b in ("positive", "negative"))
            latents = solver.step(negative + 3.0 * (positive - negative), i, latents)
    assert torch.equal(tiny.run(asked, {"single": network}, condition)[0][-1].latents, latents)


def test_the_solvers_history_goes_on_across_experts() -> None:
    # Two experts of the same weights are one: UniPC would show a break at the boundary.
    asked = request(steps=6, solver="unipc")
    single = tiny.run(asked, {"single": tiny.t2v()}, tiny.conditioning())[0]
    both = tiny.run(
        request(steps=6, solver="unipc", boundary=0.875), {"high_noise": tiny.t2v(), "low_noise": tiny.t2v()}, tiny.conditioning()
    )[0]
    assert torch.equal(single[-1].latents, both[-1].latents)
    assert [step.phase.expert for step in both] == ["high_noise"] * 3 + ["low_noise"] * 3


def test_the_same_request_gives_the_same_bits_and_another_seed_another_video() -> None:
    network = {"single": tiny.t2v()}
    first, again, other = (
        tiny.run(request(seed=seed, solver="dmd"), network, tiny.conditioning())[0][-1].latents for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_run_leaves_the_network_as_it_was() -> None:
    network = tiny.t2v()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    tiny.run(request(guidance=GuidanceSettings(gate=0.5)), {"single": network}, tiny.conditioning())
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpmpp_2m", "dmd", "euler_float64", "dmd_float64"])
def test_a_given_first_frame_is_held_in_every_step_and_shown_in_every_preview(solver: str) -> None:
    variant = VARIANTS["TI2V"]
    steps, _ = tiny.run(request(solver=solver), {"single": variant.network(0)}, variant.conditioning, variant.shape)
    frame = variant.conditioning.first_frame
    assert frame is not None
    for step in steps:
        assert torch.equal(step.latents[:, :, :1], frame.latents)
        assert torch.equal(step.denoised[:, :, :1], frame.latents)
        assert not torch.equal(step.latents[:, :, 1:2], frame.latents)


def test_nothing_runs_before_the_first_step_is_asked_for() -> None:
    network = tiny.t2v()
    asked = request()
    with tiny.recorded_batches(network) as batches:
        experts = tiny.experts({"single": network}, tiny.conditioning())
        steps = generate(asked, experts, tiny.conditioning(), seeded_noise(tiny.SHAPE, 0), Guidance(asked.plan(), asked.guidance))
        assert not batches
        next(steps)
        assert len(batches) == 1


@pytest.mark.parametrize("taken", [1, 4])
def test_closing_early_brings_the_weights_back(taken: int) -> None:
    experts, steps = offloading_to_meta(request(steps=6, boundary=0.875))
    for _ in range(taken):
        next(steps)
    at_work = "high_noise" if taken == 1 else "low_noise"
    assert experts.transformers[at_work].device.type == "cpu"
    steps.close()
    assert experts.transformers[at_work].device.type == "meta"


def test_running_to_the_end_brings_all_weights_back() -> None:
    experts, steps = offloading_to_meta(request(steps=6, boundary=0.875))
    assert len(list(steps)) == 6
    assert places(experts) == ["meta", "meta"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_an_exception_inside_a_step_brings_the_weights_back(failure: type[BaseException]) -> None:
    experts, steps = offloading_to_meta(request(steps=6, boundary=0.875))

    def fail(*_: object) -> None:
        raise failure

    next(steps)
    experts.transformers["high_noise"].blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(failure):
        next(steps)
    assert places(experts) == ["meta", "cpu"]  # the low-noise expert was never moved


def test_a_stopped_run_leaves_nothing_that_the_next_one_could_feel() -> None:
    networks = {"single": tiny.t2v()}
    asked = request(guidance=GuidanceSettings(mode="batched", gate=0.5))
    fresh = tiny.run(asked, networks, tiny.conditioning())[0][-1].latents
    guidance = Guidance(asked.plan(), asked.guidance)
    stopped = generate(
        asked, tiny.experts(networks, tiny.conditioning()), tiny.conditioning(), seeded_noise(tiny.SHAPE, 11), guidance
    )
    next(stopped)
    stopped.close()
    assert torch.equal(tiny.run(asked, networks, tiny.conditioning())[0][-1].latents, fresh)


@pytest.mark.parametrize(
    ("boundary", "names"),
    [(None, ["high_noise", "low_noise"]), (0.875, ["single"]), (0.875, ["high_noise"]), (0.875, ["low_noise"])],
)
def test_a_schedule_for_other_experts_is_refused_before_the_first_step(boundary: float | None, names: list[str]) -> None:
    networks = {name: tiny.t2v() for name in names}
    with tiny.recorded_batches(networks[names[0]]) as batches:
        with pytest.raises(RequestError, match=r"The schedule asks for the experts .*; the model has " + ", ".join(names)):
            tiny.run(request(steps=6, boundary=boundary), networks, tiny.conditioning())
        assert not batches


def test_latents_that_are_not_finite_are_counted_and_explained() -> None:
    network = tiny.t2v()
    network.proj_out.bias[0] = float("nan")
    text = r"The generation gave \d+ of 1152 latent values that are not finite. The usual causes are float16 weights"
    with pytest.raises(NumericsError, match=text):
        tiny.run(request(), {"single": network}, tiny.conditioning())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_check_finite_says_whose_latents_they_are(value: float) -> None:
    latents = normal(tiny.SHAPE, 1)
    check_finite(latents, "The sampler")
    latents[0, 0, 0, 0, 0] = value
    with pytest.raises(NumericsError, match="The sampler gave 1 of 1152 latent values"):
        check_finite(latents, "The sampler")


@pytest.mark.parametrize("seed", [0, 42, 2**63, 2**64 - 1])
def test_seeded_noise_is_torchs_noise_of_that_seed_on_the_cpu(seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = torch.randn(tiny.SHAPE)
    assert torch.equal(seeded_noise(tiny.SHAPE, seed), expected)


def test_seeded_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    seeded_noise(tiny.SHAPE, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_cpus_video() -> None:
    asked, condition = request(), tiny.conditioning()
    expected = tiny.run(asked, {"single": tiny.t2v()}, condition)[0][-1].latents
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    experts = WanExperts({"single": tiny.t2v()}, condition, tiny.SHAPE, cuda, cpu)
    guidance = Guidance(asked.plan(), asked.guidance)
    *_, last = generate(asked, experts, condition, seeded_noise(tiny.SHAPE, asked.seed, cuda), guidance)
    assert relative_error(last.latents.cpu(), expected) <= 1e-3  # TF32 convolutions
