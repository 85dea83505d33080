"""Files that are not what they were: torn downloads, lying headers, tensors of another network."""

import json
import random
import struct
from collections.abc import Callable, Mapping
from typing import Any

Bytes = Callable[[bytes, random.Random], bytes]
Header = dict[str, Any]


def split(content: bytes) -> tuple[Header, bytes]:
    """A safetensors file: its header, and the tensors behind it."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensors(header: Header) -> list[str]:
    return [name for name in header if name != "__metadata__"]


def of_header(change: Callable[[Header, random.Random], Any]) -> Bytes:
    """change: alters the header in place, or gives another one."""

    def damaged(content: bytes, chance: random.Random) -> bytes:
        header, data = split(content)
        other = change(header, chance)
        return joined(header if other is None else other, data)

    return damaged


def _offsets_beyond(header: Header, chance: random.Random) -> None:
    entry = header[chance.choice(tensors(header))]
    entry["data_offsets"] = [offset + 10**9 for offset in entry["data_offsets"]]


def _offsets_overlap(header: Header, chance: random.Random) -> None:
    names = tensors(header)
    a, b = (header[name] for name in chance.sample(names, 2)) if len(names) > 1 else (header[names[0]],) * 2
    a["data_offsets"] = [b["data_offsets"][0] + 1, b["data_offsets"][1] + 1]


def _entry(key: str, values: list[Any]) -> Callable[[Header, random.Random], None]:
    def change(header: Header, chance: random.Random) -> None:
        header[chance.choice(tensors(header))][key] = chance.choice(values)

    return change


def _renamed(header: Header, chance: random.Random) -> None:
    name = chance.choice(tensors(header))
    header[f"{name}.renamed"] = header.pop(name)


def _foreign(header: Header, _: random.Random) -> None:
    for name in tensors(header):
        header[f"somebody.elses.{len(header)}.{name.rsplit('.', 1)[-1]}"] = header.pop(name)


def _other_shape(header: Header, chance: random.Random) -> None:
    """Of as many values."""
    entry = header[chance.choice([name for name in tensors(header) if header[name]["shape"]])]
    entry["shape"] = [*entry["shape"], 1] if chance.random() < 0.5 else [1, *entry["shape"]]


def _other_dtype(header: Header, chance: random.Random) -> None:
    """Of as many bytes."""
    same = {"F32": "I32", "F16": "I16", "BF16": "U16", "F8_E4M3": "I8", "F64": "I64"}
    named = [name for name in tensors(header) if header[name]["dtype"] in same]
    entry = header[chance.choice(named)]
    entry["dtype"] = same[entry["dtype"]]


def _metadata(values: list[Any]) -> Callable[[Header, random.Random], None]:
    def change(header: Header, chance: random.Random) -> None:
        told = header.get("__metadata__") or {"config": "{}"}
        header["__metadata__"] = dict.fromkeys(told, chance.choice(values))

    return change


SPARE = ("scale_input", "input_scale")
"""What only float8 products of activations would read."""


def without(part: str) -> Bytes:
    """The file without the tensors of such names, all other bytes where they belong."""

    def damaged(content: bytes, chance: random.Random) -> bytes:
        header, data = split(content)
        named = [name for name in tensors(header) if part in name and not name.endswith(SPARE)]
        gone = set(named if part else [chance.choice(named)])
        kept, parts = {name: dict(header[name]) for name in tensors(header) if name not in gone}, []
        at = 0
        for name in sorted(kept, key=lambda name: header[name]["data_offsets"]):
            first, last = header[name]["data_offsets"]
            parts.append(data[first:last])
            kept[name]["data_offsets"] = [at, at := at + last - first]
        meta = {"__metadata__": header["__metadata__"]} if "__metadata__" in header else {}
        return joined(meta | kept, b"".join(parts))

    return damaged


def _not_finite(content: bytes, chance: random.Random) -> bytes:
    """Bytes of a part of the tensors: NaN in most number formats."""
    header, data = split(content)
    at = chance.randrange(max(1, len(data) - 4096))
    return joined(header, data[:at] + b"\xff" * min(4096, len(data) - at) + data[at + 4096 :])


def _random_bytes(content: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(min(len(content), 10_000))


def _torn(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(1, len(content))]


def _other_length(content: bytes, chance: random.Random) -> bytes:
    return struct.pack("<Q", chance.choice([0, 1, 17, len(content), 2**31, 2**63])) + content[8:]


ANY: Mapping[str, Bytes] = {
    "torn": _torn, "empty": lambda content, chance: b"", "random bytes": _random_bytes,
    "a web page": lambda content, chance: b"<html><body>Sign in to download</body></html>",
    "a pickle": lambda content, chance: b"\x80\x02cos\nsystem\nq\x00.",
    "a zip": lambda content, chance: b"PK\x03\x04" + content[4:],
}  # fmt: skip
"""To any file."""

SAFETENSORS: Mapping[str, Bytes] = {
    "length of the header wrong": _other_length,
    "header is not JSON": of_header(lambda header, chance: json.dumps(header).encode()[:-1] + b"]"),
    "header is a list": of_header(lambda header, chance: []),
    "header is deep": of_header(lambda header, chance: b'{"a":' * 50_000),
    "offsets beyond the end": of_header(_offsets_beyond), "offsets overlap": of_header(_offsets_overlap),
    "shape that no memory holds": of_header(_entry("shape", [[2**40, 2**20], [-1], [0], "wide", None])),
    "dtype that does not exist": of_header(_entry("dtype", ["F7", "", None, 3])),
    "a tensor renamed": of_header(_renamed), "a tensor missing": without(""), "foreign keys": of_header(_foreign),
    "a tensor of another shape": of_header(_other_shape), "a tensor of whole numbers": of_header(_other_dtype),
}  # fmt: skip
LIES = ["", "{", "[]", '{"transformer": {"num_heads": 0, "text_dim": -1}}', "7" * 9999]
SUBTLE: Mapping[str, Bytes] = {
    "values that are not finite": _not_finite,
    "metadata that lies": of_header(_metadata(LIES)),
}  # fmt: skip
"""A run may bear these."""


def _json(change: Callable[[Any, random.Random], Any]) -> Bytes:
    def damaged(content: bytes, chance: random.Random) -> bytes:
        value = json.loads(content)
        return json.dumps(change(value, chance)).encode()

    return damaged


def _without_key(value: Any, chance: random.Random) -> Any:
    return {key: entry for key, entry in value.items() if key != chance.choice(sorted(value))}


def _other_value(value: Any, chance: random.Random) -> Any:
    other = [None, "text", -1, [], {}, 1e308, float("nan"), [[]], "三条腿"]
    return {**value, chance.choice(sorted(value)): chance.choice(other)}


JSON: Mapping[str, Bytes] = {
    "a list": _json(lambda value, chance: [value]), "deep": lambda content, chance: b"[" * 100_000,
    "not UTF-8": lambda content, chance: b"\xff\xfe" + content,
}  # fmt: skip
JSON_VALUES: Mapping[str, Bytes] = {"a key missing": _json(_without_key), "another value": _json(_other_value)}
"""A file may bear these: of keys that nothing reads."""


def _huge(content: bytes, chance: random.Random) -> bytes:
    """A PNG whose header tells of a picture that no memory holds."""
    return content[:16] + struct.pack(">II", 2**30, 2**30) + content[24:]


def _flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(20):
        changed[chance.randrange(8, len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


PICTURES: Mapping[str, Bytes] = {"a picture too large": _huge, "bytes flipped": _flipped}
