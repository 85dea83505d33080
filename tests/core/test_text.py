"""Prompts to text embeddings: the recipe, the tokenizer, and UMT5 from folders and single files, against diffusers' pipeline."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny
import tiny_files
import tiny_model
import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from safetensors.torch import load_file, save_file
from tiny import relative_error
from torch import Tensor, nn

from fastvideo_core import ConditioningError, LoadError, TextEncoder, Tokenizer, clean_prompt, pad_rows
from fastvideo_core.wan.text_encoder import KEPT_PROMPTS

UNTIDY = [
    "plain words",
    "  spaces   and\ttabs\nand lines ",
    "fish &amp; chips &lt;hot&gt;",
    "escaped twice: &amp;lt;b&amp;gt; &amp;amp;",
    "cafÃ© trÃ¨s fort",  # UTF-8 read as Latin-1
    "â€œquotedâ€\x9d and it\u2019s",
    "zero\u200bwidth, no\u00a0break and wide\u3000spaces",
    "ﬁne ＦＵＬＬ width",
    "une e\u0301tude",
    "",
]
PROMPTS = ["a cat", "the quick brown fox jumps over the lazy dog, slow camera pan over mountains in the morning fog", ""]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """`text_encoder` with a tied embedding, and `tokenizer` with spiece.model."""
    tiny_model.umt5().save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(tiny_model.sentencepiece_model())
    return tmp_path


def reference(prompts: list[str]) -> Tensor:
    """Diffusers' own embeddings of 512 rows."""
    pipe = tiny_model.pipeline(tiny.t2v(), tiny.vae())
    return pipe.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=512)[0]


@contextmanager
def forwards(network: nn.Module) -> Iterator[list[int]]:
    """Tokens of each call of the network."""
    calls: list[int] = []
    hook = network.register_forward_hook(
        lambda _module, _args, kwargs, _output: calls.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    yield calls
    hook.remove()


@pytest.mark.parametrize("prompt", UNTIDY)
def test_a_prompt_is_cleaned_as_diffusers_does(prompt: str) -> None:
    assert clean_prompt(prompt) == prompt_clean(prompt)


def test_cleaning_mends_entities_encoding_and_spaces() -> None:
    assert clean_prompt(" cafÃ©  &amp;lt;hot&amp;gt;\n") == "café <hot>"


def test_each_sample_keeps_its_own_rows_and_is_zero_beyond() -> None:
    hidden = tiny.normal((2, 40, 6), 1)
    padded = pad_rows(hidden, [3, 40])
    assert padded.shape == (2, 512, 6)
    assert torch.equal(padded[0, :3], hidden[0, :3]) and torch.equal(padded[1, :40], hidden[1])
    assert not padded[0, 3:].any() and not padded[1, 40:].any()


@pytest.mark.parametrize("lengths", [[3], [3, 41], [3, 513], [3, -1]])
def test_lengths_that_do_not_fit_the_rows_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ConditioningError, match="one length per sample, at most 40"):
        pad_rows(torch.zeros(2, 40, 6), lengths)


@pytest.mark.parametrize("prompt", [*tiny_model.SENTENCES, *UNTIDY, "unknown: 日本語 🎬 ~"])
def test_sentencepiece_gives_the_ids_of_transformers_tokenizer(prompt: str) -> None:
    prompt = clean_prompt(prompt)
    assert Tokenizer.from_sentencepiece(tiny_model.sentencepiece_model())(prompt) == tiny_model.fast_tokenizer()(prompt).input_ids


def test_a_folder_with_only_tokenizer_json_gives_the_same_ids(tmp_path: Path) -> None:
    tiny_model.fast_tokenizer().save_pretrained(tmp_path)
    assert not (tmp_path / "spiece.model").exists()
    fast, plain = Tokenizer.load(tmp_path), Tokenizer.from_sentencepiece(tiny_model.sentencepiece_model())
    assert all(fast(prompt) == plain(prompt) for prompt in tiny_model.SENTENCES)


def test_512_tokens_are_read_and_513_are_an_error_that_counts_them(tmp_path: Path) -> None:
    tiny_model.fast_tokenizer()("a", truncation=True, max_length=8)  # leaves a limit in the rules that are saved
    tiny_model.fast_tokenizer().save_pretrained(tmp_path)
    for tokenizer in (Tokenizer.load(tmp_path), Tokenizer.from_sentencepiece(tiny_model.sentencepiece_model())):
        words = 511 // (len(tokenizer("a")) - 1)
        longest = " ".join(["a"] * words)
        assert len(tokenizer(longest)) == 512
        with pytest.raises(ConditioningError, match=r"has 513 tokens and Wan reads 512.*shorten it by 1\."):
            tokenizer(longest + " a")


def test_a_broken_or_missing_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"sentencepiece model .* is broken"):
        Tokenizer.from_sentencepiece(b"not a model")
    with pytest.raises(LoadError, match=r"No tokenizer at .*: expected a sentencepiece model"):
        Tokenizer.load(tmp_path)


def test_embeddings_of_a_repository_are_those_of_diffusers_pipeline(repository: Path) -> None:
    rows = TextEncoder.load(repository).encode([*PROMPTS, *UNTIDY])
    assert rows.shape == (13, 512, tiny.TEXT_DIM) and rows.dtype == torch.float32
    expected = reference([*PROMPTS, *UNTIDY])
    assert all(relative_error(*pair) <= 1e-5 for pair in zip(rows, expected, strict=True))
    assert torch.equal(rows == 0, expected == 0)


def test_a_single_file_with_its_own_tokenizer_gives_the_same_embeddings(repository: Path, tmp_path: Path) -> None:
    path = tiny_files.text_file(tmp_path / "umt5.safetensors", tiny_model.umt5().state_dict())
    encoder = TextEncoder.load(path)
    assert relative_error(encoder.encode(PROMPTS), TextEncoder.load(repository).encode(PROMPTS)) <= 1e-6
    assert encoder.network.shared.weight is encoder.network.encoder.embed_tokens.weight


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 5e-3), (torch.bfloat16, 5e-2)])
def test_half_precision_files_are_computed_as_stored(dtype: torch.dtype, error: float, tmp_path: Path) -> None:
    state = {key: value.to(dtype) for key, value in tiny_model.umt5().state_dict().items()}
    encoder = TextEncoder.load(tiny_files.text_file(tmp_path / "umt5.safetensors", state))
    rows = encoder.encode(PROMPTS)
    assert encoder.network.dtype == dtype and rows.dtype == torch.float32
    assert relative_error(rows, reference(PROMPTS)) < error


def test_scaled_fp8_files_are_rescaled(tmp_path: Path) -> None:
    state = dict(tiny_model.umt5().state_dict())
    rescaled = dict(state)
    for key in [key for key in state if re.search(r"\.(q|k|v|o|wi_0|wi_1|wo)\.weight", key)]:
        scale = state[key].abs().max() / 448
        state[key] = (state[key] / scale).to(torch.float8_e4m3fn)
        state[key.replace(".weight", ".scale_weight")] = scale
        rescaled[key] = state[key].float() * scale
    state["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    by_hand = tiny_model.umt5()
    by_hand.load_state_dict(rescaled)
    scaled = TextEncoder.load(tiny_files.text_file(tmp_path / "fp8.safetensors", state), dtype=torch.float32)
    plain = TextEncoder(by_hand, Tokenizer.from_sentencepiece(tiny_model.sentencepiece_model()))
    assert relative_error(scaled.encode(PROMPTS), plain.encode(PROMPTS)) <= 1e-6
    assert relative_error(scaled.encode(PROMPTS), reference(PROMPTS)) < 0.1
    assert TextEncoder.load(tmp_path / "fp8.safetensors").network.dtype == torch.bfloat16


def test_a_prompt_is_encoded_once_and_without_padding(repository: Path) -> None:
    encoder = TextEncoder.load(repository)
    with forwards(encoder.network) as calls:
        first = encoder.encode(["a cat", "a blue square"])
        assert calls == [len(encoder.tokenizer("a cat")), len(encoder.tokenizer("a blue square"))]
        again = encoder.encode(["a blue  square ", "a cat"])  # the same prompts after cleaning
        assert len(calls) == 2
        encoder.encode(["a cat", "a red circle"])
        assert len(calls) == 3
        encoder.encode(["a dog", "a dog"])
        assert len(calls) == 4
    assert torch.equal(again, first.flip(0))


def test_a_prompt_has_the_same_embedding_alone_and_among_others(repository: Path) -> None:
    alone = TextEncoder.load(repository).encode(PROMPTS[:1])
    among = TextEncoder.load(repository).encode(PROMPTS)
    assert torch.equal(alone[0], among[0])


def test_the_oldest_prompts_are_forgotten(repository: Path) -> None:
    encoder = TextEncoder.load(repository)
    with forwards(encoder.network) as calls:
        encoder.encode([f"cat {i}" for i in range(KEPT_PROMPTS + 1)])
        encoder.encode([f"cat {i}" for i in range(1, KEPT_PROMPTS + 1)])
        assert len(calls) == KEPT_PROMPTS + 1
        encoder.encode(["cat 0"])
        assert len(calls) == KEPT_PROMPTS + 2


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_encoded(repository: Path) -> None:
    encoder = TextEncoder.load(repository)
    with forwards(encoder.network) as calls, pytest.raises(ConditioningError, match="tokens and Wan reads 512"):
        encoder.encode(["a cat", "cat " * 600])
    assert calls == []


def test_a_file_without_a_tokenizer_needs_one(repository: Path, tmp_path: Path) -> None:
    path = tiny_files.text_file(tmp_path / "umt5.safetensors", tiny_model.umt5().state_dict(), tokenizer=False)
    with pytest.raises(LoadError, match=r"carries no tokenizer \(spiece_model\)"):
        TextEncoder.load(path)
    encoder = TextEncoder.load(path, tokenizer=repository / "tokenizer" / "spiece.model")
    assert relative_error(encoder.encode(PROMPTS), reference(PROMPTS)) <= 1e-5


def test_a_file_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    path = tiny_files.vae_file(tmp_path / "vae.safetensors", tiny.vae())
    with pytest.raises(LoadError, match=r"is no UMT5 encoder .*; it looks like a VAE"):
        TextEncoder.load(path)


def test_missing_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    whole = tiny_files.text_file(tmp_path / "umt5.safetensors", tiny_model.umt5().state_dict())
    tensors = load_file(whole)
    tensors["encoder.block.0.extra.weight"] = tensors.pop("encoder.final_layer_norm.weight")
    save_file(tensors, whole)
    with pytest.raises(LoadError) as error:
        TextEncoder.load(whole)
    assert "lacks encoder.final_layer_norm.weight and has besides encoder.block.0.extra.weight" in str(error.value)


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="does not exist"):
        TextEncoder.load(tmp_path / "nothing")
