"""A case of a comparison as a person writes it: "magcache threshold=0.12 max_skips=2", "cache-dit performance", "gate=0.5",
"vsa sparsity=0.8 dense_steps=4", "magcache vsa sparsity=0.7", "self_attention=sageattention_2"."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import takewhile
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..attention import AttentionSettings
from ..attention.sparse import (
    BSASettings,
    NABLASettings,
    SLASettings,
    SparseSchedule,
    SparseSettings,
    STASettings,
    VSASettings,
)
from ..errors import RequestError
from ..guidance import GuidanceSettings
from ..request import SamplingRequest
from ..step_cache import (
    DBCACHE_PRESETS,
    DBCacheSettings,
    MagCache,
    MagCacheSettings,
    RatioTable,
    recommended,
    table_of,
    with_cache_dit,
    with_dbcache,
)

if TYPE_CHECKING:
    from ..wan.generation import Generation, NewCache

Settings = TypeVar("Settings", MagCacheSettings, DBCacheSettings)
CACHES = {"magcache": MagCacheSettings, "dbcache": DBCacheSettings, "cache-dit": DBCacheSettings}
SPARSE = {"vsa": VSASettings, "sla": SLASettings, "bsa": BSASettings, "sta": STASettings, "nabla": NABLASettings}
NAME_LETTERS = 100
"""Of a file's name at most, which has 255 with what comes around it."""
OF_REQUEST = ("steps", "shift", "guidance_scale", "low_noise_guidance_scale", "solver")
OF_GUIDANCE = {"guidance_mode": "mode", "gate": "gate", "rescale": "rescale"}
OF_ATTENTION = ("self_attention", "cross_attention")
OF_SPARSE = ("dense_steps", "dense_layers", "kernel")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What an accelerated generation does differently. text: as written."""

    text: str
    request: Mapping[str, Any]
    guidance: Mapping[str, Any]
    cache: "NewCache | None"
    attention: AttentionSettings | None
    sparse: SparseSchedule | None

    def changed(self, request: SamplingRequest) -> SamplingRequest:
        """Raises RequestError where the result contradicts itself."""
        return replace(request, **self.request, guidance=replace(request.guidance, **self.guidance))


def read_case(text: str, tables: Sequence[Path] = ()) -> Case:
    """tables: folders with calibrated ratio tables.

    Raises:
        RequestError: a word is no setting, or a value none of it.
    """
    words = text.split()
    names = list(takewhile(lambda word: "=" not in word, words))
    cache, preset, variant = _names(text, names)
    pairs = dict(_pair(word, text) for word in words[len(names) :])
    _check_known(text, pairs, cache, variant)

    def taken(kind: type, keys: Iterable[str]) -> dict[str, Any]:
        return {key: _value(kind, key, pairs[key]) for key in keys if key in pairs}

    attention = taken(AttentionSettings, OF_ATTENTION)
    of_variant = {} if variant is None else taken(SPARSE[variant], _fields(SPARSE[variant]))
    of_cache = {} if cache is None else taken(CACHES[cache], _fields(CACHES[cache]))
    return Case(
        text=text,
        request=taken(SamplingRequest, OF_REQUEST),
        guidance={key: _value(GuidanceSettings, key, pairs[word]) for word, key in OF_GUIDANCE.items() if word in pairs},
        cache=None if cache is None else _cache(cache, preset, of_cache, tables),
        attention=AttentionSettings(**attention) if attention else None,
        sparse=None if variant is None else _sparse(SPARSE[variant](**of_variant), taken(SparseSchedule, OF_SPARSE)),
    )


def file_names(cases: Sequence[Case]) -> list[str]:
    """Of each case's videos: what it sets, in letters that every file system takes, with a number where two would be alike."""
    plain = [re.sub(r"[^\w.=,-]+", "_", case.text)[:NAME_LETTERS] for case in cases]
    counts = [plain[: number + 1].count(name) for number, name in enumerate(plain)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(plain, counts, strict=True)]


def _names(text: str, names: Sequence[str]) -> tuple[str | None, str | None, str | None]:
    """The step cache, its preset and the variant of sparse attention that a case begins with."""
    cache = preset = variant = None
    for name in names:
        if name in SPARSE and variant is None:
            variant = name
        elif name in CACHES and cache is None:
            cache = name
        elif cache is not None and preset is None and name not in (*SPARSE, *CACHES):
            preset = name
        else:
            raise RequestError(
                f"In the case {text!r} the word {name!r} is no setting: a case begins with at most one of {', '.join(CACHES)} "
                f"and one of {', '.join(SPARSE)}, and then has name=value, such as threshold=0.1."
            )
    return cache, preset, variant


def _check_known(text: str, pairs: Mapping[str, str], cache: str | None, variant: str | None) -> None:
    known = [] if cache is None else _fields(CACHES[cache])
    known += [] if variant is None else [*_fields(SPARSE[variant]), *OF_SPARSE]
    known += [*OF_REQUEST, *OF_GUIDANCE, *OF_ATTENTION]
    unknown = [key for key in pairs if key not in known]
    if unknown or not text.split():
        wrong = f"sets {unknown[0]}, which there is not" if unknown else "is empty"
        raise RequestError(
            f"The case {text!r} {wrong}. It may begin with {', '.join((*CACHES, *SPARSE))}, and sets any of: {', '.join(known)}."
        )


def _fields(kind: type[Any]) -> list[str]:
    return [field.name for field in fields(kind)]


def _pair(word: str, text: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise RequestError(f"In the case {text!r} the word {word!r} is no setting: write name=value, such as threshold=0.1.")
    return key, value


def _sparse(settings: SparseSettings, schedule: Mapping[str, Any]) -> SparseSchedule:
    return SparseSchedule(settings=settings, low_noise=settings, **schedule)


def _cache(name: str, preset: str | None, changes: Mapping[str, Any], tables: Sequence[Path]) -> "NewCache":
    if name == "magcache":
        return _magcache(preset, changes, tables)
    settings = replace(_preset(DBCACHE_PRESETS, preset, DBCACHE_PRESETS["auto"]), **changes)
    return with_dbcache(settings) if name == "dbcache" else with_cache_dit(settings)


def _magcache(preset: str | None, changes: Mapping[str, Any], tables: Sequence[Path]) -> "Callable[[Generation], MagCache]":
    """The table's own settings, but for `changes`."""

    def make(generation: "Generation") -> MagCache:
        table: RatioTable = table_of(generation, tables)
        settings = replace(_preset(table.presets, preset, recommended(table)), **changes)
        return MagCache(generation.guidance.schedule, table, settings)

    return make


def _preset(presets: Mapping[str, Settings], name: str | None, default: Settings) -> Settings:
    if name is not None and name not in presets:
        raise RequestError(f"There is no preset {name!r}: {', '.join(presets) or 'this ratio table has none'}.")
    return default if name is None else presets[name]


def _value(kind: type, key: str, text: str) -> Any:
    """The value of a setting, read as the type that the setting has."""
    hint = get_type_hints(kind)[key]
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    types = [each for each in _READERS if each in hints]
    for each in types:
        try:
            return _READERS[each](text)
        except ValueError:
            continue
    if types:
        raise RequestError(f"{key}={text}: it must be {' or '.join(_WORDS[each] for each in reversed(types))}.")
    return text  # a name, which the settings check


def _none(text: str) -> None:
    if text != "none":
        raise ValueError(text)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _three(text: str) -> tuple[int, int, int]:
    time, height, width = map(int, text.split("x"))
    return time, height, width


_READERS: Mapping[Any, Callable[[str], Any]] = {
    type(None): _none, bool: _truth, int: int, float: float, tuple[int, int, int]: _three,
}  # fmt: skip
_WORDS: Mapping[Any, str] = {
    type(None): "none", bool: "true or false", int: "a whole number", float: "a number",
    tuple[int, int, int]: "three whole numbers, such as 4x4x4",
}  # fmt: skip
