"""Putting weights into the small networks (text encoder, VAE, image encoder), from a diffusers folder or a single file.

Nothing is left to chance: a key that is missing or unknown is an error, never a warning.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import LoadError
from ..json_object import check_sizes, read_json_file
from .loading.checkpoint import Checkpoint, StoredTensor
from .loading.keys import some
from .loading.kinds import kind_of
from .loading.quantised import DTYPES, FLOAT8, stored_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


_SIZES = (
    "d_model d_kv d_ff num_heads num_layers vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "image_size base_dim z_dim num_res_blocks"
)


def component(path: Path | str, name: str) -> Path:
    """The folder `name` of a diffusers repository, or `path` itself where it is that folder or a single file."""
    path = Path(path)
    if not path.exists():
        raise LoadError(f"{path} does not exist. Give a folder of a diffusers repository or a .safetensors file.")
    return path / name if (path / name).is_dir() else path


def read_config(folder: Path, class_name: str) -> dict[str, Any]:
    """config.json of a component's folder.

    Raises:
        LoadError: there is none, or it describes another class than `class_name`.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise LoadError(f"{folder} has no config.json: it is no component of a diffusers repository, or not whole.")
    config = read_json_file(file)
    architectures = config.get("architectures")
    named = [config.get("_class_name"), *(architectures if isinstance(architectures, list) else ())]
    classes = [name for name in named if isinstance(name, str)]
    if class_name not in classes:
        raise LoadError(f"{file} describes {', '.join(classes) or 'no class'}; expected {class_name}.")
    check_sizes(config, _SIZES, str(file))
    return config


def read_state(
    checkpoint: Checkpoint, tensors: Mapping[str, StoredTensor], dtype: torch.dtype | None
) -> tuple[dict[str, Tensor], torch.dtype]:
    """The weights among `tensors` in `dtype`, and that dtype: when None, the one of the largest weight, and bfloat16 where
    any is an 8-bit float. Scaled weights are rescaled."""
    weights = stored_weights(tensors, checkpoint.metadata, str(checkpoint.path))
    if dtype is None:
        largest = max(weights.values(), key=lambda weight: math.prod(weight.shape))
        eight_bit = any(weight.tensor.dtype in FLOAT8 for weight in weights.values())
        dtype = torch.bfloat16 if eight_bit else DTYPES[largest.tensor.dtype]
    return {key: weight.read(dtype) for key, weight in weights.items()}, dtype


def transformers_network(
    network: "type[PreTrainedModel]", config: "PretrainedConfig", state: Mapping[str, Tensor], dtype: torch.dtype, source: Path
) -> Any:
    """A transformers network from its weights, in `dtype` except for what the class keeps in float32.

    Raises:
        LoadError: keys or shapes do not fit `config`.
    """
    try:
        built, found = network.from_pretrained(
            None, config=config, state_dict=dict(state), torch_dtype=dtype, output_loading_info=True
        )
    except RuntimeError as error:
        raise LoadError(f"{source} does not fit {network.__name__}: shapes differ from its configuration.") from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise LoadError(f"{source} is no {network.__name__}, its configuration has a wrong value: {error!r:.300}") from error
    check_keys(found["missing_keys"], found["unexpected_keys"], source, network.__name__)
    return built.eval().requires_grad_(False)


def check_keys(missing: Iterable[str], unexpected: Iterable[str], source: Path, network: str) -> None:
    """Raises LoadError unless both are empty."""
    wrong = [f"{verb} {some(sorted(keys))}" for verb, keys in (("lacks", missing), ("has besides", unexpected)) if keys]
    if wrong:
        raise LoadError(f"{source} does not fit {network}: it {' and '.join(wrong)}. It is incomplete or another model.")


def not_a(what: str, checkpoint: Checkpoint, advice: str) -> LoadError:
    """The error for a file that holds something else than `what`."""
    kind = kind_of(checkpoint.tensors)
    return LoadError(f"{checkpoint.path} is no {what}" + (f"; it looks like {kind}" if kind else "") + f". {advice}")
