"""Quantised weights as they are stored: 1, 2 or 4 bits each, in memory and in a file.

A file is 8 bytes that name the format, the SHA-256 of everything behind it, the length of a JSON header (8 bytes, little
endian), the header, and the tensors one after the other. The header lists them by name with shape, type and, where a tensor is
packed, its levels; the other parameters and buffers are stored as they are. The scales of a packed tensor follow its codes; a
tensor that is stored under another name already has that name as `same` and no bytes. With the hash in front, any change is
noticed.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from .files import write_whole
from .levels import Levels

MAGIC = b"QTPACK1\n"
DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}
DTYPES |= {str(d).removeprefix("torch."): d for d in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)}
DTYPES["bool"] = torch.bool


def bits(levels: Levels) -> int:
    """Bits per weight: 1 for two levels, 2 for up to four, 4 for up to sixteen. Raises ValueError for more.

    >>> bits(Levels.binary()), bits(Levels.ternary()), bits(Levels.integers(bits=4))
    (1, 2, 4)
    """
    for b in (1, 2, 4):
        if len(levels.values) <= 2**b:
            return b
    raise ValueError(f"{len(levels.values)} levels do not fit into 4 bits; allowed are up to 16")


def pack(w: Tensor, levels: Levels, name: str = "the tensor", scale: Tensor | None = None) -> Tensor:
    """Weights that lie on the levels, as uint8 of shape (ceil(n * bits / 8),): the first weight in the lowest bits.

    scale: the weights lie on the levels times it, multiplied in its own precision; a number, or a shape that broadcasts.
    Raises ValueError, with the name, where a weight lies on no level.

    >>> pack(torch.tensor([1.0, -1.0, 1.0]), Levels.binary()).tolist() == [0b101]
    True
    """
    b = bits(levels)
    w = w.detach().cpu().contiguous()
    codes = levels.cell(w if scale is None else w.to(scale.dtype) / scale.cpu())
    off = _values(codes, levels, w.dtype, scale) != w  # NaN, too
    if off.any():
        raise ValueError(
            f"{name}: {int(off.sum())} of {w.numel()} weights lie on no level, the first is {w[off][0]:.9g}; the levels are "
            f"{levels.values}{'' if scale is None else ' times a scale'} (pack what `finish` returns, or inside "
            "`with optimizer.quantized():`)"
        )
    codes = codes.flatten().to(torch.uint8)
    per_byte = 8 // b
    codes = torch.nn.functional.pad(codes, (0, -len(codes) % per_byte)).view(-1, per_byte)
    packed = torch.zeros(len(codes), dtype=torch.uint8)
    for i in range(per_byte):
        packed |= codes[:, i] << (b * i)
    return packed


def _values(codes: Tensor, levels: Levels, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
    """The weights whose levels have the numbers `codes`."""
    if scale is None:
        return torch.tensor(levels.values, dtype=dtype)[codes]
    return (scale.cpu() * torch.tensor(levels.values, dtype=scale.dtype)[codes]).to(dtype)


def unpack(
    packed: Tensor,
    levels: Levels,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    scale: Tensor | None = None,
) -> Tensor:
    """The weights of `shape` that `pack` took, exactly. Raises ValueError where the bytes cannot be those of such weights.

    >>> unpack(torch.tensor([0b101], dtype=torch.uint8), Levels.binary(), shape=(3,)).tolist()
    [1.0, -1.0, 1.0]
    """
    b, n = bits(levels), torch.Size(shape).numel()
    if packed.dtype != torch.uint8 or packed.shape != (-(-n * b // 8),):
        raise ValueError(
            f"weights of shape {tuple(shape)} in {b} bits are {-(-n * b // 8)} bytes, got {packed.dtype} {tuple(packed.shape)}"
        )
    codes = torch.stack([(packed >> (b * i)) & (2**b - 1) for i in range(8 // b)], dim=1).flatten()[:n].long()
    if n and int(codes.max()) >= len(levels.values):
        raise ValueError(f"the bytes hold the code {int(codes.max())}, but there are only {len(levels.values)} levels")
    return _values(codes.view(shape), levels, dtype, scale)


def _bytes(t: Tensor) -> bytes:
    t = t.detach().cpu().contiguous()
    return ctypes.string_at(t.data_ptr(), t.numel() * t.element_size())  # torch's own way needs numpy


def save(path: str | Path, model: nn.Module, groups: Iterable[dict] | None = None) -> int:
    """Write parameters and buffers of a model to one file, quantised ones packed; returns its size in bytes.

    model: what `finish` returned; or any, with the optimizer's parameter groups, each with `quantize` (default True, as in
    `QuantizedOptimizer`) and `levels`, inside `with optimizer.quantized():`. Raises ValueError, with the parameter's name,
    where a weight lies on no level, and where a quantised group has no levels or parameters that are not the model's; then
    nothing is written.

    >>> model, path = nn.Linear(1024, 8, bias=False), tempfile.mkdtemp() + "/model.qt"
    >>> optimizer = QuantizedOptimizer(torch.optim.SGD(model.parameters()), BinaryConnect(Levels.binary()))
    >>> size = packing.save(path, finish(model, optimizer))
    >>> size < 4 * 1024 * 8 / 25  # 1 bit instead of 32, and a header
    True
    """
    names = {p: name for name, p in model.named_parameters()}
    known: dict[Tensor, tuple[Levels, Tensor | None]] = {}
    if groups is None:
        if not hasattr(model, "quantization"):
            raise ValueError("pack what `finish` returned, or name the optimizer's groups: save(path, model, groups)")
        known = {p: model.quantization[name] for p, name in names.items() if name in model.quantization}
    for group in groups or ():
        for p in group["params"]:
            if p not in names:
                raise ValueError(f"a group has a parameter of shape {tuple(p.shape)} that is not one of the model's")
            if group.get("quantize", True):
                if not isinstance(group.get("levels"), Levels):
                    raise ValueError(f"{names[p]}: its group is quantised and has no levels")
                known[p] = (group["levels"], None)
    header, payload, first = [], [], {}
    for name, t in model.state_dict(keep_vars=True).items():
        dtype = str(t.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise ValueError(f"{name}: tensors of type {dtype} cannot be stored; allowed are {', '.join(DTYPES)}")
        levels, scale = known.get(t, (None, None))
        entry = {"name": name, "shape": list(t.shape), "dtype": dtype, "bytes": 0}
        header.append(entry)
        if t in first:
            entry["same"] = first[t]
            continue
        first[t] = name
        data = _bytes(pack(t, levels, name, scale) if levels else t)
        if levels:
            entry["levels"] = levels.values
        if scale is not None:
            entry["scale"] = [list(scale.shape), str(scale.dtype).removeprefix("torch.")]
            data += _bytes(scale)
        entry["bytes"] = len(data)
        payload.append(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    body = b"".join([len(head).to_bytes(8, "little"), head, *payload])
    content = MAGIC + hashlib.sha256(body).digest() + body
    write_whole(Path(path), content)
    return len(content)


def contents(path: str | Path) -> list[dict]:
    """What a file holds, tensor by tensor: name, shape, dtype, bytes, `data` (uint8), where packed `levels`, where scaled
    `scale`, and `same`, the name under which a shared tensor is stored.

    Raises ValueError naming a file that is damaged or no such file.

    >>> path, model = tempfile.mkdtemp() + "/model.qt", nn.Linear(3, 2)
    >>> size = save(path, model, groups=[])  # nothing quantised, nothing packed
    >>> [(entry["name"], entry["shape"], entry["bytes"]) for entry in contents(path)]
    [('weight', (2, 3), 24), ('bias', (2,), 8)]
    """
    raw = Path(path).read_bytes()
    if raw[:8] != MAGIC:
        raise ValueError(f"{path} is no file of packed weights: it starts with {raw[:8]!r}, expected {MAGIC!r}")
    digest, body = raw[8:40], raw[40:]
    found = hashlib.sha256(body).digest()
    if found != digest:
        raise ValueError(
            f"{path} is damaged or partial: the SHA-256 of its {len(body):,} bytes is {found.hex()}, expected {digest.hex()}"
        )
    start = 8 + int.from_bytes(body[:8], "little")
    entries = json.loads(body[8:start])
    data = torch.frombuffer(bytearray(body[start:]), dtype=torch.uint8) if body[start:] else torch.empty(0).byte()
    for entry, part in zip(entries, data.split([entry["bytes"] for entry in entries]), strict=True):
        entry["data"] = part
        entry["shape"] = tuple(entry["shape"])
        if "levels" in entry:
            entry["levels"] = Levels(tuple(entry["levels"]))
        if "scale" in entry:
            (shape, dtype), size = entry["scale"], torch.Size(entry["scale"][0]).numel()
            entry["data"], tail = part.split([len(part) - size * DTYPES[dtype].itemsize, size * DTYPES[dtype].itemsize])
            entry["scale"] = tail.clone().view(DTYPES[dtype]).reshape(shape)
    return entries


def load(path: str | Path) -> dict[str, Tensor]:
    """The state_dict of the model that `save` wrote, exactly as it was: `model.load_state_dict(packing.load(path))`.

    Raises ValueError naming a file that is damaged.

    >>> path, model = tempfile.mkdtemp() + "/model.qt", nn.Linear(3, 2)
    >>> size = save(path, model, groups=[])
    >>> torch.equal(load(path)["weight"], model.weight)
    True
    """
    state = {}
    for entry in contents(path):
        dtype = DTYPES[entry["dtype"]]
        if "same" in entry:
            state[entry["name"]] = state[entry["same"]]
        elif "levels" in entry:
            state[entry["name"]] = unpack(entry["data"], entry["levels"], entry["shape"], dtype, entry.get("scale"))
        else:
            state[entry["name"]] = entry["data"].clone().view(dtype).reshape(entry["shape"])
    return state
