"""An expert that is not the first: a guider of its own, whose run is opened around the first one's and whose weights come with
its phase."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP

from .taking_part import ExpertGuider, Run


class ExpertRun(Run, Protocol):
    """The generation that an expert works in."""

    def count_calls_of(self, expert: Any) -> None:
        """To be called before its first call."""
        ...

    def denoised(self, expert: Any, latents: Any, timestep: Any, options: dict[str, Any]) -> Any:
        """What a core sampler asks for."""
        ...


class LaterExpert(ExpertGuider):
    """Core's guider of a further MODEL. Its wrappers see a whole run; its weights are loaded when they are needed."""

    run: ExpertRun
    conds: dict[str, list[Any]]  # of the run that is open: core makes them in `sample`
    merged: tuple[list[Any], dict[str, Any]] | None  # what the sampler added, and this expert's options with it

    def sample_around(
        self, run: ExpertRun, sample: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """sample: the `CFGGuider.sample` of another expert, which runs inside this expert's run."""
        self.run, self.inner_sampling = run, sample
        try:
            return self.sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            del self.inner_sampling
            self.forget_run()

    def outer_sample(self, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("latent_shapes", None)
        self.inner_model = None
        self.loaded_models: list[Any] = []
        try:
            return self.inner_sampling(noise, latent_image, _InsideWrappers(sampler, self), sigmas, *args, **kwargs)
        finally:
            if self.inner_model is not None:
                self.model_patcher.cleanup()
                comfy.sampler_helpers.cleanup_models(self.conds, self.loaded_models)
            for state in ("inputs", "run_options", "merged"):
                self.__dict__.pop(state, None)  # of this generation; what was not reached is not there

    def remember(
        self, noise: Any, latent_image: Any, device: Any, sigmas: Any, denoise_mask: Any, seed: Any, **kwargs: Any
    ) -> None:
        """What loading will need, once the first expert's run has put it on the device."""
        self.inputs = (noise, latent_image, device, sigmas, denoise_mask, seed, kwargs)

    def load(self) -> None:
        """Loads the weights and prepares the conditioning, as core's outer_sample and inner_sample do for a whole run."""
        noise, latent_image, device, sigmas, denoise_mask, seed, kwargs = self.inputs
        self.run.count_calls_of(self)
        inner_model, conds, self.loaded_models = comfy.sampler_helpers.prepare_sampling(
            self.model_patcher, noise.shape, self.conds, self.model_options
        )
        self.inner_model = inner_model
        if hasattr(inner_model, "latent_shapes"):  # newer cores
            inner_model.latent_shapes = kwargs.get("latent_shapes")
        comfy.samplers.cast_to_load_options(self.model_options, device=device, dtype=self.model_patcher.model_dtype())
        self.model_patcher.pre_run()
        if latent_image is not None and latent_image.count_nonzero() > 0:
            latent_image = inner_model.process_latent_in(latent_image)
        with _keyframes_going_on(conds):
            self.conds = comfy.samplers.process_conds(
                inner_model, noise, conds, device, latent_image, denoise_mask, seed, **kwargs
            )
        self.merged = None
        self.run_options = comfy.model_patcher.create_model_options_clone(self.model_options)
        self.run_options.setdefault("transformer_options", {})["sample_sigmas"] = sigmas

    def predict_noise(self, x: Any, timestep: Any, model_options: dict[str, Any] = {}, seed: Any = None) -> Any:  # noqa: B006
        return self.run.denoised(self, x, timestep, model_options)


@contextmanager
def _keyframes_going_on(conds: dict[str, list[Any]]) -> Iterator[None]:
    """Core starts the keyframes of hooks anew whenever it prepares a conditioning. Here that is in the middle of a run: they keep
    their place in it. The noise levels at which they begin are this MODEL's."""
    hooks = [hook for entries in conds.values() for entry in entries if "hooks" in entry for hook in entry["hooks"].hooks]
    places = [(hook.hook_keyframe, dict(vars(hook.hook_keyframe))) for hook in hooks]
    yield
    for keyframes, place in places:
        vars(keyframes).update(place)


class _InsideWrappers(comfy.samplers.Sampler):
    """A sampler inside the SAMPLER_SAMPLE wrappers of a later MODEL; the guider adds those of its own.

    The noise is the first expert's: as in the second of two chained samplers, what the wrappers get in its place is zero.
    """

    def __init__(self, sampler: Any, expert: LaterExpert) -> None:
        self.sampler, self.expert = sampler, expert

    def max_denoise(self, model_wrap: Any, sigmas: Any) -> bool:
        return bool(self.sampler.max_denoise(model_wrap, sigmas))

    def sample(self, model_wrap: Any, sigmas: Any, extra_args: Any, callback: Any, noise: Any, *args: Any) -> Any:
        def inside(model_wrap: Any, sigmas: Any, extra_args: Any, callback: Any, _: Any, *args: Any) -> Any:
            return self.sampler.sample(model_wrap, sigmas, extra_args, callback, noise, *args)

        wrappers = comfy.patcher_extension.get_all_wrappers(
            WrappersMP.SAMPLER_SAMPLE, self.expert.model_options, is_model_options=True
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(inside, self.sampler, wrappers)
        return executor.execute(model_wrap, sigmas, extra_args, callback, torch.zeros_like(noise), *args)
