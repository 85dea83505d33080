"""UMT5: prompts to text embeddings by Wan's recipe, from a diffusers folder or from ComfyUI's single file."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import LoadError
from ..json_object import made_of
from ..text import clean_prompt, pad_rows
from .loading.checkpoint import Checkpoint, open_checkpoint
from .placement import placed
from .tokenizer import Tokenizer
from .weights import component, not_a, read_config, read_state, transformers_network

if TYPE_CHECKING:
    from transformers import UMT5Config, UMT5EncoderModel

EMBEDDED_TOKENIZER = "spiece_model"
"""Key under which ComfyUI's single files carry the sentencepiece model, as bytes."""
KEPT_PROMPTS = 32
"""Embeddings kept per encoder: at most 8 MiB each (512 rows of 4096 float32)."""


class TextEncoder:
    """An encoder over `network`, which is on `device` only while it works.

    It keeps the embeddings of the last prompts (they depend on nothing but the prompt), so that a second run does not encode
    again.
    """

    def __init__(
        self,
        network: "UMT5EncoderModel",
        tokenizer: Tokenizer,
        *,
        device: torch.device | str = "cpu",
        offload_device: torch.device | str = "cpu",
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.offload_device = torch.device(offload_device)
        self._kept: OrderedDict[str, Tensor] = OrderedDict()  # cleaned prompt -> its real rows (L, D), newest last

    @classmethod
    def load(
        cls,
        path: Path | str,
        tokenizer: Path | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        device: torch.device | str = "cpu",
        offload_device: torch.device | str = "cpu",
    ) -> "TextEncoder":
        """From a diffusers repository (`text_encoder` and `tokenizer`), or from a single file with transformers' names, which
        may be scaled fp8.

        Args:
            tokenizer: a sentencepiece model, a tokenizer.json or a folder with one; where None, the file's embedded one or
                `tokenizer` beside the folder.
            dtype: what the network computes in; as stored when None, bfloat16 for 8-bit floats.

        Raises:
            LoadError: no such file, it holds something else, or there is no tokenizer.
        """
        from transformers import UMT5EncoderModel

        source = component(path, "text_encoder")
        checkpoint = open_checkpoint(source)
        config = config_of(checkpoint)
        rules = find_tokenizer(checkpoint, tokenizer)
        weights = {key: tensor for key, tensor in checkpoint.tensors.items() if key != EMBEDDED_TOKENIZER}
        state, dtype = read_state(checkpoint, weights, dtype)
        network = transformers_network(UMT5EncoderModel, config, state, dtype, source)
        return cls(network.to(torch.device(offload_device)), rules, device=device, offload_device=offload_device)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings (B, 512, D) float32 on the CPU, one per prompt; D is 4096.

        Each prompt goes through the network alone and without padding: padded rows are hidden from real ones there and
        dropped after it, so the real rows are the same and do not depend on other prompts.

        Raises:
            ConditioningError: a prompt has more than 512 tokens.
        """
        cleaned = [clean_prompt(prompt) for prompt in prompts]
        new = {prompt: self.tokenizer(prompt) for prompt in cleaned if prompt not in self._kept}
        rows = {prompt: self._kept[prompt] for prompt in cleaned if prompt in self._kept}
        if new:
            with placed(self.network, self.device, self.offload_device):
                rows |= {prompt: self._forward(ids) for prompt, ids in new.items()}
        self._keep(rows)
        return torch.cat([pad_rows(rows[prompt][None], [len(rows[prompt])]) for prompt in cleaned])

    @torch.no_grad()
    def _forward(self, ids: Sequence[int]) -> Tensor:
        hidden: Tensor = self.network(input_ids=torch.tensor([ids], device=self.device)).last_hidden_state
        return hidden[0].to("cpu", torch.float32)

    def _keep(self, rows: Mapping[str, Tensor]) -> None:
        for prompt, hidden in rows.items():
            self._kept[prompt] = hidden
            self._kept.move_to_end(prompt)
        while len(self._kept) > KEPT_PROMPTS:
            self._kept.popitem(last=False)


def config_of(checkpoint: Checkpoint) -> "UMT5Config":
    """UMT5's configuration: a folder states it, of a single file under transformers' names the shapes tell it."""
    from transformers import UMT5Config

    if checkpoint.path.is_dir():
        told = read_config(checkpoint.path, "UMT5EncoderModel")
        return made_of(f"{checkpoint.path} is no UMT5EncoderModel", lambda: UMT5Config.from_dict(told))
    shapes = {key: tensor.shape for key, tensor in checkpoint.tensors.items()}
    first = "encoder.block.0.layer."
    bias = f"{first}0.SelfAttention.relative_attention_bias.weight"
    inner = f"{first}1.DenseReluDense.wi_0.weight"
    if not {"shared.weight", bias, inner} <= shapes.keys():
        raise not_a(
            "UMT5 encoder under transformers' names (shared.weight, encoder.block.0. ...)",
            checkpoint,
            "Wan reads umt5_xxl_*.safetensors of ComfyUI's repackaged files, or a diffusers repository.",
        )
    buckets, heads = shapes[bias]
    return UMT5Config(
        vocab_size=shapes["shared.weight"][0],
        d_model=shapes["shared.weight"][1],
        d_kv=shapes[f"{first}0.SelfAttention.q.weight"][0] // heads,
        d_ff=shapes[inner][0],
        num_layers=len({key.split(".")[2] for key in shapes if key.startswith("encoder.block.")}),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
    )


def find_tokenizer(checkpoint: Checkpoint, given: Path | str | None) -> Tokenizer:
    """The given tokenizer, the embedded one of a single file, or the one beside a folder."""
    if given is not None:
        return Tokenizer.load(given)
    if EMBEDDED_TOKENIZER in checkpoint.tensors:
        return Tokenizer.from_sentencepiece(checkpoint.tensors[EMBEDDED_TOKENIZER].read().numpy().tobytes())
    if checkpoint.path.is_dir():
        return Tokenizer.load(checkpoint.path.parent / "tokenizer")
    raise LoadError(
        f"{checkpoint.path} carries no tokenizer ({EMBEDDED_TOKENIZER}). Give one: tokenizer=<spiece.model or tokenizer.json>."
    )
