"""The profile as people read it, in BENCHMARKS.md, and as JSON."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version

import torch

from .attribution import PARTS
from .page import OUTPUT, processor, update_page
from .peak import Peak
from .profile import Profile
from .sizes import SIZES


def report(profiles: Sequence[Profile], peak: Peak, device: str, size: str, steps: int, rounds: int, command: str) -> str:
    """Writes page and JSON; returns the text for the terminal."""
    facts = f"{SIZES[size]}; {steps} Euler steps with guidance, median of {rounds} rounds. {machine(device)}."
    text = "\n".join([facts, "", f"`{command}`", "", *table(profiles, peak)])
    update_page(f"profile {device} {size}", text)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    data = {"facts": facts, "command": command, "peak": asdict(peak), "profiles": [asdict(each) for each in profiles]}
    (OUTPUT / f"profile-{device}-{size}.json").write_text(json.dumps(data, indent=2), encoding="utf-8")
    return text


def table(profiles: Sequence[Profile], peak: Peak) -> list[str]:
    rows = [["ms per step, share", *(name for each in profiles for name in (each.name, ""))]]
    for part in PARTS:
        own = [(each.parts[part], sum(each.parts.values())) for each in profiles]
        rows.append([part, *(cell for seconds, whole in own for cell in (_ms(seconds), f"{100 * seconds / whole:.1f} %"))])
    rows.append(["**whole step**", *(cell for each in profiles for cell in (_ms(sum(each.parts.values())), "100 %"))])
    rows.append(["whole step without clocks", *(c for each in profiles for c in (_ms(each.seconds), _clocks(each)))])
    rows.append(["GFLOP that it computes", *(cell for each in profiles for cell in (f"{each.computed / 1e9:.2f}", ""))])
    rows.append(["GFLOP/s, share of the peak", *(c for each in profiles for c in _rate(each.computed / each.seconds, peak))])
    rows.append(["model-FLOPs utilisation", *(c for each in profiles for c in ("", _rate(each.asked / each.seconds, peak)[1]))])
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [head, f"| --- |{' ---: |' * 2 * len(profiles)}", *body, "", _foot(profiles, peak)]


def _foot(profiles: Sequence[Profile], peak: Peak) -> str:
    return (
        f"Peak: {peak.rate / 1e9:.1f} GFLOP/s ({peak.what}), the fastest product of this run. The plain network's mathematics "
        f"asks for {profiles[0].asked / 1e9:.2f} GFLOP per step."
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"


def _clocks(profile: Profile) -> str:
    return f"clocks {100 * profile.hooks:+.1f} %"


def _rate(rate: float, peak: Peak) -> tuple[str, str]:
    return f"{rate / 1e9:.1f}", f"{100 * rate / peak.rate:.1f} %"


def machine(device: str) -> str:
    place = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, torch threads: {torch.get_num_threads()}"
    return f"{place}; Python {platform.python_version()}, torch {version('torch')}, diffusers {version('diffusers')}"
