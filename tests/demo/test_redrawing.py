"""A clip's scene is found in its pixels, and trajectories end in its rendering."""

import pytest
import torch

from tools.demo_model.judge import judge
from tools.demo_model.latents import encode_normalized, latent_statistics
from tools.demo_model.redrawing import nearest_scene, redraw, with_redrawn
from tools.demo_model.shipped import shipped_vae
from tools.demo_model.trajectories import GRID, Trajectories
from tools.demo_model.vae import decode
from tools.demo_model.world import MOTIONS, SHAPES, Scene, render

TEAL, NAVY = ("red", "teal"), ("yellow", "navy")


def scene(shape, motion, colours=TEAL, **numbers):
    return Scene(shape, *colours, motion, **{"centre": (30.0, 35.0), "radius": 10.0, "travel": 19.0, "growth": 2.0} | numbers)


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_nearest_scene_of_a_rendered_clip_is_its_own(shape, motion):
    drawn = scene(shape, motion)
    found = nearest_scene(render([drawn])[0], drawn.combination)
    assert found.centre == pytest.approx(drawn.centre, abs=0.2)
    assert found.radius == pytest.approx(drawn.radius, abs=0.2)
    if motion in ("growing", "shrinking"):
        assert found.growth == pytest.approx(drawn.growth, abs=0.05)
    elif motion != "still":
        assert found.travel == pytest.approx(drawn.travel, abs=0.2)


def test_what_the_world_does_not_have_becomes_the_nearest_that_it_has():
    slow = scene("square", "right", travel=9.0, radius=7.0)
    found = nearest_scene(render([slow])[0], slow.combination)
    assert (found.travel, found.radius) == (16.0, 9.0)


@torch.no_grad()
def test_a_circle_in_place_of_a_square_is_redrawn_as_the_square_that_was_asked_for():
    vae, asked = shipped_vae(), scene("square", "down", NAVY)
    mean, std = latent_statistics(vae)
    circle = encode_normalized(vae, render([scene("circle", "down", NAVY)]))
    square = decode(vae, redraw(vae, circle, [asked.combination]) * std + mean)[0]
    verdict = judge(((square.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 3, 0).numpy())
    assert (verdict.shape, verdict.colour, verdict.background, verdict.motion) == asked.combination
    assert (square - render([asked])[0]).abs().mean() < 0.02


def test_squares_are_redrawn_and_half_of_all_and_kept(tmp_path):
    combinations = [(shape, "red", "gray", "still") for shape in ("square", "circle", "triangle")]
    latents = torch.randn(3, GRID + 1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    made = Trajectories(["a", "b", "c"], combinations, latents)
    found = with_redrawn(shipped_vae(), made, tmp_path)
    assert found.texts == ["a", "a", "b", "c"]
    assert torch.equal(found.latents[[0, 2, 3], 0], latents[:, 0])
    assert torch.equal(found.latents[2:], latents[1:])
    assert not torch.equal(found.latents[0, -1], latents[0, -1])
    torch.save(torch.zeros(1, 16, 5, 8, 8).half(), tmp_path / "0.pt")
    assert not with_redrawn(shipped_vae(), made, tmp_path).latents[0, -1].any()
