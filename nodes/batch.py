"""FastVideo Batch: prompts, seeds and start images to files, one video after the other or one on each worker."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from fastvideo_core import RequestError, counted

from .batch_videos import Batch, BatchVideo
from .checked import checked
from .inputs import guidance_inputs, run_inputs, sigmas_input
from .lists import one, rows
from .native.marks import marks_of
from .native.phases import named
from .native.saved_video import check_prefix
from .phase_sampler import GUIDANCE
from .requests import prompt_of, request_of
from .sockets import NOT_CONNECTED, SAMPLING, PhasesSocket, RunReportSocket, connected

MOST_SEED = 2**64 - 1


def video_inputs() -> list[io.Input]:
    """What tells videos from each other, and their size."""
    return [
        io.String.Input(
            "prompts", multiline=True, dynamic_prompts=True,
            tooltip="A prompt in each line, a video each; a list of texts has all their lines. One is for all seeds.",
        ),
        io.String.Input(
            "negative", multiline=True, dynamic_prompts=True, default="",
            tooltip="What no video must show; only read where the guidance scale is not 1. A list is one for each video.",
        ),
        io.String.Input(
            "seeds", default="0",
            tooltip="Whole numbers with spaces or commas between them: one for each video, or one for all.",
        ),
        io.Int.Input("width", default=832, min=16, max=8192, step=16, tooltip="Of the videos, in pixels."),
        io.Int.Input("height", default=480, min=16, max=8192, step=16, tooltip="Of the videos, in pixels."),
        io.Int.Input("length", default=81, min=1, max=8192, step=4, tooltip="Frames of each video."),
    ]  # fmt: skip


class FastVideoBatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoBatch",
            display_name="FastVideo Batch",
            category=SAMPLING,
            description="Makes a video of each prompt and saves it as soon as it is done: on several GPUs one on each at a time, "
            "otherwise one after the other with each model loaded once. One that fails is named and stops no other.",
            search_aliases=[
                "batch prompts", "prompt list", "many prompts", "multi gpu", "parallel", "queue", "save video", "wan", "sampler",
                "batch", "multigpu",
            ],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                PhasesSocket.Input(
                    "phases", tooltip="From FastVideo Phase: models here, or all on the same workers. The same for all videos.",
                ),
                io.Clip.Input("clip", tooltip="UMT5 text encoder: core's CLIP loader with type wan."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                *video_inputs(),
                *(given for given in run_inputs() if given.id != "seed"),
                *(given for given in guidance_inputs() if given.id in GUIDANCE),
                io.String.Input(
                    "filename_prefix", default="video/FastVideo",
                    tooltip="How the files begin, in ComfyUI's output folder; folders before it, as in core's Save Video.",
                ),
                io.Float.Input("fps", default=16.0, min=1.0, max=120.0, step=1.0, tooltip="Frames per second: 24 for TI2V 5B."),
                io.Image.Input(
                    "start_images", optional=True,
                    tooltip="The first frames, for image-to-video models: one for each video, or one for all. Each image of a "
                    "batch is one.",
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="What sees the start image for Wan 2.1 I2V: core's CLIP Vision loader.",
                ),
                sigmas_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latents", is_output_list=True, tooltip="The videos' latents, those that did not fail.",
                ),
                io.Video.Output(display_name="videos", is_output_list=True, tooltip="The files, in the order of the prompts."),
                RunReportSocket.Output(
                    display_name="reports", is_output_list=True,
                    tooltip="What ran, one for each of the latents, for FastVideo Run Report.",
                ),
                io.String.Output(display_name="told", tooltip="A line for each video: its file and speed, or why it failed."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, phases: list[Any], clip: list[Any], vae: list[Any], prompts: list[str], negative: list[str], seeds: list[str],
        width: list[int], height: list[int], length: list[int], filename_prefix: list[str], fps: list[float],
        start_images: Any = NOT_CONNECTED, clip_vision: Any = NOT_CONNECTED, sigmas: Any = NOT_CONNECTED, **settings: list[Any],
    ) -> io.NodeOutput:  # fmt: skip
        check_prefix(one("filename_prefix", filename_prefix))
        experts, planned = named(one("phases", phases))
        levels, sees, images = (connected(given) for given in (sigmas, clip_vision, start_images))
        request = request_of(
            phases=planned, seed=0, sigmas=NOT_CONNECTED if levels is None else one("sigmas", levels),
            **{name: one(name, values) for name, values in settings.items()},
        )  # fmt: skip
        lists: dict[str, Any] = {"prompts": _lines(prompts), "negative": negative, "seeds": _numbers(seeds)}
        first = {} if images is None else {"start_images": [image[None] for batch in images for image in batch]}
        videos = [
            BatchVideo(number=number, prompt=prompt, negative=negative, seed=seed, image=next(iter(image), None))
            for number, (prompt, negative, seed, *image) in enumerate(rows(**lists, **first), start=1)
        ]
        batch = Batch(
            experts=experts, clip=one("clip", clip), vae=one("vae", vae), request=request, fps=one("fps", fps),
            clip_vision=None if sees is None else one("clip_vision", sees), prefix=filename_prefix[0], metadata=_metadata(cls),
            size=(one("width", width), one("height", height), one("length", length)),
        )  # fmt: skip
        batch.make(videos, marks_of(list(experts.values()), prompt_of(cls), ("phases",)))
        return _output(videos)


def _lines(texts: Sequence[str]) -> list[str]:
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    if not lines:
        raise RequestError("The prompts input is empty: write a prompt in each line.")
    return lines


def _numbers(texts: Sequence[str]) -> list[int]:
    words = [word for text in texts for word in re.split(r"[\s,;]+", text) if word]
    bad = [word for word in words if not (word.isascii() and word.isdigit() and int(word) <= MOST_SEED)]
    if bad or not words:
        raise RequestError(
            f"The seeds input got {bad[0] if bad else 'nothing':.80}: give whole numbers from 0 to {MOST_SEED}, one for each "
            "video or one for all, with spaces or commas between them."
        )
    return [int(word) for word in words]


def _metadata(cls: Any) -> dict[str, Any]:
    """As core's Save Video writes it, so that the file brings the workflow back."""
    prompt, extra = prompt_of(cls), getattr(getattr(cls, "hidden", None), "extra_pnginfo", None)
    return {**(extra or {}), **({} if prompt is None else {"prompt": prompt})}


def _output(videos: Sequence[BatchVideo]) -> io.NodeOutput:
    """Raises what the first one failed with where none was made and saved: ComfyUI would keep that as the node's outputs, and not
    try again."""
    sampled, saved = [video for video in videos if video.sampled], [video.saved for video in videos if video.saved is not None]
    if not saved and videos[0].error is not None:
        raise videos[0].error
    failed = len(videos) - len(saved)
    told = "\n".join(
        [f"{counted(len(saved), 'video')}{f'; {failed} failed' if failed else ''}", *(video.line() for video in videos)]
    )
    logging.info("FastVideo Batch\n%s", told)
    runs = [video.run for video in sampled if video.run is not None]
    files = [{"filename": file.filename, "subfolder": file.subfolder, "type": "output"} for file in saved]
    return io.NodeOutput(
        [run.video for run in runs], [file.video for file in saved], [run.report for run in runs], told,
        ui={"images": files, "animated": (True,), "text": (told,)},
    )  # fmt: skip


NODES = [FastVideoBatch]
