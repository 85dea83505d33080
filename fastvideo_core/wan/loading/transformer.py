"""A `WanTransformer3DModel` from a diffusers folder or from one safetensors file, whoever wrote it. No network, on the CPU."""

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...checks import number
from ...errors import LoadError, RequestError
from ...json_object import check_sizes, made_of, read_json_file
from ..flow_map import KIND as FLOW_MAP
from ..flow_map import make_flow_map
from .checkpoint import Checkpoint, StoredTensor, open_checkpoint
from .config import infer_config, is_wan
from .keys import diffusers_key, original_key, some
from .kinds import kind_of
from .quantised import DTYPES, FLOAT8, StoredWeight, stored_weights
from .trained_attention import FLOAT32, make_places, trained_key

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

_LOG = logging.getLogger(__name__)
_COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_FIRST = "patch_embedding.weight"
"""Of every Wan network, under both names: what stands before it in a file stands before all its keys."""
_OTHER_PARTS = ("first_stage_model.", "vae.", "cond_stage_model.", "text_encoders.", "conditioner.", "clip_vision.")
"""Of a checkpoint that holds all models of a pipeline; the transformer is the part with a prefix."""

_SIZES = (
    "num_attention_heads attention_head_dim in_channels out_channels text_dim freq_dim ffn_dim num_layers rope_max_seq_len"
)

_NEVER_USED = "norm_added_q"
"""In early diffusers conversions of I2V; `WanTransformer3DModel._keys_to_ignore_on_load_unexpected` names it."""


def load_transformer(path: Path, dtype: torch.dtype | None = None) -> "WanTransformer3DModel":
    """The network, in eval mode, without gradients.

    Args:
        path: a diffusers transformer folder (config.json and safetensors, sharded or not; AnyFlow's too), or one safetensors
            file with original Wan keys or diffusers' keys, all with one prefix (`model.diffusion_model.`, `pipe.dit.`) or none.
        dtype: float32, bfloat16 or float16; None keeps the file's (bfloat16 for float8 files, which are rescaled). What
            diffusers keeps in float32 (norms, time embedder, modulation) is float32 in any case.

    Weights of trained sparse attention (VSA's gate, SLA's projection) are beside the self-attention that they belong to.
    Weights that need no conversion stay mapped from the file; the others are converted one by one. Counters of training
    are left out, which is logged.

    Raises:
        LoadError: the file is missing, broken, of another kind, incomplete, or quantised in a way that cannot be undone.
        RequestError: a dtype that the network does not compute in.
    """
    if dtype is not None and dtype not in _COMPUTE_DTYPES:
        raise RequestError(f"A transformer computes in float32, bfloat16 or float16, not {dtype}. float8 is for storage.")
    path = Path(path)
    config = _folder_config(path) if path.is_dir() else None
    checkpoint = open_checkpoint(path)
    weights = _transformer_weights(checkpoint)
    if config is None:
        shapes = {name: weight.shape for name, weight in weights.items()}
        config = infer_config(shapes, checkpoint.metadata, str(path))
    network = made_of(f"{path} is no WanTransformer3DModel", lambda: _empty_network(config))
    if config.get("_class_name") == FLOW_MAP:
        make_flow_map(network, config, str(path / "config.json"))
    make_places(network, weights)
    _check_weights(network, weights, path)
    _fill(network, weights, dtype)
    return network.eval().requires_grad_(False)


def _folder_config(folder: Path) -> dict[str, Any]:
    """config.json, checked to be of a network that can be filled."""
    file = folder / "config.json"
    if not file.is_file():
        inside = [part for part in ("transformer", "transformer_2") if (folder / part / "config.json").is_file()]
        fix = f"Give {' or '.join(str(folder / part) for part in inside)}." if inside else "Give the folder that has one."
        raise LoadError(f"{folder} has no config.json, so it is no diffusers transformer folder. {fix}")
    config = read_json_file(file)
    kind = config.get("_class_name", "WanTransformer3DModel")
    if kind not in ("WanTransformer3DModel", FLOW_MAP):
        raise LoadError(f"{folder} holds a {kind}; a WanTransformer3DModel was asked for. Give the folder of the transformer.")
    check_sizes(config, _SIZES, str(file))
    made_of(str(file), lambda: number("eps", config.get("eps", 1e-6), "it is a number."))
    if "quantization_config" in config:
        raise LoadError(f"{folder} is quantised by {config['quantization_config']}. Use the folder with plain weights.")
    return config


def _transformer_weights(checkpoint: Checkpoint) -> dict[str, StoredWeight]:
    """The weights under diffusers' names.

    Raises:
        LoadError: the file is of another kind, or has keys that the network has no place for.
    """
    where = str(checkpoint.path)
    tensors, prefix = _own_part(checkpoint)
    counters = {key for key, tensor in tensors.items() if _is_counter(key.removeprefix(prefix), tensor)}
    if counters:
        _LOG.warning("%s: %s left out, which counted something in training.", where, some(sorted(counters)))
    tensors = {key: tensor for key, tensor in tensors.items() if key not in counters}
    stored = stored_weights(tensors, checkpoint.metadata, where)
    weights = {key.removeprefix(prefix): weight for key, weight in stored.items() if _NEVER_USED not in key}
    is_original = "text_embedding.0.weight" in weights
    names = {key: trained_key(key) or (diffusers_key(key) if is_original else key) for key in weights}
    unknown = [key for key, name in names.items() if name is None or original_key(name) is None]
    named = {str(names[key]): weight for key, weight in weights.items()}
    if unknown or not is_wan({name: weight.shape for name, weight in named.items()}):
        raise LoadError(
            f"{where} is not a plain Wan transformer. {_looks(checkpoint.path, unknown, list(weights))} Keys without a place: "
            f"{some(unknown or list(weights))}. Give the text-to-video, image-to-video or TI2V transformer itself."
        )
    return named


def _own_part(checkpoint: Checkpoint) -> tuple[dict[str, StoredTensor], str]:
    """The transformer's part of the file, and the prefix of its keys."""
    prefixes = [key.removesuffix(_FIRST) for key in checkpoint.tensors if key == _FIRST or key.endswith(f".{_FIRST}")]
    if len(prefixes) != 1 or not prefixes[0]:
        return dict(checkpoint.tensors), ""
    return {key: tensor for key, tensor in checkpoint.tensors.items() if not key.startswith(_OTHER_PARTS)}, prefixes[0]


def _is_counter(name: str, tensor: StoredTensor) -> bool:
    """Whether it belongs to no layer, as `step` or `num_updates`: a whole number, or one number of the file itself."""
    if diffusers_key(name) or original_key(name):
        return False
    return tensor.dtype in ("I64", "I32", "BOOL") or ("." not in name and math.prod(tensor.shape) == 1)


def _looks(path: Path, unknown: list[str], keys: list[str]) -> str:
    kind = kind_of(unknown) or kind_of(keys)
    if kind:
        return f"It looks like {kind}."
    if re.search(r"-\d+-of-\d+$", path.stem):
        return "It is one shard of several: give the folder that holds all of them."
    return "It is no model that is known here."


def _empty_network(config: dict[str, Any]) -> "WanTransformer3DModel":
    """The network without memory for its weights; the rotary table, which no file holds, is real."""
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        network = WanTransformer3DModel.from_config(config)
    settings = network.config
    network.rope = type(network.rope)(settings.attention_head_dim, settings.patch_size, settings.rope_max_seq_len)
    return network


def _check_weights(network: "WanTransformer3DModel", weights: Mapping[str, StoredWeight], path: Path) -> None:
    places = {name: tuple(parameter.shape) for name, parameter in network.state_dict().items()}
    missing, unexpected = sorted(places.keys() - weights.keys()), sorted(weights.keys() - places.keys())
    if missing or unexpected:
        kind = kind_of(unexpected)
        raise LoadError(
            f"{path} does not fit its transformer: missing {some(missing) or 'nothing'}; no place for "
            f"{some(unexpected) or 'nothing'}. "
            + (f"It looks like {kind}." if kind else "The file is incomplete or altered: download it again.")
        )
    wrong = [f"{name} is {weights[name].shape}, not {shape}" for name, shape in places.items() if weights[name].shape != shape]
    if wrong:
        raise LoadError(f"{path} does not fit its configuration: {some(wrong)}. Weights and config.json belong to two models.")


def _fill(network: "WanTransformer3DModel", weights: Mapping[str, StoredWeight], dtype: torch.dtype | None) -> None:
    kept = {name for name in weights if set(name.split(".")) & {*network._keep_in_fp32_modules, *FLOAT32}}
    dtype = dtype or _stored_dtype([weight for name, weight in weights.items() if name not in kept])
    values = {name: weight.read(torch.float32 if name in kept else dtype) for name, weight in weights.items()}
    network.load_state_dict(values, assign=True)


def _stored_dtype(weights: list[StoredWeight]) -> torch.dtype:
    """What most of the values are stored in; bfloat16, Wan's own dtype, when any is float8."""
    if any(weight.tensor.dtype in FLOAT8 for weight in weights):
        return torch.bfloat16
    count: Counter[str] = Counter()
    for weight in weights:
        count[weight.tensor.dtype] += math.prod(weight.shape)
    return DTYPES[count.most_common(1)[0][0]]
