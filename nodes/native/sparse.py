"""Where sparse self-attention meets a generation on a MODEL.

In core's network each self-attention call of a generation gets an `optimized_attention_override` of its own, around FastVideo
Attention's if there is one; networks of diffusers get the session, and exchange their processors. Nothing stays afterwards.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.model_patcher
import comfy.patcher_extension
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from fastvideo_core import Contribution, Phase, RequestError, Schedule
from fastvideo_core.attention.sparse import Inputs, Kernel, SparseSchedule, SparseSession, as_it_is, prepare_kernel

from .attached import SPARSE as KEY
from .attention import situation_of
from .blocks import attention_blocks, has_own_kernel, wrapped_forwards
from .call import Asked, lent
from .diffusers_network import DiffusersNetwork
from .generation import generation_of, noise_level_in
from .guard import check_asked, guard_calls
from .override import (
    OVERRIDE,
    SPARSE,
    CoreAttention,
    NativeAttention,
    Override,
    by_head,
    check_call,
    core_backend_of,
    is_core_backend,
    other_attention,
    own_kernel_notes,
)
from .rank_hooks import RankShard, RankSparse
from .remote_network import remote_of
from .remote_work import RemoteRun, RemoteWork, with_remote_work
from .taking_part import Participant, taking_part
from .trained_weights import TrainedFile, TrainedWeights, size_of
from .uncompiled import uncompiled

NAME = "FastVideo Sparse Attention"

Size = tuple[int, int, int]
Step = Callable[[Mapping[str, Any]], int]
"""Which step of the generation a call of the network belongs to, by its transformer options."""


def step_in(schedule: Schedule, level: Callable[[Tensor], float]) -> Step:
    """level: tells the noise level of a call by core's timesteps (B,)."""
    return lambda options: schedule.step_at(level(options["sigmas"]))


def with_sparse_attention(model: Any, sparse: SparseSchedule, file: TrainedFile | None = None) -> Any:
    """A clone of the MODEL whose self-attention is sparse as `sparse` says.

    Args:
        file: of weights for core's network, which core's memory manager loads and counts with the MODEL's own.

    Raises:
        RequestError: another sparse attention or another pack's attention is on the MODEL, or the kernel cannot run on this
            machine with this model, with every reason.
        NumericsError: the kernel gives wrong values here.
        LoadError: the file's weights are none or of another network.
    """
    if model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        raise RequestError(f"There are two {NAME} nodes on one MODEL: remove or bypass one of the two.")
    _check_override(model.model_options)
    if remote_of(model) is not None:
        asked = {"sparse": sparse, "trained": None if file is None else (file.name, str(file.path))}
        return with_remote_work(model, RemoteWork(NAME, KEY, "sparse", asked, _steps_of))
    kernel, trained = prepare_kernel(sparse, situation_of(model)), None
    if file is not None:
        trained = file.weights(variant_of(sparse), size_of(model.model.diffusion_model), model.model.get_dtype_inference())
    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, SparseWrapper(sparse, kernel, trained))
    if trained is not None:
        clone.set_additional_models(KEY, [trained.as_model()])
    return clone


def variant_of(sparse: SparseSchedule) -> str:
    """Its name, which is one for all experts of a MODEL."""
    settings = sparse.settings or sparse.low_noise
    assert settings is not None  # `SparseSchedule`
    return settings.name


def _steps_of(guider: Any, noise: Any, sigmas: Any, denoise_mask: Any) -> RemoteRun:
    """What the workers cannot know of a run: its phases, and which step a call belongs to."""
    schedule, phases = generation_of(guider, noise, sigmas, denoise_mask).part(None)
    return RemoteRun({"phases": phases}, step_in(schedule, noise_level_in(guider)))


@dataclass(frozen=True)
class SparseWrapper:
    """Core's OUTER_SAMPLE wrapper: one call is one generation."""

    sparse: SparseSchedule
    kernel: Kernel
    trained: TrainedWeights | None

    def __call__(self, executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        _check_override(guider.model_options)
        _check_one_device(guider.model_patcher)
        generation = generation_of(guider, noise, sigmas, kwargs.get("denoise_mask", args[0] if args else None))
        schedule, phases = generation.part(None)
        has_own = has_own_kernel(guider.model_patcher.model.diffusion_model)
        run = SparseRun(self, phases, step_in(schedule, noise_level_in(guider)), has_own)
        with taking_part(guider, run):
            guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
            comfy.patcher_extension.add_wrapper_with_key(
                WrappersMP.DIFFUSION_MODEL, KEY, uncompiled(run.call), guider.model_options, is_model_options=True
            )
            guard_calls(guider.model_options, KEY, NAME, lambda: run.called)
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)


class SparseRun(Participant):
    """One generation of one MODEL. What depends on the video's size is made at the first call of that size: context windows are
    shorter than the video."""

    def __init__(
        self, asked: SparseWrapper, phases: tuple[Phase, ...], step: Step, has_own: bool, shard: RankShard | None = None
    ) -> None:
        """phases: in which the MODEL works. step: tells that of a call. has_own: see `has_own_kernel`. shard: of a rank that has
        some of the tokens."""
        self.sparse, self.kernel, self.trained = asked.sparse, asked.kernel, asked.trained
        self.phases, self.step, self.has_own, self.shard = phases, step, has_own, shard
        self._sessions: dict[tuple[Phase, Size], SparseSession] = {}
        self._dense: Any = None  # the override that was there

    @property
    def called(self) -> bool:
        return bool(self._sessions)

    def contribution(self, expert: str) -> Contribution:
        """A row for each phase and size."""
        more = {} if self.trained is None else {"trained_weights": self.trained.name}
        if is_core_backend(self._dense):
            more["dense_attention"] = core_backend_of(self._dense)
        reports = (session.report() for session in self._sessions.values())
        return Contribution(
            sparse=tuple(replace(each, settings={**each.settings, **more}) for each in reports),
            notes=own_kernel_notes(NAME, self.has_own),
        )

    def call(self, executor: Any, x: Tensor, timestep: Any, context: Any, clip_fea: Any, time_dim_concat: Any,
             transformer_options: dict[str, Any], **kwargs: Any) -> Any:  # fmt: skip
        """Core's DIFFUSION_MODEL wrapper: one call of the network. x: (B, C, T, H, W)."""
        network = executor.class_obj
        step = self.step(transformer_options)
        # Here, for compiled code would take the step for a number that may be any.
        phase = next((phase for phase in self.phases if step in phase.steps), self.phases[-1])
        session = self._session(phase, x, network.patch_size)
        session.begin(step)
        self._dense = transformer_options.get(OVERRIDE)
        call = SparseCall(dense=self._dense, rows=self._rows)
        marks = [(block.self_attn, self._mark(call, session, layer)) for layer, block in attention_blocks(network)]
        given = {SPARSE: session, **({} if isinstance(network, DiffusersNetwork) else {OVERRIDE: call})}
        with lent(transformer_options, **given), wrapped_forwards(marks):
            out = executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)
        check_asked(NAME, network, call)
        return out

    def _mark(self, call: "SparseCall", session: SparseSession, layer: int) -> Callable[..., Any]:
        trained = None if self.trained is None else self.trained.layers[layer]
        covered = session.covers(layer)
        comes = covered and max(self.phases[-1].steps, default=-1) >= self.sparse.dense_steps
        attend = session.outside(SparseOverride(session, covered, comes, call, trained))
        return partial(_in_layer, call=call, attend=attend)

    def _session(self, phase: Phase, x: Tensor, patch_size: Size) -> SparseSession:
        time, height, width = (-(-extent // part) for extent, part in zip(x.shape[2:], patch_size, strict=True))
        key = (phase, (time, height, width))
        if key not in self._sessions:
            around = as_it_is if self.shard is None else partial(RankSparse, shard=self.shard)
            session = SparseSession.open(self.sparse, phase, key[1], x.device, self.kernel, around)
            assert session is not None
            self._sessions[key] = session
        return self._sessions[key]

    def _rows(self, tokens: int) -> int:
        """Of so many tokens, those that the network's blocks have here."""
        if self.shard is None:
            return tokens
        rows = self.shard.ranks.rows(tokens)
        return rows.stop - rows.start


@dataclass(eq=False, kw_only=True)
class SparseCall(Asked):
    """What core calls in the place of its own attention, in one call of the network.

    dense: FastVideo Attention's override or that of core's Model Attention Backend, None where core's own attention is dense.
    attend: of the layer whose self-attention asks, None where cross-attention does. tokens: what that self-attention was given,
    (B, L, H * D). rows: tells how many it is to be given of so many.
    """

    rows: Callable[[int], int]
    dense: Any = None
    attend: Callable[..., Tensor] | None = None
    tokens: Tensor | None = None

    def __call__(self, function: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Core's arguments, as in `Override`."""
        self.attention = True
        return self.densely(function, *args, **kwargs) if self.attend is None else self.attend(function, *args, **kwargs)

    def densely(self, function: Any, *args: Any, **kwargs: Any) -> Tensor:
        given: Tensor = function(*args, **kwargs) if self.dense is None else self.dense(function, *args, **kwargs)
        return given


def _in_layer(forward: Callable[..., Any], call: SparseCall, attend: Callable[..., Tensor]) -> Callable[..., Any]:
    """A layer's self-attention, around whatever other packs put there."""

    def in_layer(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        call.attend, call.tokens, call.self_attention = attend, x, True
        out = forward(x, *args, **kwargs)
        call.attend = call.tokens = None
        return out

    return in_layer


@dataclass(frozen=True)
class SparseOverride:
    """A layer's self-attention. covered: it is sparse in sparse steps; comes: there is such a step; trained: the layer's gate or
    projection."""

    session: SparseSession
    covered: bool
    comes: bool
    call: SparseCall
    trained: Any

    def __call__(self, function: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Core's arguments, as in `Override`."""
        if self.session.sparse and self.covered:
            return self._sparse(*args, **kwargs)
        if self.comes and self.call.tokens is not None:
            self._check_tokens({self.call.tokens.shape[1]})  # before steps are computed in vain
        self.session.count_dense()
        return self.call.densely(function, *args, **kwargs)

    def _sparse(self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, attn_precision: Any = None,
                skip_reshape: bool = False, skip_output_reshape: bool = False, transformer_options: Any = None,
                low_precision_attention: bool = True, **options: Any) -> Tensor:  # fmt: skip
        check_call(NAME, self.session.settings.name, q, mask, attn_precision, options)
        q, k, v = (by_head(x, heads, skip_reshape) for x in (q, k, v))
        inputs = self._inputs(q, k, v)
        self._check_tokens({inputs.q.shape[1], inputs.k.shape[1]})
        out = self.session.attend(inputs)
        return out.transpose(1, 2) if skip_output_reshape else out.flatten(2)

    def _inputs(self, q: Tensor, k: Tensor, v: Tensor) -> Inputs:
        if self.trained is None:
            return Inputs(q, k, v)
        if self.session.settings.name == "SLA":
            return Inputs(q, k, v, projection=self.trained)
        return Inputs(q, k, v, gate=self.trained(self.call.tokens).unflatten(2, q.shape[2:]))

    def _check_tokens(self, found: set[int]) -> None:
        size = self.session.attention.size
        if found != {self.call.rows(math.prod(size))}:
            raise RequestError(
                f"The video has {' x '.join(map(str, size))} = {math.prod(size)} tokens and the network's self-attention "
                f"{' to '.join(map(str, sorted(found)))}: this kind of Wan network, or a node before the sampler, puts other "
                f"tokens beside the video's (such as a reference image's), which have no place in tiles. Remove {NAME} here."
            )


def _check_override(model_options: dict[str, Any]) -> None:
    present = model_options.get("transformer_options", {}).get(OVERRIDE)
    ours = isinstance(present, NativeAttention | Override | CoreAttention)
    if present is not None and not ours and not is_core_backend(present):
        raise other_attention(NAME, present)


def _check_one_device(model: Any) -> None:
    if model.get_additional_models_with_key("multigpu"):
        raise RequestError(
            f"{NAME} is on a MODEL that a MultiGPU node spreads over several GPUs, and it prepares the video's tiles on one. "
            "Remove one of the two nodes."
        )
