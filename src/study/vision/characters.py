"""A small causal transformer on the characters of Penn Treebank, its matrices ternary with one scale each.

Four blocks of width 128 with 4 heads, root-mean-square normalisation before each matrix, 0.8 million weights, of which the
matrices of the blocks are quantised; embeddings, the last layer and normalisation are real, as in BitNet b1.58 (Ma et al.,
2024). A matrix w is s v, s the mean of |w| at the start and fixed but in the methods with scales of their own; v is rounded to
-1, 0, 1. All parameters are trained by Adam; v at the learning rate and epsilon over s, so that s v moves as w would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.utils import parametrize

from quantized_training import layers
from quantized_training.constraints import PHI, PSI
from quantized_training.levels import Levels
from quantized_training.methods import BinaryConnect, FullPrecision, Method, ProxQuant, StraightThrough
from quantized_training.optimizer import QuantizedOptimizer
from quantized_training.schedules import Cosine, Linear

from ..datasets import text
from ..results import Value
from . import checkpoints, rivals, tuned
from .tuned import Kind, Setting, Start

TERNARY = Levels.ternary()
CONTEXT, BATCH, ROUNDS, STEPS = 128, 8, 20, 40  # characters, pieces; rounds of steps between two scores
BETAS = (0.9, 0.95)


@cache
def data(folder: str | None = None) -> tuple[tuple[Tensor, Tensor, Tensor], str]:
    """Training, validation and test characters as places in a string of all kinds, and that string. A line ends with its own
    character, a word outside the vocabulary is one, a space follows each word. Raises as `text.load`."""
    found = text.load(folder, progress=False)
    special = {"<eos>": "\n", "<unk>": "\0"}
    words = [special.get(w, w) for w in found.words]
    parts = ["".join(words[i] + ("" if words[i] == "\n" else " ") for i in part.tolist()) for part in
             (found.train, found.valid, found.test)]  # fmt: skip
    kinds = "".join(sorted(set(parts[0])))
    place = {c: i for i, c in enumerate(kinds)}
    return tuple(torch.tensor([place[c] for c in part]) for part in parts), kinds


class Block(nn.Module):
    """Attention and a network of one hidden layer, each on the normalised input and added to it: (n, T, width) -> same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, length, width)
        x = x + self.out(y)
        return x + self.down(self.up(self.norms[1](x)).relu().square())


class Transformer(nn.Module):
    """Characters (n, T), T up to `context` -> logits of the next ones (n, T, kinds)."""

    def __init__(self, kinds: int, width: int = 128, heads: int = 4, blocks: int = 4, context: int = CONTEXT) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(kinds, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.linear = nn.RMSNorm(width), nn.Linear(width, kinds)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embedding(x) + self.place.weight[: x.shape[1]]
        return self.linear(self.norm(self.blocks(y)))


def scaled(model: Transformer) -> list[tuple[nn.Parameter, float]]:
    """Write each matrix of the blocks as s v; v and s of each, s the mean of |w|."""
    found = []
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            s = float(module.weight.detach().abs().mean())
            parametrize.register_parametrization(module, "weight", layers.Scale(s, module.weight))
            found.append((module.parametrizations.weight.original, s))
    return found


# Methods: as for images, the constants of the rates apart


def _settings(rates: Sequence[float], **constants: Sequence[float]) -> tuple[Setting, ...]:
    return tuned._settings(rates, **constants)


RATES = (3e-4, 6e-4, 1.2e-3, 2.5e-3, 5e-3, 1e-2)
THREE = (6e-4, 2e-3, 6e-3)
METHODS = {
    "Full precision": Kind(
        lambda start: FullPrecision(start.levels), _settings(THREE, weight_decay=(0.0, 0.1)), "Adam, decoupled decay"
    ),
    "BinaryConnect": Kind(lambda start: BinaryConnect(start.levels, seed=start.seed), _settings(RATES), ""),
    "BinaryConnect, deterministic": Kind(
        lambda start: BinaryConnect(start.levels, stochastic=False), _settings(RATES), ""
    ),
    "Straight-through": Kind(lambda start: StraightThrough(start.levels), _settings(RATES), ""),
    "ProxQuant (L1)": Kind(
        lambda start, strength: ProxQuant(start.levels, Linear(strength / start.epochs)),
        _settings(THREE, strength=(0.02, 0.1)),
        "",
    ),
    "ProxQuant, own schedule": Kind(tuned._frozen, _settings(THREE, last=(0.002, 0.01)), ""),
    "ASkewSGD": Kind(partial(tuned._askew, PSI), _settings(THREE, begin=(0.5, 0.75)), ""),
    "Modified ASkewSGD": Kind(partial(tuned._askew, PHI), _settings(THREE, begin=(0.5, 0.75)), ""),
    "SGDA": Kind(tuned._sgda, _settings(THREE, dual_max=(0.02, 0.1)), ""),
    "LSQ": Kind(
        lambda start, step_rate: rivals.LSQ(start.levels, step_rate, adam=BETAS),
        _settings(THREE, step_rate=(0.01, 0.1)),
        "",
        own_scales=True,
    ),
    "PARQ": Kind(tuned._parq, _settings(THREE, steepness=(1.0, 10.0)), "", own_scales=True),
    "BinaryRelax": Kind(tuned._binary_relax, _settings(THREE, end=(0.75, 0.95)), "", own_scales=True),
    "BitNet b1.58": Kind(lambda start: rivals.BitNet(start.levels), _settings(RATES), "", own_scales=True),
}


# Training


@dataclass(frozen=True)
class Length:
    """How long a run is and how wide its network; smaller in the tests. scored: characters after a round, after the last
    one forty times as many."""

    rounds: int = ROUNDS
    steps: int = STEPS
    width: int = 128
    blocks: int = 4
    scored: int = 5_000


@torch.no_grad()
def measure(model: nn.Module, x: Tensor) -> float:
    """Bits per character of the model on a text, cut into pieces of `CONTEXT`, of each of which the first is given."""
    x = x[: len(x) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    sums = [cross_entropy(model(p[:, :-1]).flatten(0, 1), p[:, 1:].flatten(), reduction="sum") for p in x.split(64)]
    return float(torch.stack(sums).double().sum()) / (len(x) * (CONTEXT - 1)) / math.log(2)


def train(
    method: str,
    setting: Setting,
    seed: int,
    parts: tuple[Tensor, Tensor],
    kinds: int,
    checkpoint: Path | None = None,
    length: Length | None = None,
) -> list[dict[str, Value]]:
    """Train one network on parts[0]: for each round its loss and the bits per character of parts[1] with the latent and with
    the rounded weights. A gradient that is not finite ends the run, its last row holds NaN. checkpoint: written after each
    round; a run goes on from there."""
    how, kind, (training, scored) = length or Length(), METHODS[method], parts
    constants = dict(setting.constants)
    decay, total = constants.pop("weight_decay", 0.0), how.rounds * how.steps
    start, record = Start(TERNARY, how.rounds, total, len(training), seed), []
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = Transformer(kinds, how.width, blocks=how.blocks)
        groups = [{"params": [v], "quantize": True, "levels": TERNARY, "factor": 1 / s} for v, s in scaled(model)]
        ours = {id(g["params"][0]) for g in groups}
        rest = [p for p in model.parameters() if id(p) not in ours]
        groups.append({"params": rest, "quantize": False, "factor": 1.0})
        for g in groups:  # torch's decay is the learning rate times w: of s v as of w
            g["weight_decay"] = decay / g["factor"] if g["quantize"] else 0.0
            g["eps"] = 1e-8 * g["factor"]  # beside the gradient, which is that of w over s
        rule: Method = kind.make(start, **constants)
        around: Callable = getattr(rule, "optimizer", QuantizedOptimizer)
        optimizer = around(torch.optim.AdamW(groups, lr=setting.lr, betas=BETAS), rule)
        draws, rate = torch.Generator().manual_seed(seed), Cosine(setting.lr, total)
        settings = {"run": f"{method}, {setting}, seed {seed}, {how}"}
        if checkpoint and checkpoint.exists():
            state = checkpoints.read(checkpoint, settings)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            draws.set_state(state["draws"])
            record = state["record"]
        while len(record) < how.rounds and not (record and math.isnan(record[-1]["loss"])):
            losses = []
            try:
                for k in range(len(record) * how.steps, (len(record) + 1) * how.steps):
                    for g in optimizer.param_groups:
                        g["lr"] = rate(k) * min(1.0, (k + 1) / (0.05 * total)) * g["factor"]
                    i = torch.randint(len(training) - CONTEXT, (BATCH, 1), generator=draws) + torch.arange(CONTEXT + 1)
                    x = training[i]
                    loss = cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.detach())
            except FloatingPointError:
                losses = [torch.tensor(math.nan)]
            row = {"round": len(record) + 1, "loss": torch.stack(losses).double().mean().item() / math.log(2)}
            if math.isnan(row["loss"]):
                record.append(row | {"latent_bits": math.nan, "quantised_bits": math.nan})
                break
            much = how.scored * (40 if row["round"] == how.rounds else 1)
            with optimizer.latent():
                row["latent_bits"] = measure(model, scored[:much])
            with optimizer.quantized():
                row["quantised_bits"] = measure(model, scored[:much])
            record.append(row)
            optimizer.method.anneal()
            if checkpoint:
                checkpoint.parent.mkdir(parents=True, exist_ok=True)
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                checkpoints.write(checkpoint, state | {"draws": draws.get_state(), "record": record}, settings)
    return record
