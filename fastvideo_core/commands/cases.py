"""A case of a comparison as a person writes it: "magcache threshold=0.12 max_skips=2", "cache-dit performance", "gate=0.5"."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

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
OF_REQUEST = ("steps", "shift", "guidance_scale", "low_noise_guidance_scale", "solver")
OF_GUIDANCE = {"guidance_mode": "mode", "gate": "gate", "rescale": "rescale"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What an accelerated generation does differently. text: as written."""

    text: str
    request: Mapping[str, Any]
    guidance: Mapping[str, Any]
    cache: "NewCache | None"

    def changed(self, request: SamplingRequest) -> SamplingRequest:
        """Raises RequestError where the result contradicts itself."""
        return replace(request, **self.request, guidance=replace(request.guidance, **self.guidance))


def read_case(text: str, tables: Sequence[Path] = ()) -> Case:
    """tables: folders with calibrated ratio tables.

    Raises:
        RequestError: a word is no setting, or a value none of it.
    """
    words = text.split()
    name = words.pop(0) if words and words[0] in CACHES else None
    preset = words.pop(0) if name is not None and words and "=" not in words[0] else None
    pairs = dict(_pair(word, text) for word in words)
    request = {key: _value(SamplingRequest, key, pairs.pop(key)) for key in OF_REQUEST if key in pairs}
    guidance = {key: _value(GuidanceSettings, key, pairs.pop(word)) for word, key in OF_GUIDANCE.items() if word in pairs}
    known = [] if name is None else [field.name for field in fields(CACHES[name])]
    unknown = [key for key in pairs if key not in known]
    if unknown or not text.split():
        wrong = f"sets {unknown[0]}, which there is not" if unknown else "is empty"
        raise RequestError(
            f"The case {text!r} {wrong}. It may begin with {', '.join(CACHES)}, and sets any of: "
            f"{', '.join([*known, *OF_REQUEST, *OF_GUIDANCE])}."
        )
    return Case(text=text, request=request, guidance=guidance, cache=_cache(name, preset, pairs, tables))


def _pair(word: str, text: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise RequestError(f"In the case {text!r} the word {word!r} is no setting: write name=value, such as threshold=0.1.")
    return key, value


def _cache(name: str | None, preset: str | None, pairs: Mapping[str, str], tables: Sequence[Path]) -> "NewCache | None":
    if name is None:
        return None
    changes = {key: _value(CACHES[name], key, value) for key, value in pairs.items()}
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
    types = [each for each in _READERS if each is hint or each in get_args(hint)]
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


_READERS: Mapping[type, Callable[[str], Any]] = {type(None): _none, bool: _truth, int: int, float: float}
_WORDS: Mapping[type, str] = {type(None): "none", bool: "true or false", int: "a whole number", float: "a number"}
