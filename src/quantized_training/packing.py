"""Quantised weights as they are stored: 1, 2 or 4 bits each, in memory and in a file.
A file is 8 bytes that name the format, the SHA-256 of what follows, and what torch.save made of `entries` (see `contents`) and
of `data`, the bytes of all tensors one after the other."""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from .files import write_whole
from .levels import Levels

MAGIC = b"QTPACK2\n"


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
    scale: the weights lie on the levels times it, in its precision; it broadcasts. ValueError where one lies on no level.
    >>> pack(torch.tensor([1.0, -1.0, 1.0]), Levels.binary()).tolist() == [0b101]
    True
    """
    b = bits(levels)
    w = w.detach().cpu().contiguous()
    codes = levels.cell(w if scale is None else w.to(scale.dtype) / scale.cpu())
    off = _values(codes, levels, w.dtype, scale) != w  # NaN, too
    if off.any():
        what = f"{name}: {int(off.sum())} of {w.numel()} weights lie on no level, the first is {w[off][0]:.9g}"
        how = "pack what `finish` returns, or inside `with optimizer.quantized():`"
        raise ValueError(f"{what}; the levels are {levels.values} ({how})")
    codes = codes.flatten().to(torch.uint8)
    codes = nn.functional.pad(codes, (0, -len(codes) % (8 // b))).view(-1, 8 // b)
    return (codes << torch.arange(0, 8, b, dtype=torch.uint8, device="cpu")).sum(1, dtype=torch.uint8)


def _values(codes: Tensor, levels: Levels, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
    """The weights whose levels have the numbers `codes`."""
    if scale is None:
        return torch.tensor(levels.values, dtype=dtype, device="cpu")[codes]
    return (scale.cpu() * torch.tensor(levels.values, dtype=scale.dtype, device="cpu")[codes]).to(dtype)


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
    size = -(-n * b // 8)
    if packed.dtype != torch.uint8 or packed.shape != (size,):
        found = f"{packed.numel()} {packed.dtype}"
        raise ValueError(f"weights of shape {tuple(shape)} in {b} bits are {size} bytes, not {found}")
    codes = (packed[:, None] >> torch.arange(0, 8, b, device="cpu") & (2**b - 1)).flatten()[:n]
    if n and int(codes.max()) >= len(levels.values):
        raise ValueError(f"the bytes hold the code {int(codes.max())}, but there are only {len(levels.values)} levels")
    return _values(codes.view(shape), levels, dtype, scale)


def save(path: str | Path, model: nn.Module, groups: Iterable[dict] | None = None) -> int:
    """Write parameters and buffers of a model to one file, quantised ones packed; returns its size in bytes.
    model: what `finish` returned; or any, with the optimizer's parameter groups, inside `with optimizer.quantized():`. Raises
    ValueError, and writes nothing, where a weight lies on no level or a quantised group has no levels or foreign parameters.
    >>> model, path = nn.Linear(1024, 64, bias=False), tempfile.mkdtemp() + "/model.qt"
    >>> optimizer = QuantizedOptimizer(torch.optim.SGD(model.parameters()), BinaryConnect(Levels.binary()))
    >>> size = packing.save(path, finish(model, optimizer))
    >>> size < 4 * 1024 * 64 / 25  # 1 bit instead of 32, and a header
    True
    """
    names = {p: name for name, p in model.named_parameters()}
    known: dict[Tensor, tuple[Levels, Tensor | None]] = {}
    if groups is None:
        if not hasattr(model, "quantization"):
            raise ValueError("pack what `finish` returned, or name the optimizer's groups: save(path, model, groups)")
        known = {model.get_parameter(name): found for name, found in model.quantization.items()}
    for group in groups or ():
        for p in group["params"]:
            if p not in names:
                raise ValueError(f"a group has a parameter of shape {tuple(p.shape)} that is not one of the model's")
            if group.get("quantize", True):
                if not isinstance(group.get("levels"), Levels):
                    raise ValueError(f"{names[p]}: its group is quantised and has no levels")
                known[p] = (group["levels"], None)
    entries, parts, first = [], [torch.empty(0, dtype=torch.uint8, device="cpu")], {}
    for name, t in model.state_dict(keep_vars=True).items():
        if not isinstance(t, Tensor):
            raise ValueError(f"{name} of the model's state is no tensor: write a .pt file, which holds any state")
        entry = {"name": name, "shape": tuple(t.shape), "dtype": t.dtype, "bytes": 0}
        entries.append(entry)
        if t in first:
            entry["same"] = first[t]
            continue
        first[t], kept = name, t
        if t in known:
            levels, scale = known[t]
            kept = pack(t, levels, name, scale)
            entry |= {"levels": levels.values} | ({} if scale is None else {"scale": scale.cpu()})
        parts.append(kept.detach().cpu().reshape(-1).view(torch.uint8))
        entry["bytes"] = len(parts[-1])
    torch.save({"entries": entries, "data": torch.cat(parts)}, body := io.BytesIO())
    write_whole(Path(path), MAGIC, hashlib.sha256(body.getbuffer()).digest(), body.getbuffer())
    return Path(path).stat().st_size


def contents(path: str | Path) -> list[dict]:
    """What a file holds, tensor by tensor: name, shape, dtype, bytes, `tensor`, where it is packed `levels` (and `scale`), and
    `same`, the name under which a shared tensor is stored (no bytes). Raises ValueError for a damaged file.
    >>> size = save(path := tempfile.mkdtemp() + "/model.qt", nn.Linear(3, 2), groups=[])  # nothing quantised, nothing packed
    >>> [(entry["name"], entry["shape"], entry["bytes"]) for entry in contents(path)]
    [('weight', (2, 3), 24), ('bias', (2,), 8)]
    """
    raw = Path(path).read_bytes()
    if raw[:8] != MAGIC:
        raise ValueError(f"{path} is no file of packed weights: it starts with {raw[:8]!r}, expected {MAGIC!r}")
    if hashlib.sha256(body := raw[40:]).digest() != raw[8:40]:
        raise ValueError(f"{path} is damaged or partial: its {len(body):,} bytes have another SHA-256 than it says")
    found, known = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True), {}
    for e, data in zip(found["entries"], found["data"].split([e["bytes"] for e in found["entries"]]), strict=True):
        if "same" in e:
            e["tensor"] = known[e["same"]]
        elif "levels" in e:
            scale, e["levels"] = e.get("scale"), Levels(e["levels"])
            e["bytes"] += 0 if scale is None else scale.nbytes
            e["tensor"] = unpack(data, e["levels"], e["shape"], e["dtype"], scale)
        else:
            e["tensor"] = data.clone().view(e["dtype"]).reshape(e["shape"])
        known[e["name"]] = e["tensor"]
    return found["entries"]


def load(path: str | Path) -> dict[str, Tensor]:
    """The state_dict that `save` wrote, exactly, for `model.load_state_dict(packing.load(path))`; raises as `contents`.
    >>> size = save(path := tempfile.mkdtemp() + "/model.qt", model := nn.Linear(3, 2), groups=[])
    >>> torch.equal(load(path)["weight"], model.weight)
    True
    """
    return {entry["name"]: entry["tensor"] for entry in contents(path)}
