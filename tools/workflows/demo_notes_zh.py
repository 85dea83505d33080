"""The notes of the demo workflows in Chinese: what `demo_notes` says."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

ABOUT = """## FastVideo 演示：{title}
{width} x {height}，{frames} 帧，每秒 {fps} 帧，用节点包自带的小型 Wan：不用下载，不用 GPU。

它只用“一个平面图形在纯色背景上运动”的片段训练过，用来确认一切正常、比较各种参数，不是用来出图的。

### 修改
提示词用英文写明形状、颜色、背景和运动：
- circle、square、triangle
- red、green、blue、yellow、purple、cyan
- black、white、gray、navy、brown、teal background
- moving left、right、up、down；still；growing；shrinking

### 一步要好几秒时
正常一步不到一秒。CPU 核心被别的程序占用时，torch 的线程会全速空等：启动 ComfyUI 前设置环境变量 `OMP_WAIT_POLICY=PASSIVE`。
"""
IMAGE = """
### 首帧
加载器自带一张。要换别的，用 *加载图像* 接上去代替：纯色背景上的一个平面图形。
"""
_COMPARISON = """
### 对比什么
同一提示词和种子跑两次：左边是模型原样，右边经过 *{accelerator}*。*FastVideo 视频对比* 给出省了多少时间、视频差多少。\
可以换成别的加速或别的参数。
"""
ATTENTION = """
FastVideo 注意力只带来舍入误差：它把提示词的空行合并，而这么小的视频大部分时间就花在这些空行上。\
480p 及以上，起作用的是它选的注意力内核。
"""
PHASES = """
### 三个阶段
高噪专家模型先带引导，定下视频的内容；然后不带引导继续，计算量减半；最后由低噪专家模型完成。每个 *FastVideo 阶段* 是其中一个：\
给它接上带有所需 LoRA 的模型，并填它到哪个噪声水平为止。
"""
EXPERTS = """
### 两个专家模型
与 Wan 2.2 A14B 一样：高噪专家模型跑到 *切换边界*，之后由低噪专家模型接手。一个采样器跑完两者，轮到第二个时才加载它。
"""
FEW_STEPS = """
### 少步
*LoRA 强度* 为 1 时挂上演示模型自带的 LoRA：4 步、不用引导，代替 20 步加引导，计算量约为十分之一。\
*FastVideo 少步配方* 给出这类 LoRA 的采样参数；已发布的模型按名字识别。原始运行见 *FastVideo_demo_t2v*。
"""
MOTION = """
### 加强运动
四步、不用引导时，动得比二十步加引导少。*FastVideo 图像运动增强* 把运动补回来；幅度 1 为不变。
"""
TUNE = """
### 自动调参
完整跑一次，再带步缓存跑三四次：*FastVideo 自动调参* 找出既满足要求的相似度（*目标 SSIM*）、又最省计算的参数。\
它输出的模型已经带上这些参数。
"""
CALIBRATE = """
### 校准
完整跑一次，由 *FastVideo 校准 MagCache* 测出各步有多相似。比率表存在 `models/fastvideo_ratios`，\
以后 *FastVideo MagCache* 对这些权重就用它。已发布的模型本来就有表。
"""
QUEUE = """
### 许多提示词
输入一组提示词，输出一组视频。所有视频先跑完第一个阶段的模型的步，再一起跑下一个：不管有多少提示词，每个模型只加载一次。\
*创建列表* 可以再接更多提示词。
"""

TOLD: Mapping[str, tuple[str, str]] = MappingProxyType({
    "demo_t2v": ("文生视频", ""),
    "demo_i2v": ("图生视频", IMAGE),
    "demo_two_experts": ("两个专家模型", EXPERTS),
    "demo_compare": ("对比", _COMPARISON.format(accelerator="FastVideo MagCache")),
    "demo_attention": ("注意力", _COMPARISON.format(accelerator="FastVideo 注意力") + ATTENTION),
    "demo_4_steps": ("4 步", FEW_STEPS),
    "demo_phases": ("分阶段", PHASES),
    "demo_i2v_motion": ("图生视频加强运动", IMAGE + MOTION),
    "demo_auto_tune": ("自动调参", TUNE),
    "demo_calibrate": ("校准", CALIBRATE),
    "demo_queue": ("多提示词队列", QUEUE),
})  # fmt: skip
"""Title and what is told besides, by the workflow's name."""


def about(name: str, **measures: Any) -> str:
    """measures: of the video, as `ABOUT` names them."""
    title, told = TOLD[name]
    return ABOUT.format(title=title, **measures) + told
