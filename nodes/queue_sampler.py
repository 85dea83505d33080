"""FastVideo Queue Sampler: many Wan videos, with each model loaded once for all of them."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from comfy_api.latest import io

from fastvideo_core import counted

from .checked import checked
from .inputs import SHOWN, guidance_inputs, latent_input, prompt_inputs, run_inputs, sigmas_input
from .lists import one, rows
from .native.marks import marks_of
from .native.phases import named
from .native.progress import OwnProgress
from .native.queue import QueuedRun, sample_queue
from .phase_sampler import GUIDANCE
from .requests import prompt_of, request_of
from .sockets import NOT_CONNECTED, SAMPLING, PhasesSocket, RunReportSocket, connected

ONE_EACH = "A list is one for each video; a single one is for all."


class FastVideoQueueSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoQueueSampler",
            display_name="FastVideo Queue Sampler",
            category=SAMPLING,
            description="Samples many Wan videos, phases outside and prompts inside: each model is loaded once for all of them. "
            "Each video is that of FastVideo Phase Sampler; one that fails is named and stops no other.",
            search_aliases=[
                "batch prompts", "prompt list", "many prompts", "multi prompt", "queue", "ksampler", "wan", "sampler",
                "batch",
            ],
            is_input_list=True,
            inputs=[
                PhasesSocket.Input("phases", tooltip="From FastVideo Phase: all phases, the last one until 0. The same for all."),
                *prompt_inputs(*(f"{told} {ONE_EACH}" for told in SHOWN)),
                latent_input(f"Size of the video, and for TI2V 5B the given first frame with its mask. {ONE_EACH}"),
                *run_inputs(),
                *(given for given in guidance_inputs() if given.id in GUIDANCE),
                sigmas_input(),
                io.String.Input(
                    "save_state", default="", optional=True, advanced=True,
                    tooltip="A name under which the runs are kept in models/fastvideo_states until all are finished: where the "
                    "queue is cancelled or one fails, it goes on from there when it is run again. Empty: kept where cancelled.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latents", is_output_list=True,
                    tooltip="The videos' latents, those that did not fail, for VAE Decode.",
                ),
                RunReportSocket.Output(
                    display_name="reports", is_output_list=True,
                    tooltip="What ran, one for each of the latents, for FastVideo Run Report.",
                ),
                io.String.Output(
                    display_name="told", tooltip="Seconds and speed of all; then a line for each video, or why it failed.",
                ),
            ],
            hidden=[io.Hidden.prompt],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, phases: list[Any], positive: list[Any], negative: list[Any], latent: list[Any], seed: list[int],
        sigmas: Any = NOT_CONNECTED, save_state: Any = NOT_CONNECTED, **settings: list[Any],
    ) -> io.NodeOutput:  # fmt: skip
        experts, planned = named(one("phases", phases))
        levels = connected(sigmas)
        request = request_of(
            phases=planned, seed=seed[0], sigmas=NOT_CONNECTED if levels is None else one("sigmas", levels),
            **{name: one(name, values) for name, values in settings.items()},
        )  # fmt: skip
        save = "" if connected(save_state) is None else one("save_state", save_state)
        given = rows(positive=positive, negative=negative, latent=latent, seed=seed)
        runs = [
            QueuedRun(shown, other, video, replace(request, seed=own), save, OwnProgress(f"video {number} of {len(given)}, "))
            for number, (shown, other, video, own) in enumerate(given, start=1)
        ]
        deque(sample_queue(experts, runs, marks_of(list(experts.values()), prompt_of(cls), ("phases",))), maxlen=0)
        made = [run for run in runs if run.video is not None]
        if not made and runs[0].error is not None:
            raise runs[0].error
        told = "\n".join([_first_line(runs), *(f"{number}: {_line(run)}" for number, run in enumerate(runs, start=1))])
        logging.info("FastVideo Queue Sampler\n%s", told)
        return io.NodeOutput([run.video for run in made], [run.report for run in made], told)


def _first_line(runs: Sequence[QueuedRun]) -> str:
    """Of what was made here: a queue that goes on made some steps before."""
    parts = [part for run in runs for part in run.parts]
    seconds = [seconds for part in parts for seconds in part.step_seconds]
    failed = sum(run.video is None for run in runs)
    speed = f", {median(seconds):.3f} s per step" if seconds else ""
    told = f"{counted(len(runs) - failed, 'video')} in {sum(part.total_seconds for part in parts):.1f} s{speed}"
    return f"{told}; {failed} failed" if failed else told


def _line(run: QueuedRun) -> str:
    return f"failed: {run.error}" if run.video is None else run.report.headline


NODES = [FastVideoQueueSampler]
