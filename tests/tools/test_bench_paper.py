"""The plan for one GPU: what is counted against closed forms, its schedule, the roofline, and the page that is made of it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastvideo_core.attention.sparse import BSASettings, SLASettings, VSASettings
from fastvideo_core.attention.sparse.tiles import TileGrid
from fastvideo_core.attention.sparse.variant import Inputs
from tools.bench import paper, paper_page
from tools.bench.cards import CARDS
from tools.bench.contenders import NEGATIVE_PROMPT_TOKENS
from tools.bench.flops import flops_of_call
from tools.bench.page import PAGE
from tools.bench.paper_count import Work, of_all
from tools.bench.paper_engine import alone
from tools.bench.paper_memory import how_it_fits, weight_bytes
from tools.bench.paper_plan import (
    Seconds,
    cross_flops,
    dbcache_skips,
    dense_flops,
    eight_bit_products,
    kernel_flops,
    magcache_skips,
    seconds,
    whole,
)
from tools.bench.paper_videos import VIDEOS, Video
from tools.bench.published import PUBLISHED
from tools.simulated import simulated
from tools.simulated.traffic import Traffic

SMALL = Video(title="small", variant="wan2.1_t2v_1.3B", width=128, height=64, frames=5)
ROWS = NEGATIVE_PROMPT_TOKENS + 2  # of the folded text
COMMAND = "python -m tools.bench paper"


def test_the_page_is_made_of_what_was_counted() -> None:
    content = PAGE.read_text(encoding="utf-8")
    found = content.partition("<!-- paper -->\n")[2].partition("\n<!-- end of paper -->")[0]
    assert found == paper_page.page(paper.stored(), COMMAND)


def plain_flops(video: Video, text_rows: int = 512) -> int:
    """Of one branch, by the closed form."""
    size = video.size
    config = SimpleNamespace(
        num_attention_heads=size.dim // 128, attention_head_dim=128, ffn_dim=size.ffn_dim, num_layers=size.layers,
        in_channels=size.channels[0], out_channels=size.channels[1], patch_size=(1, 2, 2), freq_dim=256, text_dim=4096,
        image_dim=1280,
    )  # fmt: skip
    network: Any = SimpleNamespace(config=config)
    return flops_of_call(network, (1, *size.shape[1:]), text_rows, size.image_tokens)


def time_flops(dim: int) -> int:
    """Of one timestep's embedding."""
    return 2 * (256 * dim + 7 * dim * dim)


@pytest.mark.parametrize("name", VIDEOS)
def test_counted_flops_are_those_of_the_closed_form(name: str) -> None:
    """Of diffusers' pipeline, which gives TI2V a timestep for each token; and of the engine, which reads the text folded, keeps
    its keys and values, and embeds a step's time once."""
    video, counts = VIDEOS[name], paper.stored()[name]
    dim, layers, images = video.row.dim, video.row.layers, video.row.image_tokens
    per_token = time_flops(dim) * (video.tokens - 1) if video.row.first_frame else 0
    assert counts["diffusers"].works[0].flops == pytest.approx(2 * (plain_flops(video) + per_token), rel=1e-9)
    assert counts["KSampler"].works[0].flops == pytest.approx(2 * plain_flops(video), rel=1e-6)
    kept = 2 * ROWS * (4096 * dim + dim * dim) + 4 * layers * (ROWS + images) * dim * dim
    kept += 2 * images * 1280 * (1280 + dim)
    folded = 2 * (plain_flops(video, ROWS) - kept)
    assert counts["engine"].works[1].flops == pytest.approx(folded, rel=2e-6)


def test_a_few_blocks_tell_what_all_of_them_take() -> None:
    told, counted = of_all(lambda layers: alone(SMALL, layers), 3, least=1), alone(SMALL, 3)
    assert told.works == tuple(counted.works) and told.peak == counted.peak
    attention = (dense_flops(SMALL) + cross_flops(SMALL, ROWS)) * 3 // SMALL.row.layers
    assert counted.flops.flash.flops.total() == len(counted.works) * attention


def test_the_engine_is_the_one_that_was_counted() -> None:
    """Where it computes, moves or holds something else now, `make bench ARGS=paper` counts and writes the page anew."""
    name, way = "2.1 T2V 1.3B, 480p", "engine, one branch"
    assert paper.counted(VIDEOS[name], way, alone) == paper.stored()[name][way]


def test_operators_read_and_write_their_tensors() -> None:
    with simulated(), Traffic() as traffic:
        x, row = torch.zeros(8, 16, device="cuda"), torch.zeros(1, 16, device="cuda")
        made = traffic.values
        x.view(16, 8).add_(1)
        x[:, :4].new_empty(8, 4).copy_(x[:, :4])
        x + row.expand(8, 16)
        added, copied = 2 * x.nbytes, 2 * 8 * 4 * 4
        assert traffic.values - made == added + copied + 2 * x.nbytes + row.nbytes
        x @ x.T
        assert traffic.products == 2 * x.nbytes + 8 * 8 * 4


@pytest.mark.parametrize("settings", [VSASettings(sparsity=0.8), SLASettings(sparsity=0.5), BSASettings(mass=1.0)])
def test_the_kernels_flops_are_those_of_the_tiles_that_it_visits(settings: Any) -> None:
    visited = []

    class Recording:
        """A kernel that computes nothing."""

        def plan(self, tile_map: torch.Tensor, grid: TileGrid, query_width: int | None = None) -> None:
            visited.append(int(tile_map.sum()) * (query_width or grid.width) * grid.width)

        def __call__(self, q: torch.Tensor, *_: Any) -> torch.Tensor:
            return q

    video = Video(title="tiny", variant="wan2.1_t2v_1.3B", width=176, height=144, frames=21)
    _, _, frames, height, width = video.size.shape
    size = frames, height // 2, width // 2
    heads, head_dim = video.row.dim // 128, 128
    q, k, v = torch.randn(3, 1, video.tokens, heads, head_dim)
    settings.prepare(size, torch.device("cpu"), Recording())(Inputs(q, k, v))
    assert kernel_flops(video, settings) == 4 * visited[0] * head_dim * video.row.layers


def test_seconds_are_the_roofline_of_each_kind() -> None:
    card = CARDS["H100 SXM"]
    assert seconds(Work(card.bf16, 0, 2 * card.bandwidth), card) == Seconds(1.0, 2.0)
    assert seconds(Work(card.bf16, 3 * card.bandwidth, 0), card).total == 3.0


def test_eight_bits_are_for_linear_layers_alone() -> None:
    video, counts = VIDEOS["2.1 T2V 14B, 720p"], paper.stored()["2.1 T2V 14B, 720p"]
    card = CARDS["RTX 4090"]
    found, sixteen = eight_bit_products(video, counts, card), counts["KSampler"].works[0].flops / card.bf16
    attention = 2 * (dense_flops(video) + cross_flops(video, 512)) / card.bf16
    assert found - attention == pytest.approx((sixteen - attention) * card.bf16 / card.fp8)


def test_a_video_is_its_steps() -> None:
    """Of Wan 2.2, whose authors let MagCache skip nothing in I2V's high-noise phase."""
    name = "2.2 I2V A14B, 480p"
    video, counts = VIDEOS[name], paper.stored()[name]
    works, engine = whole(video, counts), counts["engine"].works
    assert works["exact"] == engine[0].times(2) + engine[1].times(38)
    assert [sum(phase) for phase in magcache_skips(video)] == [0, 10]
    assert [sum(phase) for phase in dbcache_skips(video)] == [9, 15]
    assert works["4 steps"].flops < works["MagCache"].flops < works["exact"].flops < works["diffusers"].flops
    assert works["gate"].flops == pytest.approx(0.75 * works["exact"].flops, rel=0.02)
    assert counts["two experts"].copied[1] == pytest.approx(weight_bytes(video), rel=1e-3)


def test_what_does_not_fit_says_what_it_takes() -> None:
    video = VIDEOS["2.1 T2V 14B, 720p"]
    counts = paper.stored()["2.1 T2V 14B, 720p"]
    found = {name: how_it_fits(video, counts, card) for name, card in CARDS.items()}
    assert found["H100 SXM"] == found["H200 SXM"] == "yes"
    assert found["RTX 4090"].startswith("8-bit weights") and "GiB" in found["RTX 4090"]


def test_published_measurements_are_of_what_is_counted() -> None:
    assert {each.video for each in PUBLISHED} <= VIDEOS.keys() and {each.card for each in PUBLISHED} <= CARDS.keys()
