"""The experiments for a GPU, tiny and on a CPU: what is binary, counts of parameters, that each can learn, scores, tuning."""

from __future__ import annotations

import math
import pickle
import resource
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import real_data
from quantized_training import Cosine
from study import experiments, results
from study.datasets import image_sets
from study.experiments import adaptive_large as large
from study.tasks.binary_optimizers import OPTIMIZERS, Setting, build
from study.vision import binary_models, detection
from study.vision.binary_models import Detector, Language, MobileNetV2, groups, resnet34

TASKS = list(large.PROFILES["gpu"])
BOX = (0.25, 0.25, 0.5, 0.75)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def photographs(n: int, seed: int = 0) -> large.Part:
    """n noisy images, each class brighter than the one before."""
    y = torch.arange(n) % 10
    return (noise(n, 3, 16, 16, seed=seed) // 10 + (23 * y[:, None, None, None]).byte()), y


def sentences(length: int, seed: int = 0, vocabulary: int = 12) -> large.Part:
    """4 streams of words of which each mostly follows from the one before."""
    g = torch.Generator().manual_seed(seed)
    words = [torch.zeros(4, dtype=torch.int64)]
    for _ in range(length - 1):
        other = torch.randint(vocabulary, (4,), generator=g)
        words.append(torch.where(torch.rand(4, generator=g) < 0.9, (words[-1] * 5 + 3) % vocabulary, other))
    return (torch.stack(words, 1),)


def scenes(n: int, seed: int = 0) -> large.Part:
    """n images of one or two squares on noise, dark ones of class 0 and bright ones of class 2."""
    g = torch.Generator().manual_seed(seed)
    images, boxes, labels = 120 + noise(n, 3, 48, 64, seed=seed) // 16, torch.zeros(n, 2, 4), torch.full((n, 2), -1)
    for i in range(n):
        for j in range(1 + i % 2):
            x, y = int(torch.randint(0, 20, (), generator=g)) + 32 * j, int(torch.randint(0, 36, (), generator=g))
            labels[i, j] = label = 2 * int(torch.randint(2, (), generator=g))
            images[i, :, y : y + 12, x : x + 12] = 30 if label == 0 else 220
            boxes[i, j] = torch.tensor([x / 64, y / 48, (x + 12) / 64, (y + 12) / 48])
    return images, boxes, labels


DATA = {
    "ResNet-34": large.Data(*(photographs(n, s) for s, n in enumerate((40, 20, 30))), "of the tests"),
    "MobileNetV2": large.Data(*(photographs(n, s) for s, n in enumerate((40, 20, 30))), "of the tests"),
    "LSTM": large.Data(*(sentences(n, s) for s, n in enumerate((200, 90, 110))), "of the tests"),
    "detector": large.Data(*(scenes(n, s) for s, n in enumerate((12, 6, 7))), "of the tests"),
}


def tiny(name: str, **changes) -> large.Task:
    """The tiny profile's task on made-up data."""
    task = large.PROFILES["tiny"][name]
    network = partial(Language, 12, 16) if name == "LSTM" else task.network
    return replace(task, **({"data": partial(DATA.get, name), "network": network} | changes))


def size(parameters) -> int:
    return sum(p.numel() for p in parameters)


# Networks


def test_numbers_of_parameters_are_the_published_ones():
    assert size(MobileNetV2(1000).parameters()) == 3_504_872  # Sandler et al.: 3.4 million
    assert size(MobileNetV2(10).parameters()) == 3_504_872 - 990 * 1281
    binary, rest = (sum(size(g["params"]) for g in groups(MobileNetV2()) if g["quantize"] == q) for q in (True, False))
    assert (binary, binary + rest) == (64_224, 2_236_682)
    total, blocks, shortcuts = 3 * 9 * 64 + 2 * 64 + 512 * 10 + 10, 0, 0
    for i, count in enumerate((3, 4, 6, 3)):
        c, into = 64 * 2**i, 64 * 2 ** max(i - 1, 0)
        blocks += 9 * c * (into + (2 * count - 1) * c)
        total += 4 * c * count
        shortcuts += (into + 2) * c if i else 0
    with torch.device("meta"):
        model = resnet34()
    assert size(model.parameters()) == total + blocks + shortcuts == 21_282_122
    threes = [p for p in model.parameters() if p.shape[2:] == (3, 3)]
    assert size(threes[1:]) == blocks == 21_086_208  # see below: these are binary


def test_numbers_of_parameters_by_formula():
    v, h = 50, 8
    model = Language(v, h, layers=3)
    assert size(model.parameters()) == v * h + 3 * (2 * 4 * h * h + 2 * 4 * h) + v * h + v
    assert sum(size(g["params"]) for g in groups(model) if g["quantize"]) == 3 * 2 * 4 * h * h
    w = 4
    channels = (3, w, 2 * w, 4 * w, 8 * w, 8 * w, 8 * w)
    convolutions = [9 * a * b for a, b in zip(channels, channels[1:], strict=False)]
    model = Detector(3, w)
    assert size(model.parameters()) == sum(convolutions) + 2 * sum(channels[1:]) + 8 * w * 8 + 8
    assert sum(size(g["params"]) for g in groups(model) if g["quantize"]) == sum(convolutions[1:])


MODELS = {
    "ResNet-34": partial(resnet34, width=4),
    "MobileNetV2": partial(MobileNetV2, width=0.25, last=16),
    "LSTM": partial(Language, 20, 8),
    "detector": partial(Detector, width=2),
}


@pytest.mark.parametrize("name", TASKS)
def test_what_is_binary(name):
    """Each parameter is in one group; binary are the convolutions that the source names, the matrices of the LSTM."""
    model = MODELS[name]()
    names, made = {id(p): n for n, p in model.named_parameters()}, groups(model)
    assert sorted(names) == sorted(id(p) for g in made for p in g["params"])
    binary = {names[id(p)] for g in made if g["quantize"] for p in g["params"]}
    modules = dict(model.named_modules())
    if name == "LSTM":
        assert binary == {f"lstm.weight_{kind}_l{i}" for kind in ("ih", "hh") for i in range(3)}
        return
    inner = [n for n, m in modules.items() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)][1:]
    assert binary == {f"{n}.weight" for n in inner}
    assert len(inner) == {"ResNet-34": 32, "MobileNetV2": 17, "detector": 5}[name]
    assert all((modules[n].groups == modules[n].in_channels > 1) == (name == "MobileNetV2") for n in inner)


def test_shapes():
    model, seen = MobileNetV2(7, 0.25, 16), []
    model.blocks.register_forward_hook(lambda module, x, y: seen.append(y.shape))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7) and seen == [(2, 16, 4, 4)]
    assert resnet34(7, 4)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert Detector(3, 2)(torch.zeros(2, 3, 48, 64)).shape == (2, 8, 3, 4)
    out, state = Language(20, 8)(torch.zeros(2, 5, dtype=torch.int64))
    assert out.shape == (2, 5, 20) and [s.shape for s in state] == [(3, 2, 8)] * 2


def test_a_shortcut_of_mobilenet_adds_its_input():
    block = binary_models.Inverted(4, 4, 1, 2).eval()
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(block(x), x + block.layers(x))
    assert binary_models.Inverted(4, 4, 2, 2)(x).shape == (1, 4, 4, 4)


# Training


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("optimiser", OPTIMIZERS)
def test_every_optimiser_trains_binary_weights(name, optimiser):
    setting = OPTIMIZERS[optimiser].settings[2]
    model, record = large.train(tiny(name), optimiser, setting, "test", 0)
    torch.manual_seed(0)
    start = groups(tiny(name).network())
    flipped = 0
    for group, before in zip(groups(model), start, strict=True):
        for p, q in zip(group["params"], before["params"], strict=True):
            if group["quantize"]:
                assert set(p.unique().tolist()) <= set(p.new_tensor(before["levels"].values).tolist())
                flipped += int((p * q < 0).sum())
            elif p.ndim > 1:
                assert not torch.equal(p, q) and len(p.unique()) > 2
    assert flipped > 0
    steps = {"LSTM": -(-199 // 35), "detector": 3}.get(name, 2)
    assert [row["updates"] for row in record] == [steps, 2 * steps]
    assert [row["epoch"] for row in record] == [1, 2] and all(math.isfinite(v) for row in record for v in row.values())


@pytest.mark.parametrize(
    "name, network, how, lr, losses, score",
    [
        ("ResNet-34", partial(resnet34, width=8), {"epochs": 30, "batch": 8}, 0.005, (2.2, 1.2), 0.8),
        ("MobileNetV2", partial(MobileNetV2, width=0.25, last=64), {"epochs": 30, "batch": 20}, 0.02, (2.2, 1.7), 0.5),
        ("LSTM", partial(Language, 12, 24, dropout=0.0), {"epochs": 15}, 0.02, (2.2, 1.0), 3.0),
        ("detector", partial(Detector, width=8), {"epochs": 40}, 0.005, (0.5, 0.1), 0.9),
    ],
)
def test_each_task_learns_a_few_samples(name, network, how, lr, losses, score):
    """losses: above the first, and below the second of them, after the first and after the last epoch."""
    train = DATA[name][0]
    task = tiny(name, network=network, data=lambda: large.Data(train, train, train), **how)
    _, record = large.train(task, "Adam", Setting(lr), "test", 0)
    assert record[0]["loss"] > losses[0] and record[-1]["loss"] < losses[1]
    assert record[-1]["score"] < score if name == "LSTM" else record[-1]["score"] > score


def numbers(record) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in record]


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_is_a_run_and_other_random_numbers_are_left_alone(name):
    how = tiny(name), "BAMSProd", OPTIMIZERS["BAMSProd"].settings[4], "test"
    torch.manual_seed(5)
    first = numbers(large.train(*how, 1)[1])
    found = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(found, torch.rand(3))
    assert numbers(large.train(*how, 1)[1]) == first != numbers(large.train(*how, 2)[1])


def test_tuning_is_shorter_and_scored_on_validation_data(monkeypatch):
    seen = []
    monkeypatch.setattr(large.Images, "measure", lambda model, part: seen.append((len(part[0]), model.training)) or 0.0)
    for part in ("tuning", "test"):
        large.train(tiny("ResNet-34", epochs=3, tuning=2), "Adam", Setting(1e-3), part, 0)
    assert seen == [(n, False) for n in (20, 20, 30, 30, 30)]


@pytest.mark.parametrize("optimiser", ["SGD(M)", "Bop"])
def test_all_rates_fall_along_a_cosine(monkeypatch, optimiser):
    made, seen = [], []

    def spy(*how, **more):
        made.extend(build(*how, **more))
        return made

    def measure(model, part):
        seen.append([g["lr"] for o in made for g in o.param_groups])
        return 0.0

    monkeypatch.setattr(large, "build", spy)
    monkeypatch.setattr(large.Images, "measure", measure)
    large.train(tiny("ResNet-34", epochs=4), optimiser, OPTIMIZERS[optimiser].settings[0], "test", 0)
    assert set(seen[0]) == ({1e-4, 1e-2} if optimiser == "Bop" else {0.01})  # Bop's own and that of Adam for the rest
    for epoch, now in enumerate(seen):
        assert now == pytest.approx([Cosine(lr, 4)(epoch) for lr in seen[0]])


def test_clipping_holds_a_step_of_sgd_back():
    def moved(clip: float) -> float:
        (after, _), (before, _) = (
            large.train(tiny("detector", epochs=e), "SGD(M)", Setting(0.01, {"momentum": 0.9}, clip), "test", 0)
            for e in (1, 0)
        )
        return float((after.head.weight - before.head.weight).detach().norm())

    assert 0 < moved(1e-3) < 1e-4 < moved(math.inf)


def test_a_run_that_diverges_ends_with_nan():
    _, record = large.train(tiny("detector", epochs=5), "SGD(M)", Setting(1e30, {"momentum": 0.9}), "test", 0)
    assert 1 <= len(record) < 5 and math.isnan(record[-1]["loss"]) and math.isnan(record[-1]["score"])


def resident() -> int:
    """Bytes of memory that this process occupies."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from Linux")
def test_memory_does_not_grow_with_the_number_of_batches(monkeypatch):
    """Of a vocabulary as large as Penn Treebank's: the outputs of one batch are 6 MB."""
    data = large.Data(*(sentences(n, vocabulary=10_000) for n in (35 * 100, 35, 35)))
    task = tiny("LSTM", network=partial(Language, 10_000, 4), data=lambda: data, epochs=1)
    seen, losses = [], large.Words.losses

    def watched(*how):
        for loss in losses(*how):
            seen.append(resident())
            yield loss

    monkeypatch.setattr(large.Words, "losses", staticmethod(watched))
    large.train(task, "Adam", Setting(1e-3), "test", 0)
    assert len(seen) == 100 and seen[-1] - seen[20] < 100e6


# Scores and batches


class Unigram(nn.Module):
    """Knows how often each word is and nothing else; its state counts the words it has seen."""

    def __init__(self, p: torch.Tensor) -> None:
        super().__init__()
        self.p = p

    def forward(self, x, state):
        self.seen = x.shape[1] + (self.seen if state else 0)
        return self.p.log().expand(*x.shape, -1), (torch.zeros(1),)


def test_perplexity_is_that_of_counted_words():
    (words,) = sentences(100)
    p = torch.arange(1.0, 13) / 78
    count = Counter(words[:, 1:].flatten().tolist())
    entropy = -sum(n * math.log((w + 1) / 78) for w, n in count.items()) / (4 * 99)
    model = Unigram(p)
    assert large.Words.measure(model, (words,)) == pytest.approx(math.exp(entropy), rel=1e-6)
    assert model.seen == 99  # the state is carried on, and the last word is only a target


def test_pieces_with_a_state_are_one_long_text(monkeypatch):
    torch.manual_seed(0)
    model, part = Language(12, 8).eval(), sentences(100)
    pieces = large.Words.measure(model, part)
    monkeypatch.setattr(large.Words, "STEPS", 1000)
    assert large.Words.measure(model, part) == pytest.approx(pieces, rel=1e-5)


def test_mirrored_images_have_mirrored_boxes(monkeypatch):
    images, boxes, labels = scenes(12)
    seen = []
    monkeypatch.setattr(large, "_outputs", lambda model, x: x)
    monkeypatch.setattr(detection, "loss", lambda *batch: seen.append(batch))
    list(large.Boxes.losses(None, (images, boxes, labels), 4, torch.Generator().manual_seed(0)))
    mirrored = 0
    for x, b, label in ((x, b, lab) for batch in seen for x, b, lab in zip(*batch, strict=True)):
        for (x0, y0, x1, y1), c in zip(b[label >= 0].tolist(), label[label >= 0].tolist(), strict=True):
            inside = x[:, round(48 * y0) : round(48 * y1), round(64 * x0) : round(64 * x1)]
            assert inside.shape == (3, 12, 12) and inside.unique().tolist() == [30 if c == 0 else 220]
        mirrored += not any(torch.equal(x.byte(), original) for original in images)
    assert len(seen) == 3 and 0 < mirrored < 12


def test_accuracy_counts_images_of_every_batch():
    x, y = photographs(30)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    with torch.no_grad():
        model[2].bias[3] = 1.0
    assert large.Images.measure(model, (x, y)) == pytest.approx(3 / 30)


# The experiments


def test_units_are_the_whole_grid_with_the_same_budget_for_every_optimiser():
    more = dict.fromkeys(("ResNet-34", "detector"), (1, 2, 3, 4, 5, 6))
    for experiment, profile, part, numbers in (
        (large.TUNING, "small", "tuning", dict.fromkeys(TASKS, range(4))),
        (large.SMALL, "small", "test", dict.fromkeys(TASKS, (1, 2, 3)) | more),
        (large.EXPERIMENT, "gpu", "test", dict.fromkeys(TASKS, (1,))),
    ):
        assert (experiment.device == "cuda") == (profile == "gpu")
        runs = {(profile, name, o, part, k) for name in TASKS for o in large.NAMES for k in numbers[name]}
        assert len(runs) == 8 * sum(map(len, numbers.values()))
        if experiment is large.SMALL:
            runs |= {(profile, name, large.FLOAT32, part, 1) for name in more}
        assert {u.args for u in experiment.units.values()} == runs and len(experiment.units) == len(runs)
        assert pickle.loads(pickle.dumps(experiment)).units.keys() == experiment.units.keys()
        assert experiments.experiments()[experiment.name] == experiment
        assert experiment.name not in experiments.choose([])
    assert {len(large.settings(name)) for name in large.NAMES} == {4}
    assert all(len(set(map(str, large.settings(name)))) == 4 for name in large.NAMES)


def stored(folder, scores: dict[tuple[str, str], list[float]]) -> None:
    rows = [
        {"unit": f"{task}, {o}, setting {k}", "task": task, "optimiser": o, "setting": str(large.settings(o)[k])}
        | {"epoch": epoch, "score": score if epoch == 2 else 1 - score}
        for (task, o), values in scores.items()
        for k, score in enumerate(values)
        for epoch in (1, 2)
    ]
    results.write(large.TUNING.name, rows, "x", "x", "x", folder / "results")


def test_the_best_setting_after_the_last_epoch_is_tested(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "DATA", tmp_path)
    with pytest.raises(FileNotFoundError, match="make results ONLY=adaptive_small_tuning"):
        large.best("LSTM", "Adam")
    values = [0.2, math.nan, 0.9, 0.1]
    keys = [("LSTM", "Adam"), ("detector", "Adam"), ("ResNet-34", "Bop")]
    stored(tmp_path, {key: values for key in keys} | {("LSTM", "Bop"): [math.nan] * 4, ("LSTM", "AMSGrad"): [1.0] * 3})
    for (task, name), place in {
        ("LSTM", "Adam"): 3,  # perplexity: less is better
        ("detector", "Adam"): 2,
        ("ResNet-34", "Bop"): 2,
        ("LSTM", "Bop"): 0,  # whatever is tested diverges, and the table says so
    }.items():
        assert str(large.best(task, name)) == str(large.settings(name)[place])
        assert large.SMALL.depends(f"{task}, {name}, seed 1") == str(large.settings(name)[place])
    with pytest.raises(ValueError, match="LSTM, AMSGrad: lr 0.1 has not been run"):
        large.best("LSTM", "AMSGrad")


def test_full_precision_is_the_same_network_without_levels():
    model, record = large.train(tiny("ResNet-34"), large.FULL, Setting(1e-2), "test", 0)
    assert all(len(p.unique()) > 2 for g in groups(model) if g["quantize"] for p in g["params"])
    assert len(record) == 2


def test_full_precision_in_float32_has_the_setting_of_bfloat16(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "DATA", tmp_path)
    stored(tmp_path, {("ResNet-34", large.FULL): [0.1, 0.2, 0.9, 0.3]})
    monkeypatch.setitem(large.PROFILES["tiny"], "ResNet-34", tiny("ResNet-34", half=True))
    monkeypatch.setattr(large, "multiplies_bfloat16", lambda: True)
    found = [large.unit("tiny", "ResNet-34", name, "test", 1)[0] for name in (large.FULL, large.FLOAT32)]
    assert [r["precision"] for r in found] == ["bfloat16", "float32"] and found[0]["setting"] == found[1]["setting"]
    assert found[0]["loss"] != found[1]["loss"] == pytest.approx(found[0]["loss"], rel=0.05)
    assert large.SMALL.depends(f"ResNet-34, {large.FLOAT32}, seed 1") == found[0]["setting"]


def test_the_small_profile_says_its_precision(monkeypatch):
    monkeypatch.setattr(large, "multiplies_bfloat16", lambda: True)
    found = {name: task.precision for name, task in large.PROFILES["small"].items()}
    assert found == {n: "bfloat16" if n in ("ResNet-34", "detector") else "float32" for n in TASKS}
    monkeypatch.setattr(large, "multiplies_bfloat16", lambda: False)
    assert {task.precision for task in large.PROFILES["small"].values()} == {"float32"}


def test_parts_of_cifar_do_not_overlap_and_images_that_are_not_exact_are_noted():
    with real_data() as folder:
        train, valid, test, note = large.cifar()
    assert [len(p[0]) for p in (train, valid, test)] == [45_000, 5_000, 10_000]
    images = image_sets.load("cifar-10", folder)
    assert torch.equal(torch.cat([train[0], valid[0]]), images.train_x) and note == images.note


def test_rows_of_a_unit_say_what_was_run(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "DATA", tmp_path)
    for name in TASKS:
        monkeypatch.setitem(large.PROFILES["tiny"], name, tiny(name))
    stored(tmp_path, {("LSTM", "AdaBound"): [0.5] * 3 + [0.1]})
    monkeypatch.setitem(large.PROFILES["small"], "LSTM", tiny("LSTM"))
    tuned, tested = (large.unit("tiny", "LSTM", "AdaBound", part, 2) for part in ("tuning", "test"))
    about = {"task": "LSTM", "optimiser": "AdaBound", "batch": 4, "measure": "perplexity", "precision": "float32"}
    settings = large.settings("AdaBound")
    assert [(r["epoch"], r["setting"], r["part"], r["seed"]) for r in tuned] == [(1, str(settings[2]), "tuning", 0)]
    assert [(r["epoch"], r["setting"], r["part"], r["seed"]) for r in tested] == [
        (e, str(settings[3]), "test", 2) for e in (1, 2)
    ]
    assert all(about.items() <= row.items() and list(row) == list(tuned[0]) for row in (*tuned, *tested))
    assert {"updates", "loss", "score", "seconds"} <= set(tuned[0])
    results.write("x", [*tuned, *tested], "x", "x", "x", tmp_path / "results")


def test_one_network_with_all_optimisers_takes_eight_minutes_of_a_gpu_by_the_estimate():
    for name, task in large.PROFILES["gpu"].items():
        runs = [u for u in large.EXPERIMENT.units.values() if u.args[1] == name]
        assert len(runs) == 8 and 6 < len(runs) * task.epochs * large.GPU_SECONDS[name] / 60 < 7.5


def test_a_network_that_knows_how_often_words_are_has_the_blind_perplexity():
    with real_data():
        train, _, test, _ = large.treebank()
    counts = Counter(train[0].flatten().tolist())
    total = sum(counts.values())
    logs = [math.log(counts[w] / total) for w in test[0][:, 1:].flatten().tolist()]
    assert math.exp(-sum(logs) / len(logs)) == pytest.approx(large.Words.blind, abs=0.05)


def test_the_same_boxes_in_every_image_have_the_blind_precision():
    with real_data():
        train, _, test, _ = large.blood((160, 120))
    out = torch.zeros(1, 8, 8, 10)
    out[:, 4] = -3.0
    out.requires_grad_()
    optimizer = torch.optim.Adam([out], 0.03)
    for epoch in range(30):
        order = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(epoch))
        for i in order.split(8):
            optimizer.zero_grad()
            detection.loss(out.expand(len(i), -1, -1, -1), train[1][i], train[2][i]).backward()
            optimizer.step()
    found = detection.mean_average_precision(out.detach().expand(len(test[1]), -1, -1, -1), *test[1:])
    assert found == pytest.approx(large.Boxes.blind, abs=0.005)


@pytest.mark.parametrize("name", TASKS)
def test_the_tiny_profile_on_real_data(name):
    with real_data():
        rows = large.unit("tiny", name, "BAMSProd", "tuning", 3)
    assert len(rows) == 1 and rows[0]["updates"] == {"LSTM": 8}.get(name, 4) and math.isfinite(rows[0]["score"])
