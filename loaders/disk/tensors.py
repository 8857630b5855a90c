"""Tensors and what they belong to, in one safetensors file that is checked whole when it is read.

The header's metadata have one entry, `state`, which is JSON: `kind`, the file's name without its suffix, so that two
files cannot be taken for one another; `state`, a JSON object; and `checksum`, SHA-256 (hexadecimal) of

    the canonical JSON of [kind, state, [[name, dtype, shape] of each tensor]], then the bytes of each tensor,

tensors in the order of their names. So whichever byte of a file changes, it is refused or means the same.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from loaders.disk.content import CHECKSUM, canonical, find_file, parse_json
from loaders.errors import InputError, check_memory

STATE, KIND = "state", "kind"


def tensors_content(kind: str, state: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """The content of the file `kind`.safetensors. Raises ValueError for a state with numbers that are not finite."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = {KIND: kind, STATE: state, CHECKSUM: _checksum(kind, state, tensors)}
    return save(tensors, {STATE: json.dumps(content, allow_nan=False)})


def find_tensors(path: Path, cure: str) -> tuple[Any, dict[str, Tensor]] | None:
    """The state and the tensors of a file, None where there is none.

    Raises InputError where it cannot be read, is damaged or of another kind; the state is JSON of any form.
    """
    where, content = str(path), find_file(path, cure)
    if content is None:
        return None
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        check_memory(error)
        what = f"not readable as safetensors: it is damaged ({' '.join(str(error).split())[:200]})"
        raise InputError(where, what, cure) from error
    header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")], where, cure)
    metadata = header.get("__metadata__") or {}
    about = parse_json(metadata.get(STATE, "null"), where, cure)
    if not isinstance(about, dict) or set(about) != {KIND, STATE, CHECKSUM}:
        raise InputError(where, "holds no checksum: it is damaged, or written by an earlier version", cure)
    try:
        expected = _checksum(about[KIND], about[STATE], tensors)
    except ValueError as error:
        raise InputError(where, f"not readable: its state is damaged ({error})", cure) from error
    if about[CHECKSUM] != expected:
        raise InputError(where, "its checksum differs: the file is damaged", cure)
    if about[KIND] != path.stem:
        raise InputError(where, f"is a file of kind {about[KIND]!r} under another name", cure)
    return about[STATE], tensors


def _checksum(kind: Any, state: Any, tensors: dict[str, Tensor]) -> str:
    names = sorted(tensors)
    shapes = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    digest = hashlib.sha256(canonical([kind, state, shapes]))
    for name in names:
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
