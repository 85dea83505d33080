"""The workflow of many videos on several GPUs: a published checkpoint, and a video on each worker at a time."""

from tools.workflows import columns
from tools.workflows.bilingual import bilingual
from tools.workflows.canvas import Canvas, ObjectInfo, PackVersions
from tools.workflows.multi_gpu import FILES, on_workers
from tools.workflows.wan import FOX, NEGATIVE, NOTE_HEIGHT

MULTI_GPU_BATCH = "multi_gpu_batch"
NOTE = "\n".join([
    "## Several GPUs: batch of Wan 2.1 T2V 14B",
    "A video on each worker at a time, as soon as it is done a file. Proven on the CPU; not yet measured on GPUs.",
    "",
    "### What it needs",
    'Two GPUs, and Ray, with ComfyUI\'s Python: `pip install "ray>=2.54"`. Each GPU holds the whole network (14.3 GB here).',
    "",
    "### Your prompts",
    "- *prompts*: one in each line, as many as you like; empty lines are passed over.",
    "- *seeds*: one for each video, or one for all. One prompt and ten seeds are ten videos.",
    "- Image-to-video models: connect *start_images*, one for each video or one for all.",
    "- Files: in ComfyUI's output folder, as *filename_prefix* begins them.",
    "",
    "### When something happens",
    "A prompt that fails is named at the end, and the others go on. A worker that is lost: its video goes on in the next one. "
    "Interrupted: saved files stay, and the same run goes on where it was.",
    "",
    "### More GPUs, or one",
    "Set *count* to their number; workers exchange nothing, so any network will do. With one GPU load the model by core's loader "
    "in the place of *FastVideo Load Model On Workers*: the videos come one after the other.",
    "",
    "### Exact or not",
    "Each video is that of one GPU. **MagCache** is *not exact*: bypass it (Ctrl+B) for the plain run.",
])  # fmt: skip
CHINESE = "\n".join([
    "## 多 GPU：Wan 2.1 T2V 14B 批量生成",
    "每个工作进程各生成一个视频，完成一个就保存一个。已在 CPU 上验证；还没有在 GPU 上测过。",
    "",
    "### 需要什么",
    '两块 GPU，以及 Ray，用 ComfyUI 的 Python 安装：`pip install "ray>=2.54"`。每块 GPU 都放下整个网络（这里是 14.3 GB）。',
    "",
    "### 你的提示词",
    "- *提示词*：每行一个，数量不限；空行跳过。",
    "- *随机种子列表*：每个视频一个，或一个供全部共用。一个提示词配十个种子就是十个视频。",
    "- 图生视频模型：连接 *起始图像*，每个视频一张，或一张供全部共用。",
    "- 文件：在 ComfyUI 的输出文件夹里，文件名以 *文件名前缀* 开头。",
    "",
    "### 出现意外时",
    "出错的提示词会在最后指明，其他继续。工作进程丢失时，它的视频在下一个里继续。中断时，已保存的文件保留，再跑一次从断点继续。",
    "",
    "### GPU 更多，或只有一块",
    "把 *数量* 设为 GPU 的数量；工作进程之间不交换数据，什么网络都够用。只有一块 GPU 时，用核心的加载器代替 "
    "*FastVideo 加载模型到工作进程*：视频逐个生成。",
    "",
    "### 精确与否",
    "每个视频与一块 GPU 生成的相同。**MagCache** *不精确*：要原始运行就绕过它（Ctrl+B）。",
])  # fmt: skip
PROMPTS = (
    FOX,
    "Waves roll on to black sand at dawn, long exposure look, the camera glides low along the shore.",
    "A watchmaker bends over a bench, warm lamp light, fine dust in the air, slow push in.",
    "Rain on a neon street at night, people with umbrellas pass, reflections ripple in the puddles.",
)
BATCH_HEIGHT = 1000


def multi_gpu_batch_canvas(object_info: ObjectInfo, packs: PackVersions) -> Canvas:
    """A video on each worker at a time."""
    canvas, variant = Canvas(MULTI_GPU_BATCH, object_info, packs), FILES.variant
    workers, loaders, cache, loaded = on_workers(canvas, layout="whole videos")
    phase = canvas.node("FastVideoPhase", model=cache["MODEL"], until=0.0, guidance_scale=variant.guidance_scale)
    batch = canvas.node(
        "FastVideoBatch", at_least=BATCH_HEIGHT, phases=phase["phases"], clip=loaded.clip, vae=loaded.vae,
        prompts="\n".join(PROMPTS), negative=NEGATIVE, seeds="1", **vars(FILES.size), steps=variant.steps, shift=variant.shift,
        fps=variant.fps, filename_prefix=f"fastvideo/{MULTI_GPU_BATCH}",
    )  # fmt: skip
    report = canvas.node("FastVideoRunReport", at_least=columns.REPORT_HEIGHT, report=batch["reports"])
    canvas.column(columns.NOTE_WIDTH, note=(bilingual(NOTE, CHINESE), NOTE_HEIGHT))
    canvas.column(columns.MODELS_WIDTH, ("Workers", [workers]), ("Models", loaders))
    canvas.column(columns.PROMPT_WIDTH, ("Step cache", [cache]), ("Phase", [phase]))
    canvas.column(columns.VIDEO_WIDTH, ("Batch", [batch]))
    canvas.column(columns.SAMPLER_WIDTH, ("Reports", [report]))
    return canvas
