"""LoRAs that act at a strength of their own in each phase."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import WanTransformer3DModel
from lora_cases import APPLIED, with_loras
from tiny_model import images, model_of, small

from fastvideo_core import (
    CompileSettings,
    DBCacheSettings,
    Generation,
    PhaseSettings,
    RequestError,
    SamplingRequest,
    with_dbcache,
)

BOOST, PLAIN = {"everything": 1.25, "more": 0.0}, {"pairs": 0.0}


def part(expert: str, until: float = 0.0, **loras: float) -> PhaseSettings:
    return PhaseSettings(expert=expert, guidance_scale=3.0, until=until, loras=loras)


def generation(networks: dict[str, WanTransformer3DModel], *phases: PhaseSettings, **options: Any) -> Generation:
    model = replace(model_of("i2v clip"), transformers=networks)
    request = SamplingRequest(steps=6, shift=5.0, phases=phases, seed=3)
    size = small(model)
    return model.generate(request, model.condition("a cat sits", "blurry", size, **images("i2v clip", size)), size, **options)


def test_each_phase_is_as_if_its_strengths_had_been_applied(tmp_path: Path) -> None:
    """Also linear layers that are exchanged for faster ones, and blocks behind a step cache; compiled ones in two phases."""
    one = {"single": with_loras(tmp_path, APPLIED)}
    several = {"boosted": with_loras(tmp_path, APPLIED | BOOST), "as applied": with_loras(tmp_path, APPLIED),
               "plain": with_loras(tmp_path, APPLIED | PLAIN)}  # fmt: skip
    values = {name: tensor.clone() for name, tensor in one["single"].state_dict().items()}
    cache = with_dbcache(DBCacheSettings(threshold=0.5, first_blocks=1, warmup_steps=1))
    phases = [part("single", 0.93, **BOOST), part("single", 0.75), part("single", **PLAIN)]
    applied = [part("boosted", 0.93), part("as applied", 0.75), part("plain")]
    for options, count in (({}, 3), ({"cache": cache}, 3), ({"compile": CompileSettings("eager")}, 2)):
        torch.compiler.reset()
        ours, apart = generation(one, *phases[-count:], **options), generation(several, *applied[-count:], **options)
        for step, expected in zip(ours, apart, strict=True):
            assert torch.equal(step.latents, expected.latents)
    assert all(torch.equal(tensor, values[name]) for name, tensor in one["single"].state_dict().items())
    assert not torch.equal(ours.latents, last(generation(one, part("single"))))


def last(of: Generation) -> torch.Tensor:
    *_, step = of
    return step.latents


def test_the_report_tells_the_strengths_of_a_phase(tmp_path: Path) -> None:
    ran = generation({"single": with_loras(tmp_path, APPLIED)}, part("single", 0.75, **BOOST), part("single"))
    list(ran)
    report = ran.report()
    assert [row.loras for row in report.phases] == [BOOST, {}]
    assert "; LoRA everything at 1.25; LoRA more at 0" in report.text().splitlines()[3]
    assert (report.networks, report.moves) == (1, 1)


def test_a_lora_that_is_not_applied_is_refused_before_anything_runs(tmp_path: Path) -> None:
    network = with_loras(tmp_path, APPLIED)
    with tiny.recorded_batches(network) as batches:
        with pytest.raises(RequestError, match=r"LoRA 'style' was to act at strength 0\.5, and it is not applied"):
            generation({"single": network}, part("single", 0.75), part("single", style=0.5))
        assert not batches


def test_a_generation_that_is_closed_in_a_phase_puts_its_strengths_back(tmp_path: Path) -> None:
    network = with_loras(tmp_path, APPLIED)
    before = last(generation({"single": network}, part("single")))
    stopped = generation({"single": network}, part("single", **BOOST))
    next(stopped)
    stopped.close()
    assert torch.equal(last(generation({"single": network}, part("single"))), before)
