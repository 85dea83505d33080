"""The demo text encoder: a tiny UMT5 with its own sentencepiece model, used with Wan's 512-row prompt recipe."""

from __future__ import annotations

import io

import sentencepiece
import torch
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from .captions import corpus

TEXT_DIM = 128
PAD, END = 0, 1
VOCABULARY = 480


def train_tokenizer() -> bytes:
    """A sentencepiece model in which every word of the captions is one piece; other words fall back to bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=PAD,
        eos_id=END,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def text_config(vocabulary: int) -> UMT5Config:
    """UMT5 as in Wan, but 128 wide and 3 layers deep."""
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=TEXT_DIM,
        d_kv=32,
        num_heads=4,
        d_ff=256,
        num_layers=3,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )


class PromptEncoder(nn.Module):
    """Turns prompts into rows; only the encoder has weights."""

    def __init__(self, tokenizer_model: bytes) -> None:
        super().__init__()
        self.tokenizer_model = tokenizer_model
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model, add_eos=True)
        self.encoder = UMT5EncoderModel(text_config(self.tokenizer.get_piece_size()))

    def forward(self, prompts: list[str]) -> torch.Tensor:
        """Rows of shape (B, longest + 1, 128): each prompt's own, then zeros, and a last zero row for all the others.

        Wan's transformer sees 512 rows, zeros after the prompt's own. Equal rows are equal keys and values in
        cross-attention, so one of them with the logarithm of their count added to its score stands for all
        (`transformer.FoldedText`); the result is the same.
        """
        ids = [self.tokenizer.encode(prompt) for prompt in prompts]
        longest = max(len(row) for row in ids)
        device = self.encoder.device
        padded = torch.tensor([row + [PAD] * (longest - len(row)) for row in ids], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=device)
        rows = self.encoder(input_ids=padded, attention_mask=mask).last_hidden_state
        return nn.functional.pad(rows * mask[..., None], (0, 0, 0, 1))
