"""A file from which a run goes on: written whole or not at all, read back checked, and refused by a run with other settings."""

from __future__ import annotations

import hashlib
import io
from dataclasses import is_dataclass
from pathlib import Path

import torch
from torch import Tensor

from quantized_training.constraints import Constraint
from quantized_training.files import write_whole
from quantized_training.methods import Method

MAGIC = b"QTRUN01\n"


def write(path: Path, state: dict, settings: dict[str, str]) -> None:
    """Write tensors, numbers and texts in dicts and lists. The file is made beside its place and moved there at the end."""
    buffer = io.BytesIO()
    torch.save({"settings": settings, "state": state}, buffer)
    body = buffer.getbuffer()
    write_whole(path, MAGIC + hashlib.sha256(body).digest(), body)


def read(path: Path, settings: dict[str, str]) -> dict:
    """The state, with tensors on the CPU. Raises ValueError for a damaged file, and for other settings, saying which."""
    raw = path.read_bytes()
    if raw[:8] != MAGIC or hashlib.sha256(raw[40:]).digest() != raw[8:40]:
        raise ValueError(f"{path} is a damaged checkpoint or none at all; remove it to start again")
    found = torch.load(io.BytesIO(raw[40:]), map_location="cpu", weights_only=True)
    there = found["settings"]
    different = [
        f"{key} is {there.get(key)} there, {settings.get(key)} here"
        for key in settings | there
        if there.get(key) != settings.get(key)
    ]
    if different:
        raise ValueError(f"{path} belongs to a run with other settings: {'; '.join(different)}")
    return found["state"]


def words(value: object) -> str:
    """A setting in words that are the same in every process; a plain function gives its name."""
    if isinstance(value, Constraint):
        return value.name
    if isinstance(value, Method):
        return f"{type(value).__name__}({', '.join(f'{k}={words(v)}' for k, v in vars(value).items())})"
    if isinstance(value, torch.Generator):
        return f"seed {value.initial_seed()}"
    if callable(value) and not is_dataclass(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return repr(value)


def digest(*tensors: Tensor) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the tensors' values."""
    found = hashlib.sha256()
    for t in tensors:
        found.update(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:12]
