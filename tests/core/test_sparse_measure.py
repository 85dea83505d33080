"""The error of sparse attention's output is measured on a run that it does not change."""

import pytest
import tiny
import tiny_transformer as files
import torch

from fastvideo_core.attention.sparse import FlexKernel, VSASettings, measured


def test_errors_per_layer_and_setting_of_a_dense_run() -> None:
    network = tiny.t2v()
    settings = [VSASettings(sparsity=sparsity, tile=(1, 2, 2)) for sparsity in (0.0, 0.5, 0.9)]
    with measured(network, (3, 2, 3), settings, torch.device("cpu"), FlexKernel(compiled=False)) as errors:
        velocity = files.velocity_in_place(network)
    assert torch.equal(velocity, files.velocity_in_place(network))
    rows = errors.rows()
    assert [(row.layer, row.settings) for row in rows] == [(layer, each) for layer in range(2) for each in settings]
    for none, half, most in (rows[:3], rows[3:]):
        assert (none.density, none.error) == (1.0, pytest.approx(0, abs=1e-6))
        assert 0 < none.error < half.error < most.error
        assert most.density < half.density < 1
