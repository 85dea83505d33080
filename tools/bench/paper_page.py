"""The plan for one GPU as people read it, in BENCHMARKS.md."""

from collections.abc import Iterator, Mapping, Sequence

from .cards import CARDS, GIB, Card
from .page import update_page
from .paper_count import Counts, Work
from .paper_memory import how_it_fits, weight_bytes
from .paper_plan import FEW_STEPS, GATE, bsa_share, dbcache_skips, eight_bit_products, magcache_skips, seconds, whole
from .paper_videos import VIDEOS, Video
from .published import PUBLISHED, Measured

BLOCK = "paper"
EXACT = ("diffusers", "KSampler", "FastVideo Sampler", "engine")
WAYS = ("exact", "gate", "MagCache", "DBCache", "VSA", "SLA", "4 steps", "4 steps, SLA")


def report(counts: Mapping[str, Counts], command: str) -> str:
    """Writes the page; returns the text for the terminal."""
    text = page(counts, command)
    update_page(BLOCK, text)
    return text


def page(counts: Mapping[str, Counts], command: str) -> str:
    tables: list[Sequence[str]] = [
        [f"`{command}`"], ["A guided step:"], step_table(counts),
        ["Seconds of it at the roofline, as torch runs it uncompiled, and products alone:"], roofline_table(counts),
        ["Of the exact video's products and attention, what is left:"], share_table(counts),
    ]  # fmt: skip
    for card in CARDS.values():
        tables += [[card_facts(counts, card)], card_table(counts, card)]
    tables += [["Published, one GPU, against the same roofline:"], published_table(counts)]
    return "\n\n".join("\n".join(each) for each in tables)


def step_table(counts: Mapping[str, Counts]) -> list[str]:
    rows = []
    for name, video in VIDEOS.items():
        of = counts[name]
        steps = {way: guided_step(of, way) for way in EXACT}
        cells = (f"{step.flops / 1e15:.2f}, {step.moved / 1e12:.2f}, {of[way].peak / GIB:.1f}" for way, step in steps.items())
        caches = " / ".join(f"{(of[cache].peak - of['engine'].peak) / GIB:.1f}" for cache in ("MagCache", "DBCache"))
        rows.append([name, f"{video.tokens}", f"{weight_bytes(video) / GIB:.1f}", *cells, caches])
    head = ["PFLOP, TB moved, GiB at the peak", "tokens", "GiB of weights"]
    return table([*head, *EXACT, "GiB more, MagCache / DBCache"], merged(rows))


def roofline_table(counts: Mapping[str, Counts]) -> list[str]:
    rows = []
    for name, video in VIDEOS.items():
        rows.append([name, *(_step_cell(video, counts[name], card) for card in CARDS.values())])
    names = "diffusers / KSampler / FastVideo Sampler / engine / products alone / in 8 bits"
    return table([names, *CARDS], merged(rows))


def guided_step(of: Counts, way: str) -> Work:
    """After the engine's first one, which reads the text and the image for all."""
    return of[way].works[way == "engine"]


def _step_cell(video: Video, of: Counts, card: Card) -> str:
    found = [seconds(guided_step(of, way), card) for way in EXACT]
    alone = found[-1].products, eight_bit_products(video, of, card)
    return " / ".join(figure(each) for each in (*(each.total for each in found), *alone))


def share_table(counts: Mapping[str, Counts]) -> list[str]:
    rows = []
    for name, video in VIDEOS.items():
        works = whole(video, counts[name])
        shares = [f"{100 * works[way].flops / works['exact'].flops:.0f} %" for way in WAYS[1:]]
        skipped = ["/".join(f"{sum(each)} of {len(each)}" for each in of) for of in (magcache_skips(video), dbcache_skips(video))]
        rows.append([
            f"{name}, {video.request.steps} steps", shares[0], f"{shares[1]} ({skipped[0]})", f"{shares[2]} ({skipped[1]})",
            *shares[3:5], f"{100 * bsa_share(video, counts[name]):.0f} %", *shares[5:],
        ])  # fmt: skip
    head = ["", f"gate {GATE:g}", "MagCache (skipped)", "DBCache, at the best (skipped)", "VSA", "SLA", "BSA, at the most"]
    return table([*head, f"{FEW_STEPS} steps", f"{FEW_STEPS} steps, SLA"], rows)


def card_facts(counts: Mapping[str, Counts], card: Card) -> str:
    expert = counts["2.2 T2V A14B, 720p"]["two experts"].copied[1]
    return (
        f"**{card.name}**, seconds of a whole video at the roofline: as torch runs the engine uncompiled (its products alone). "
        f"At the switch of Wan 2.2's experts {expert / GIB:.1f} GiB come over PCIe: {expert / card.pcie:.2f} s."
    )


def card_table(counts: Mapping[str, Counts], card: Card) -> list[str]:
    rows = []
    for name, video in VIDEOS.items():
        found = {way: seconds(work, card) for way, work in whole(video, counts[name]).items()}
        cells = (f"{figure(found[way].total)} ({figure(found[way].products)})" for way in WAYS)
        rows.append([name, *cells, how_it_fits(video, counts[name], card)])
    head = ["", "exact", f"gate {GATE:g}", "MagCache", "DBCache, at the best", "VSA", "SLA"]
    return table([*head, f"{FEW_STEPS} steps", f"{FEW_STEPS} steps, SLA", "fits"], rows)


def published_table(counts: Mapping[str, Counts]) -> list[str]:
    """The FLOPs are those of diffusers' network, whoever computes them."""
    head = ["", "card", "measured, s a step", "share of the peak", "products alone, s", "diffusers uncompiled, s", "source"]
    return table(head, [_published_row(each, counts[each.video]) for each in PUBLISHED])


def _published_row(each: Measured, counts: Counts) -> list[str]:
    card, work = CARDS[each.card], counts["diffusers"].works[0].times(each.branches / 2)
    step, roof = each.seconds / each.steps, seconds(work, card)
    with_ = f", {each.with_}" if each.with_ else ""
    return [
        f"{each.who}, {each.video}{with_}", card.name, figure(step), f"{100 * work.flops / step / card.bf16:.0f} %",
        figure(roof.products), figure(roof.total), each.source,
    ]  # fmt: skip


def merged(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows that differ in nothing but their names are one."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name, *cells in rows:
        names.setdefault(tuple(cells), []).append(name)
    return [["; ".join(found), *cells] for cells, found in names.items()]


def figure(value: float) -> str:
    """To three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return list(_lines(head, rows))


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| --- |{' ---: |' * (len(head) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
