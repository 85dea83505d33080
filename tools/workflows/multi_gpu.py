"""The workflow of several GPUs: a published checkpoint whose network is in workers."""

from fastvideo_core.wan import VARIANTS
from tools.workflows import columns, models
from tools.workflows.bilingual import bilingual
from tools.workflows.canvas import Canvas, Node, ObjectInfo, PackVersions
from tools.workflows.columns import Loaded
from tools.workflows.wan import FOX, NEGATIVE, NOTE_HEIGHT, settings
from tools.workflows.wan_files import WanFiles

MULTI_GPU = "multi_gpu"
FILES = WanFiles(VARIANTS["wan2.1_t2v_14B"], [models.T2V_14B])
NOTE = "\n".join([
    "## Several GPUs: Wan 2.1 T2V 14B",
    "Two workers with a GPU each, a branch of guidance in each. Proven on the CPU; not yet measured on GPUs.",
    "",
    "### What it needs",
    'Two GPUs, and Ray, with ComfyUI\'s Python: `pip install "ray>=2.54"`. Each GPU holds the whole network (14.3 GB here).',
    "",
    "### Layout",
    "- *auto* gives each branch of guidance to a half of the workers, which exchange next to nothing: good over any network. At "
    "guidance scale 1 there is one branch, and all workers share its tokens.",
    "- *cfg x ulysses*: **ulysses** workers share the tokens of a call and exchange them twice in each block: in one machine, "
    "best with NVLink. It divides the heads of attention: 40 here.",
    "- More GPUs: set *count* to their number. Many videos rather than one soon: the workflow *multi_gpu_batch*.",
    "",
    "### What goes with it",
    "LoRA loaders behind *FastVideo Load Model On Workers*, step caches, *FastVideo Attention*, *Sparse Attention* and "
    "*Compile*, core's samplers, previews, interrupt. What other packs put inside the network (attention, block replaces) "
    "is refused by name.",
    "",
    "### Exact or not",
    "The workers compute what one GPU does, but for rounding. **MagCache** is *not exact*: bypass it (Ctrl+B) for the plain run.",
])  # fmt: skip
CHINESE = "\n".join([
    "## 多 GPU：Wan 2.1 T2V 14B",
    "两个工作进程，各占一块 GPU，各算一个引导分支。已在 CPU 上验证；还没有在 GPU 上测过。",
    "",
    "### 需要什么",
    '两块 GPU，以及 Ray，用 ComfyUI 的 Python 安装：`pip install "ray>=2.54"`。每块 GPU 都放下整个网络（这里是 14.3 GB）。',
    "",
    "### 分工方式",
    "- *auto*：一半工作进程算一个引导分支，几乎不用交换数据，什么网络都够用。引导强度为 1 时只有一个分支，"
    "所有工作进程分担它的 token。",
    "- *cfg x ulysses*：**ulysses** 个工作进程分担一次调用的 token，每个块里交换两次：在一台机器内用，最好有 NVLink。"
    "它要能整除注意力头数，这里是 40。",
    "- GPU 更多时：把 *数量* 设为 GPU 的数量。想要的是许多视频而不是尽快出一个：用工作流 *multi_gpu_batch*。",
    "",
    "### 能与什么配合",
    "*FastVideo 加载模型到工作进程* 之后的 LoRA 加载器、步缓存、*FastVideo 注意力*、*稀疏注意力* 和 *编译*、"
    "核心的采样器、预览、中断。其他节点包放进网络内部的（注意力、块替换）会被指名拒绝。",
    "",
    "### 精确与否",
    "工作进程算的与一块 GPU 相同，只有舍入误差。**MagCache** *不精确*：要原始运行就绕过它（Ctrl+B）。",
])  # fmt: skip


def multi_gpu_canvas(object_info: ObjectInfo, packs: PackVersions) -> Canvas:
    canvas = Canvas(MULTI_GPU, object_info, packs)
    workers, loaders, cache, loaded = on_workers(canvas)
    given = columns.from_noise(canvas, loaded, (FOX, NEGATIVE), FILES.size)
    sampler = canvas.node(
        "FastVideoSampler", at_least=columns.SAMPLER_HEIGHT, model=cache["MODEL"], **given.sampled, **settings(FILES.variant)
    )
    canvas.column(columns.NOTE_WIDTH, note=(bilingual(NOTE, CHINESE), NOTE_HEIGHT))
    canvas.column(columns.MODELS_WIDTH, ("Workers", [workers]), ("Models", loaders))
    canvas.column(columns.PROMPT_WIDTH, ("Step cache", [cache]), ("Prompt and size", given.nodes))
    canvas.column(columns.SAMPLER_WIDTH, ("Sampling", [sampler]))
    columns.video_column(canvas, sampler, loaded.vae, FILES.variant.fps)
    return canvas


def on_workers(canvas: Canvas, **asked: str) -> tuple[Node, list[Node], Node, Loaded]:
    """FastVideo Workers, the loaders, a step cache, and the sockets that come out of them. asked: of the first."""
    (file,), workers = FILES.transformers, canvas.node("FastVideoWorkers", **asked)
    model = canvas.node("FastVideoLoadModelOnWorkers", models=[file], workers=workers["workers"], model_name=file.name)
    clip = canvas.node("CLIPLoader", models=[models.UMT5], clip_name=models.UMT5.name, type="wan")
    vae = canvas.node("VAELoader", models=[FILES.vae], vae_name=FILES.vae.name)
    cache = canvas.node("FastVideoMagCache", model=model["MODEL"])
    return workers, [model, clip, vae], cache, Loaded([cache["MODEL"]], clip["CLIP"], vae["VAE"])
