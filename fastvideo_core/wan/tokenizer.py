"""UMT5's tokenizer: a prompt becomes at most 512 token ids, the last one being the end token."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..conditioning import TEXT_TOKENS
from ..errors import ConditioningError, LoadError
from ..json_object import made_of

END_TOKEN = 1
"""Id of "</s>" in UMT5's vocabulary (google/umt5-xxl, tokenizer_config.json)."""


class Tokenizer:
    """Token ids of a prompt. There is no padding: UMT5 hides padded rows from the real ones, and they are dropped after it."""

    def __init__(self, encode: Callable[[str], Sequence[int]]) -> None:
        self._encode = encode

    @classmethod
    def from_sentencepiece(cls, model: bytes) -> "Tokenizer":
        """From a serialised sentencepiece model: the content of `spiece.model`, or what ComfyUI's single files carry.

        It equals transformers' tokenizer of that model, except that a literal "</s>" in a prompt is text here.
        """
        from sentencepiece import SentencePieceProcessor

        try:
            processor = SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise LoadError(f"The sentencepiece model ({len(model)} bytes) is broken: {error}.") from error
        return cls(lambda prompt: [*processor.encode(prompt), END_TOKEN])

    @classmethod
    def from_json(cls, path: Path) -> "Tokenizer":
        """From a `tokenizer.json`, which holds the rule for the end token itself."""
        from tokenizers import Tokenizer as Rules

        rules = made_of(f"{path} is no tokenizer", lambda: Rules.from_file(str(path)))
        rules.no_truncation()  # a prompt that is too long is an error, not a shorter prompt
        rules.no_padding()
        return cls(lambda prompt: rules.encode(prompt).ids)

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """From a sentencepiece model, a tokenizer.json, or a folder with one of them (`tokenizer/` of a repository)."""
        path = Path(path)
        candidates = [path / "spiece.model", path / "tokenizer.json"] if path.is_dir() else [path]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise LoadError(
                f"No tokenizer at {path}: expected a sentencepiece model (spiece.model), a tokenizer.json, or a folder "
                "with one of them."
            )
        return cls.from_json(found) if found.suffix == ".json" else cls.from_sentencepiece(found.read_bytes())

    def __call__(self, prompt: str) -> list[int]:
        """Ids of a cleaned prompt, the end token last.

        Raises:
            ConditioningError: more than 512 tokens. Nothing is cut off.
        """
        ids = list(self._encode(prompt))
        if len(ids) > TEXT_TOKENS:
            raise ConditioningError(
                f"The prompt has {len(ids)} tokens and Wan reads {TEXT_TOKENS}, the end token included: shorten it by "
                f"{len(ids) - TEXT_TOKENS}. It begins {prompt[:60]!r}."
            )
        return ids
