"""The notes of the workflows of published checkpoints in Chinese: what `wan_notes` says."""

from collections.abc import Iterator

from fastvideo_core.wan import WanVariant
from tools.workflows.memory import published_table
from tools.workflows.wan_files import WanFiles
from tools.workflows.wan_memory import GIB, memory_of

MAGCACHE = (
    "**MagCache** 跳过结果已经足够可预知的步的块计算。*不精确*：视频与原始运行略有不同，差多少可用 *FastVideo 视频对比* 看。"
)
DBCACHE = (
    "**DBCache** 在前几个块变化很小的步里跳过大部分块（这里没有 MagCache 的比率表）。*不精确*：视频与原始运行略有不同，"
    "差多少可用 *FastVideo 视频对比* 看。"
)
ATTENTION = "**注意力** 选用精确的内核，并把提示词的空行当作两行来读。*精确*，只有舍入误差。"
RECIPE = "**少步配方** 按名字识别 LoRA，把它蒸馏时对应的参数交给采样器。步数这么少，步缓存没有可复用的东西。"
LORA = "**LoRA**：*不精确*，相当于另一个模型：视频与原始运行不同，动作往往偏少。差多少可用 *FastVideo 视频对比* 测。"
BASE_FIRST = (
    "**三阶段**：高噪专家模型先不带 LoRA、带引导地起步，由此定下运动；之后两个专家模型都带 LoRA 继续。"
    "这是一次运行：求解器连续不断，没有模型会加载两次。"
)
MOTION = "**动得太少？** 在 *WanImageToVideo* 和采样器之间接 *FastVideo 图像运动增强*。"


def about(files: WanFiles) -> str:
    described = _few_steps(files) if files.loras else _many_steps(files)
    return "\n".join([*described, "", *_memory(files), *_files(files), *_to_change(files.variant)])


def _many_steps(files: WanFiles) -> Iterator[str]:
    variant = files.variant
    yield f"## {variant.title}"
    yield f"{_size(files)}，按 Wan 官方参数采样：{_authors(variant)}。"
    yield ""
    yield "### 加速还是原始"
    yield "采样器上方的 *Fast* 是唯一的开关。关闭就是原始运行，下面这些都不起作用。"
    yield f"- {DBCACHE if published_table(variant) is None else MAGCACHE}"
    yield f"- {ATTENTION}"


def _few_steps(files: WanFiles) -> Iterator[str]:
    recipe = files.recipe
    steps = " + ".join(map(str, recipe.steps_of_phases()))
    yield f"## {files.variant.title}，{'三阶段' if files.base_first else f'{recipe.levels.steps} 步'}"
    yield (
        f"{_size(files)}，用 lightx2v 的少步 LoRA：{recipe.solver} {steps} 步，shift {recipe.levels.shift:g}，"
        f"{'只有第一个阶段有引导' if files.base_first else '不用引导'}。"
    )
    yield ""
    yield "### 加速还是原始"
    yield (
        "采样器上方的 *LoRA strength* 是唯一的开关。设为 0 就不用 LoRA，*FastVideo 少步配方* 改为给出原始运行，"
        f"即 Wan 官方的采样方式：{_authors(files.variant)}。"
    )
    yield f"- {RECIPE}"
    yield from [f"- {BASE_FIRST}"] if files.base_first else []
    yield f"- {LORA}"
    yield from [f"- {MOTION}"] if files.variant.in_channels > files.variant.latent_channels else []
    yield f"- {ATTENTION}原始运行时也保留。"


def _size(files: WanFiles) -> str:
    return f"{files.size.width} x {files.size.height}，{files.size.length} 帧，每秒 {files.variant.fps} 帧"


def _authors(variant: WanVariant) -> str:
    return f"unipc {variant.steps} 步，shift {variant.shift:g}，{_guidance(variant)}"


def _guidance(variant: WanVariant) -> str:
    if not variant.two_experts:
        return f"引导强度 {variant.guidance_scale:g}"
    scales = f"{variant.guidance_scale:g}（高噪）和 {variant.low_noise_guidance_scale:g}（低噪）"
    return f"引导强度 {scales}，切换边界 {variant.boundary:g}"


def _memory(files: WanFiles) -> Iterator[str]:
    memory = memory_of(files)
    yield "### 显存"
    expert = "（同一时间只有一个专家模型）" if files.variant.two_experts else ""
    yield (
        f"按引擎的估计，采样时约 {memory.total / GIB:.0f} GiB：权重 {memory.weights / GIB:.1f}{expert}，"
        f"这个尺寸的一步 {memory.largest / GIB:.1f}。"
    )
    if memory.guided:
        yield f"两个分支先后计算时（*引导模式* 选 sequential），一步为 {memory.one_branch / GIB:.1f}。"
    else:
        yield f"原始运行有引导，一步为 {memory.two_branches / GIB:.1f}。"
    yield "显存不够时，ComfyUI 会把一部分权重放在内存里。视频越小、越短，需要的越少。"
    yield ""


def _files(files: WanFiles) -> Iterator[str]:
    yield f"### 文件（{sum(file.size for file in files.all):.1f} GB）"
    yield "缺少的文件 ComfyUI 会提示下载，也可以自己放到这里："
    yield from (f"- `models/{file.directory}`：[{file.name}]({file.url})，{file.size:g} GB" for file in files.all)
    yield ""


def _to_change(variant: WanVariant) -> Iterator[str]:
    yield "### 修改"
    yield f"宽和高取 {2 * variant.spatial} 的倍数，帧数取 4 的倍数加 1。"
    if variant.first_frame:
        yield ""
        yield "要从图片开始，选中 *加载图像* 按 Ctrl+B：工作流打开时它是绕过的。"
