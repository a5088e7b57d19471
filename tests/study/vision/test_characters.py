"""The transformer on characters: causal, sized as stated, ternary, the same whatever the scale, resumed exactly, its score."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from helpers import real_data
from study import experiments
from study.datasets import text
from study.experiments import characters_tuning
from study.vision import characters, checkpoints
from study.vision.characters import CONTEXT, METHODS, Length, Setting, Transformer

SHORT = Length(3, 4, 16, 1, 600)
KINDS = 5


def letters(n: int = 3000) -> torch.Tensor:
    """Each mostly follows from the one before."""
    g = torch.Generator().manual_seed(0)
    noise = torch.where(torch.rand(n, generator=g) < 0.2, torch.randint(KINDS, (n,), generator=g), 0)
    return (torch.arange(n) * 2 + noise) % KINDS


def train(method: str, k: int = 1, **how):
    return characters.train(method, METHODS[method].settings[k], 0, (letters(), letters()), KINDS, length=SHORT, **how)


def test_the_network_has_the_stated_size_and_sees_no_future():
    model = Transformer(49)
    assert sum(p.numel() for p in model.blocks.parameters() if p.ndim > 1) == 4 * 12 * 128**2 == 786_432
    assert sum(p.numel() for p in model.parameters()) == 786_432 + 9 * 128 + 128 * 128 + 2 * 49 * 128 + 49
    x = torch.randint(49, (2, 20), generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 12:] = (other[:, 12:] + 1) % 49
    a, b = model(x), model(other)
    torch.testing.assert_close(a[:, :12], b[:, :12])
    assert (a[:, 12] - b[:, 12]).abs().max() > 1e-3


def test_a_scaled_network_computes_the_same_and_its_scale_is_the_mean_size():
    torch.manual_seed(0)
    model, x = Transformer(KINDS, 16, blocks=1), torch.randint(KINDS, (2, 9))
    before, weight = model(x), model.blocks[0].up.weight.detach().clone()
    found = characters.scaled(model)
    torch.testing.assert_close(model(x), before)
    assert len(found) == 4
    v, s = found[2]
    assert s == pytest.approx(float(weight.abs().mean())) and v.shape == weight.shape
    torch.testing.assert_close(s * v, weight)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_step_moves_a_matrix_as_adam_would_without_the_scale(monkeypatch, decay):
    """Full precision: the same network by torch's AdamW alone; in double precision, as Adam makes a step of any gradient."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        _steps_agree(monkeypatch, decay)
    finally:
        torch.set_default_dtype(before)


def _steps_agree(monkeypatch, decay):
    seen, original = [], characters.measure
    monkeypatch.setattr(characters, "measure", lambda model, x: seen.append(model) or original(model, x))
    setting = Setting(1e-2, (("weight_decay", decay),))
    parts = (letters(), letters())
    characters.train("Full precision", setting, 0, parts, KINDS, length=Length(1, 20, 16, 1, 600))
    torch.manual_seed(0)
    model = Transformer(KINDS, 16, blocks=1)
    matrices = [m.weight for m in model.blocks.modules() if isinstance(m, nn.Linear)]
    rest = [p for p in model.parameters() if all(p is not m for m in matrices)]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    adam, draws = torch.optim.AdamW(groups, betas=characters.BETAS), torch.Generator().manual_seed(0)
    for k in range(20):
        for g in adam.param_groups:
            g["lr"] = 1e-2 * (1 + math.cos(math.pi * k / 20)) / 2
        i = torch.randint(3000 - CONTEXT, (characters.BATCH, 1), generator=draws) + torch.arange(CONTEXT + 1)
        x = letters()[i]
        adam.zero_grad()
        nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()).backward()
        adam.step()
    for name in ("qkv", "out", "up", "down"):
        theirs, mine = (getattr(m.blocks[0], name).weight for m in (model, seen[0]))
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_is_ternary_and_goes_on_from_its_checkpoint(method, tmp_path, monkeypatch):
    seen, original = [], characters.measure

    def measure(model, x):
        w = model.blocks[0].up.weight.detach()
        seen.append(len(w.unique()))
        return original(model, x)

    with monkeypatch.context() as m:
        m.setattr(characters, "measure", measure)
        whole = train(method)
    assert len(seen) == 6 and max(seen[1::2]) <= 3 and len(whole) == 3, "rounded to more than three values"

    def killed(*arguments, write=checkpoints.write):
        write(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(checkpoints, "write", killed)
        train(method, checkpoint=tmp_path / "x" / "run.pt")
    assert train(method, checkpoint=tmp_path / "x" / "run.pt") == whole


def test_a_run_learns_and_one_that_diverges_ends_with_nan():
    how = {"length": Length(4, 40, 16, 1, 2000)}
    record = characters.train("Full precision", Setting(1e-2), 0, (letters(), letters()), KINDS, **how)
    entropy = -(0.84 * math.log2(0.84) + 0.16 * math.log2(0.04))  # of the noise; without a model log2(5) = 2.32
    assert entropy < record[-1]["latent_bits"] < 1.5 < record[0]["loss"]
    record = characters.train("Straight-through", Setting(1e30), 0, (letters(), letters()), KINDS, **how)
    assert len(record) < 4 and math.isnan(record[-1]["loss"]) and math.isnan(record[-1]["quantised_bits"])


def test_bits_of_a_model_that_knows_frequencies():
    class Frequencies(nn.Module):
        def forward(self, x):
            return p.log().expand(*x.shape, -1)

    p = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    x = letters(1000)
    targets = x[: 1000 // CONTEXT * CONTEXT].view(-1, CONTEXT)[:, 1:]
    assert characters.measure(Frequencies(), x) == pytest.approx(float(-p[targets].log2().mean()), rel=1e-5)


def test_the_budget_is_the_same_for_all_and_fewest_bits_are_chosen():
    assert {len(kind.settings) for kind in METHODS.values()} == {6}
    assert len(experiments.experiments()["characters_tuning"].units) == 6 * len(METHODS)
    bits = [2.0, 1.5, math.nan, 3.0, 2.5, 1.6]
    settings = METHODS["LSQ"].settings
    rows = [
        {"method": "LSQ", "bits": 2, "setting": str(s), "seed": 0, "quantised_bits": b}
        for s, b in zip(settings, bits, strict=True)
    ]
    assert characters_tuning.chosen("LSQ", rows) == settings[1]
    with pytest.raises(ValueError, match="not every setting"):
        characters_tuning.chosen("LSQ", rows[:-1])
    full = METHODS["Full precision"].settings
    rows = [
        {"method": "Full precision", "bits": 2, "setting": str(s), "seed": 0, "quantised_bits": b, "latent_bits": -b}
        for s, b in zip(full, range(6), strict=True)
    ]
    assert characters_tuning.chosen("Full precision", rows) == full[5], "it is not rounded"


def test_characters_are_those_of_the_words():
    with real_data() as folder:
        parts, kinds = characters.data(folder)
        found = text.load(folder, progress=False)
    assert len(kinds) == len(set(kinds)) == 49
    for part, words in zip(parts, (found.train, found.valid, found.test), strict=True):
        written = "".join(kinds[i] for i in part.tolist()).replace("\n", "<eos> ").replace("\0", "<unk>")
        assert written.split() == [found.words[i] for i in words.tolist()]
