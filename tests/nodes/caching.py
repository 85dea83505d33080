"""FastVideo MagCache on the tiny networks of `tiny_wan`, with ratio tables that skip two of three steps."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sampling import SETTINGS

from fastvideo_core import plan, shifted_sigmas
from fastvideo_core.guidance import BOTH
from fastvideo_core.step_cache import Fingerprint, MagCacheSettings, PhaseRatios, RatioTable, fingerprint

CUSTOM: dict[str, Any] = {"threshold": 0.25, "max_skips": 2, "retention": 0.0, "trend": 0.0}
TINY = MagCacheSettings(**CUSTOM)


def module_of(host: Any, name: str) -> Any:
    """A module of the pack's nodes, as ComfyUI imported it."""
    package = sys.modules[host.node_classes["FastVideoMagCache"].__module__].__package__
    return sys.modules[f"{package}.{name}"]


def fingerprint_of(host: Any, model: Any) -> Fingerprint:
    return fingerprint(module_of(host, "native.generation").network_weights(model))


def weights_of(host: Any, model: Any) -> str:
    return fingerprint_of(host, model).name


def flat_table(name: str, boundary: float | None, ratio: float = 0.92) -> RatioTable:
    """At 0.92 the errors of steps skipped in a row are 0.08 and 0.23: at threshold 0.25 two of three are skipped."""
    sigmas = shifted_sigmas(SETTINGS["steps"], SETTINGS["shift"])
    phases = [
        PhaseRatios(
            expert=phase.expert,
            sigmas=sigmas[phase.start : phase.stop],
            ratios=dict.fromkeys(BOTH, (1.0,) + (ratio,) * (len(phase.steps) - 1)),
        )
        for phase in plan(sigmas, 1.0, None, boundary).phases
    ]
    return RatioTable(
        name=name, sigmas=sigmas, shift=SETTINGS["shift"], boundary=boundary, phases=tuple(phases), source={"made": "by a test"}
    )


def put_table(host: Any, *experts: Any, boundary: float = 0.875) -> Path:
    """As if these MODELs had been calibrated: one, or two experts."""
    weights = tuple(fingerprint_of(host, expert) for expert in experts)
    name = "_".join(one.name for one in weights)
    table = replace(flat_table(name, boundary if len(experts) == 2 else None), weights=weights)
    file = host.model_folder("fastvideo_ratios") / f"{name}.json"
    file.write_text(table.json(), "utf-8")
    return file


def cached(host: Any, model: Any, mode: str = "resampled", on_cpu: bool = False, enabled: bool = True, **custom: Any) -> Any:
    """The MODEL through the node."""
    preset = {"preset": "custom", **CUSTOM, **custom}
    node = host.node_classes["FastVideoMagCache"]
    return node.execute(model=model, enabled=enabled, preset=preset, mode=mode, residuals_on_cpu=on_cpu).args[0]


def plans(report: Any) -> dict[tuple[str, str], str]:
    """(expert, branch) -> plan, of a run report."""
    return {(row.expert, row.branch): row.plan for cache in report.caches for row in cache.phases}


def cut(report: Any) -> float:
    return max(cache.block_cut for cache in report.caches)


@contextmanager
def counted_blocks(*models: Any) -> Iterator[list[int]]:
    """Batch size of each run of the networks' first blocks."""
    seen: list[int] = []
    blocks = [model.model.diffusion_model.blocks[0] for model in models]
    hooks = [block.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0])) for block in blocks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def attributes(model: Any) -> Sequence[Any]:
    """What a node could leave behind on a MODEL and on its network."""
    network = model.model.diffusion_model
    return (
        repr(model.model_options), repr(model.wrappers), repr(model.callbacks), repr(model.object_patches),
        sorted(vars(model.model)), sorted(vars(network)), [sorted(vars(block)) for block in network.blocks],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()],
    )  # fmt: skip
