"""Safetensors files: 8 bytes of length, a header of JSON, the values of the tensors."""

import json
import struct
from random import Random
from typing import Any

from tests.faults.harms.documents import harm_json


def harm_header(random: Random, content: bytes) -> tuple[bytes, str]:
    """The JSON header of a safetensors file, or a JSON document that is a text of its metadata."""
    header, tensors = _opened(content)
    metadata = header.get("__metadata__", {})
    texts = [name for name, text in metadata.items() if text[:1] == "{"]
    if texts and random.random() < 0.8:
        name = random.choice(texts)
        changed, what = harm_json(random, metadata[name].encode())
        metadata[name], what = changed.decode(), f"{name}{what}"
        return _closed(json.dumps(header).encode(), tensors), what
    changed, what = harm_json(random, json.dumps(header).encode())
    return _closed(changed, tensors), f"header{what}"


def harm_tensors(random: Random, content: bytes) -> tuple[bytes, str]:
    """One tensor of a safetensors file."""
    header, data = _opened(content)
    tensors = {
        name: [of["dtype"], of["shape"], data[of["data_offsets"][0] : of["data_offsets"][1]]]
        for name, of in header.items()
        if name != "__metadata__"
    }
    name, other = random.choice(list(tensors)), random.choice(list(tensors))
    dtype, shape, values = tensors[name]
    match random.choice(["nan", "zero", "noise", "remove", "add", "rename", "exchange", "shape", "type"]):
        case "nan":
            tensors[name][2] = (b"\xff\xff\xff\xff" + values[4:])[: len(values)]
            what = f"{name} begins with NaN"
        case "zero":
            tensors[name][2] = bytes(len(values))
            what = f"{name} is zero"
        case "noise":
            tensors[name][2] = random.randbytes(len(values))
            what = f"{name} is noise"
        case "remove":
            del tensors[name]
            what = f"{name} removed"
        case "add":
            tensors[f"{name}.new"] = [dtype, shape, values]
            what = f"{name}.new added"
        case "rename":
            tensors[f"{name}x"] = tensors.pop(name)
            what = f"{name} renamed"
        case "exchange":
            tensors[name], tensors[other] = tensors[other], tensors[name]
            what = f"{name} exchanged with {other}"
        case "shape":
            tensors[name][1] = [1, *shape] if random.random() < 0.5 else shape[::-1]
            what = f"{name} has the shape {tensors[name][1]}"
        case _:
            tensors[name][0] = {"F32": "I32", "F64": "I64", "I64": "F64", "I32": "F32"}.get(dtype, "U8")
            what = f"{name} is {tensors[name][0]}"
    head: dict[str, Any] = {"__metadata__": header["__metadata__"]} if "__metadata__" in header else {}
    body = b""
    for name, (dtype, shape, values) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(values)]}
        body += values
    return _closed(json.dumps(head).encode(), body), what


def _opened(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _closed(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data
