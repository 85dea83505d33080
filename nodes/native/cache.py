"""A step cache on a native MODEL: one wrapper, which opens a `CacheRun` for the time of a generation."""

from dataclasses import dataclass
from typing import Any, Protocol

from comfy.patcher_extension import WrappersMP

from fastvideo_core import RequestError

from .attached import STEP_CACHE
from .cache_run import CacheRun, Opened
from .generation import NativeGeneration, generation_of, noise_level_in
from .other_caches import check_no_other_cache
from .remote_cache import RemoteCacheRun
from .remote_network import remote_of
from .taking_part import taking_part


class NativeCache(Protocol):
    """What a cache node puts on a MODEL: frozen settings."""

    @property
    def name(self) -> str: ...

    def open(self, generation: NativeGeneration) -> Opened:
        """Raises an error where it cannot serve this generation."""
        ...


def with_cache(model: Any, cache: NativeCache) -> Any:
    """A clone of the MODEL that runs through `cache`."""
    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, STEP_CACHE, CacheWrapper(cache))
    return clone


@dataclass(frozen=True)
class CacheWrapper:
    """Core's OUTER_SAMPLE wrapper: one call is one generation."""

    cache: NativeCache

    def __call__(self, executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        model = guider.model_patcher
        check_no_other_cache(self.cache, guider.model_options, model.model.diffusion_model, STEP_CACHE)
        _check_one_device(self.cache.name, model)
        generation = generation_of(guider, noise, sigmas, kwargs.get("denoise_mask", args[0] if args else None))
        opened, blocks = self.cache.open(generation), len(model.model.diffusion_model.blocks)
        remote, level = remote_of(model), noise_level_in(guider)
        run = CacheRun(opened, blocks, level) if remote is None else RemoteCacheRun(opened, blocks, level, remote)
        with run, taking_part(guider, run):
            guider.model_options = run.installed(guider.model_options, generation.token_bytes)
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)


def _check_one_device(name: str, model: Any) -> None:
    if model.get_additional_models_with_key("multigpu"):
        raise RequestError(
            f"{name} is on a MODEL that a MultiGPU node spreads over several GPUs: they run the branches at the same time, and a "
            "cache needs one after the other. Remove one of the two nodes."
        )
