"""What is told of the LoRAs on a network: their names and strengths in order, and what they are made of."""

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny
import tiny_transformer as files
import torch
from lora_cases import lora_of, saved
from torch import Tensor

from fastvideo_core.errors import LoadError
from fastvideo_core.wan.loading import applied_loras, apply_lora, remove_loras


def test_what_is_applied_is_told_in_order_with_a_digest_of_what_it_changes(tmp_path: Path) -> None:
    network, renamed = tiny.i2v_clip(), saved("pairs", tmp_path).rename(tmp_path / "renamed.safetensors")
    assert applied_loras(network) == ()
    apply_lora(network, saved("everything", tmp_path), 0.5)
    apply_lora(network, saved("pairs", tmp_path), 0.25, "mine")
    apply_lora(network, renamed, 1.0)
    everything, mine, again = applied_loras(network)
    assert [(lora.name, lora.strength) for lora in (everything, mine, again)] == [
        ("everything", 0.5),
        ("mine", 0.25),
        ("renamed", 1.0),
    ]
    assert mine.digest == again.digest != everything.digest and len(mine.digest) == 64
    with pytest.raises(LoadError):
        apply_lora(network, files.save({"x": torch.ones(1)}, tmp_path / "other.safetensors", None))
    assert applied_loras(copy.deepcopy(network)) == applied_loras(network) == (everything, mine, again)
    remove_loras(network)
    assert applied_loras(network) == ()


@pytest.mark.parametrize("end", ["lora_up.weight", "lora_down.weight", "alpha"])
def test_the_digest_tells_values_dtypes_and_factors_apart(end: str, tmp_path: Path) -> None:
    def digest(lora: Mapping[str, Tensor]) -> str:
        network = tiny.i2v_clip()
        apply_lora(network, files.save(lora, tmp_path / "lora.safetensors", None))
        return applied_loras(network)[0].digest

    lora = lora_of("pairs")
    key = next(key for key in lora if key.endswith(end))
    changed = lora[key].flatten().clone()
    changed[-1] += 1
    digests = [digest(lora), digest(lora | {key: changed.reshape(lora[key].shape)})]
    assert len(set(digests)) == 2
    wider = digest(lora | {key: lora[key].double()})
    assert (wider == digests[0]) == (end == "alpha"), "a factor is the same number in any dtype"
