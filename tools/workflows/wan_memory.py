"""What the notes of published checkpoints say of GPU memory, by the engine's own estimate."""

from dataclasses import dataclass

from tools.workflows.memory import step_bytes, tokens_held
from tools.workflows.wan_files import WanFiles

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class WanMemory:
    """In bytes. weights: of one expert at a time; one_branch, two_branches: of one call of the network; guided: whether the
    workflow has calls with both branches as it comes."""

    weights: float
    one_branch: int
    two_branches: int
    guided: bool

    @property
    def largest(self) -> int:
        """Of the workflow's calls, as it comes."""
        return self.two_branches if self.guided else self.one_branch

    @property
    def total(self) -> float:
        return self.weights + self.largest


def memory_of(files: WanFiles) -> WanMemory:
    return WanMemory(
        weights=max(file.size for file in files.transformers) * 1e9, one_branch=needed(files, 1), two_branches=needed(files, 2),
        guided=files.base_first or not files.loras,
    )  # fmt: skip


def needed(files: WanFiles, branches: int) -> int:
    """Bytes of one call of the network, beside its weights, with what a step cache holds."""
    return step_bytes(files.variant, files.size, branches, 0 if files.loras else tokens_held(files.variant))
