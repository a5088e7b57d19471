"""Boxes: overlap against a count of pixels, outputs and back, suppression and average precision against their definitions."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from study.vision import detection
from study.vision.detection import average_precision, decode, encode, iou, suppress


def box(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def draw(n: int, choose: random.Random, size: int = 20) -> Tensor:
    """n boxes with corners at whole pixels."""
    pairs = [(sorted(choose.sample(range(size + 1), 2)), sorted(choose.sample(range(size + 1), 2))) for _ in range(n)]
    return torch.tensor([[x[0], y[0], x[1], y[1]] for x, y in pairs], dtype=torch.float64).view(n, 4)


def pixels(b: Tensor) -> set[tuple[int, int]]:
    x0, y0, x1, y1 = map(int, b)
    return {(x, y) for x in range(x0, x1) for y in range(y0, y1)}


def test_overlap_is_a_count_of_pixels():
    choose = random.Random(0)
    a, b = draw(30, choose), draw(20, choose)
    found = iou(a, b)
    for i in range(30):
        for j in range(20):
            p, q = pixels(a[i]), pixels(b[j])
            assert found[i, j] == pytest.approx(len(p & q) / len(p | q), abs=1e-12)
    assert iou(box(0, 0, 0, 0), box(0, 0, 0, 0)) == 0 and iou(torch.zeros(0, 4), torch.ones(3, 4)).shape == (0, 3)


# Outputs of a network


def outputs(boxes: Tensor, labels: Tensor, rows: int, columns: int, classes: int = 3) -> Tensor:
    """What a network that is sure of these boxes puts out, from the definitions."""
    out = torch.zeros(len(boxes), 5 + classes, rows, columns)
    out[:, 4] = -20.0
    for n in range(len(boxes)):
        for (x0, y0, x1, y1), label in zip(boxes[n].tolist(), labels[n].tolist(), strict=True):
            if label < 0:
                continue
            x, y = (x0 + x1) / 2 * columns, (y0 + y1) / 2 * rows
            cell = out[n, :, min(int(y), rows - 1), min(int(x), columns - 1)]
            for k, part in enumerate((x - int(x), y - int(y))):
                cell[k] = math.log(part / (1 - part))
            cell[2], cell[3] = math.log((x1 - x0) / detection.PRIOR[0]), math.log((y1 - y0) / detection.PRIOR[1])
            cell[4], cell[5 + label] = 20.0, 20.0
    return out


def scattered(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n images with up to six boxes whose centres lie in different cells of a grid of 3 x 4."""
    choose, boxes, labels = random.Random(seed), torch.zeros(n, 6, 4), torch.full((n, 6), -1)
    for i in range(n):
        for j, cell in enumerate(choose.sample(range(12), choose.randint(1, 6))):
            x, y = (cell % 4 + choose.uniform(0.1, 0.9)) / 4, (cell // 4 + choose.uniform(0.1, 0.9)) / 3
            w, h = choose.uniform(0.02, 0.9), choose.uniform(0.02, 0.9)
            boxes[i, j], labels[i, j] = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2]), choose.randrange(3)
    return boxes, labels


def test_boxes_there_and_back():
    boxes, labels = scattered(40, 1)
    there, numbers, classes = encode(boxes, labels, 3, 4)
    assert int(there.sum()) == int((labels >= 0).sum())
    found, scores = decode(outputs(boxes, labels, 3, 4))
    for n in range(40):
        order = there[n].flatten()
        mine = labels[n] >= 0
        pairs = iou(found[n][order], boxes[n][mine])
        torch.testing.assert_close(pairs.max(0).values, torch.ones(int(mine.sum())), atol=1e-4, rtol=0)
        best = pairs.argmax(1)
        assert torch.equal(scores[n][order].argmax(1), labels[n][mine][best])
        assert torch.equal(classes[n].flatten()[order], labels[n][mine][best])
        assert scores[n][order].max(1).values.min() > 0.99 and scores[n][~order].max() < 1e-6
    out = torch.zeros(40, 8, 3, 4)
    place = numbers.movedim(-1, 1).double()
    out[:, :2], out[:, 2:4] = torch.logit(place[:, :2], eps=1e-9), place[:, 2:]
    again = decode(out)[0][there.flatten(1)]
    torch.testing.assert_close(again, found[there.flatten(1)], atol=1e-5, rtol=1e-4)


def test_of_two_centres_in_a_cell_the_last_counts_and_the_border_belongs_to_the_last_cell():
    boxes = torch.tensor([[[0.0, 0.0, 0.2, 0.2], [0.0, 0.0, 0.4, 0.4], [0.9, 0.9, 1.1, 1.1]]])
    there, numbers, classes = encode(boxes, torch.tensor([[0, 2, 1]]), 2, 2)
    assert there.tolist() == [[[True, False], [False, True]]]
    assert classes[0, 0, 0] == 2 and classes[0, 1, 1] == 1
    torch.testing.assert_close(numbers[0, 0, 0, :2], torch.tensor([0.4, 0.4]))
    assert numbers[0, 1, 1, :2].tolist() == pytest.approx([1.0, 1.0])


def test_loss_is_the_sum_over_cells_written_out():
    boxes, labels = scattered(5, 2)
    there, numbers, classes = encode(boxes, labels, 3, 4)
    out = torch.randn(5, 8, 3, 4, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for n in range(5):
        for y in range(3):
            for x in range(4):
                o = out[n, :, y, x].double().tolist()
                p = 1 / (1 + math.exp(-o[4]))
                if not there[n, y, x]:
                    total -= math.log(1 - p)
                    continue
                guess = [1 / (1 + math.exp(-o[0])), 1 / (1 + math.exp(-o[1])), o[2], o[3]]
                total += 5 * sum((a - b) ** 2 for a, b in zip(guess, numbers[n, y, x].tolist(), strict=True))
                total -= math.log(p) + o[5 + int(classes[n, y, x])] - math.log(sum(map(math.exp, o[5:])))
    assert detection.loss(out, boxes, labels).item() == pytest.approx(total / (5 * 3 * 4), rel=1e-5)
    assert detection.loss(outputs(boxes, labels, 3, 4), boxes, labels) < 1e-3
    assert 0 < detection.loss(out[:1], boxes[:1], torch.full((1, 6), -1)) < 2  # an image without boxes


# Suppression and precision


def test_suppression_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 5], [20, 20, 30, 30]])
    scores = torch.tensor([0.5, 0.9, 0.8, 0.1])
    # 1 and 0 overlap by 0.6, 2 and 1 by 5/6, 2 and 0 by 0.5
    assert suppress(boxes, scores).tolist() == [1, 3]
    assert suppress(boxes, torch.tensor([0.5, 0.1, 0.8, 0.9])).tolist() == [3, 2, 0]  # 0.5 is not more than 0.5
    assert suppress(boxes, scores, 0.7).tolist() == [1, 0, 3]
    assert suppress(torch.zeros(0, 4), torch.zeros(0)).tolist() == []


@pytest.mark.parametrize("seed", range(10))
def test_suppression_takes_the_best_and_removes_what_overlaps_it(seed):
    choose = random.Random(seed)
    boxes, scores = draw(40, choose), torch.tensor([choose.random() for _ in range(40)])
    left, expected = set(range(40)), []
    while left:
        best = max(left, key=lambda i: float(scores[i]))
        expected.append(best)
        p = pixels(boxes[best])
        left = {i for i in left if len(p & pixels(boxes[i])) <= 0.5 * len(p | pixels(boxes[i]))} - {best}
    assert suppress(boxes, scores).tolist() == expected


A, B, FAR = (0, 0, 10, 10), (20, 20, 30, 30), (50, 50, 60, 60)
NEAR = (0, 0, 10, 9)  # overlaps A by 0.9
HALF = (0, 0, 10, 5)  # overlaps A by exactly 0.5


@pytest.mark.parametrize(
    "found, true, expected",
    [
        ([(A, 0.9)], [A], 1.0),
        ([], [A], 0.0),
        ([(FAR, 0.9)], [A], 0.0),
        ([(HALF, 0.9)], [A], 1.0),
        ([((0, 0, 10, 4.9), 0.9)], [A], 0.0),
        ([(A, 0.9), (FAR, 0.8), (B, 0.7)], [A, B], 0.5 * 1 + 0.5 * 2 / 3),
        ([(FAR, 0.9), (A, 0.8), (B, 0.7)], [A, B], 2 / 3),  # 1/2 at the recall 1/2 is lifted to the 2/3 that follows
        ([(NEAR, 0.9), (A, 0.8)], [A], 1.0),  # the second is a duplicate, after all is found
        ([(NEAR, 0.9), (A, 0.8), (B, 0.7)], [A, B], 0.5 * 1 + 0.5 * 2 / 3),
        ([(A, 0.9)], [A, B], 0.5),
    ],
)
def test_average_precision_by_hand(found, true, expected):
    boxes = torch.tensor([b for b, _ in found], dtype=torch.float64).view(-1, 4)
    scores = torch.tensor([s for _, s in found])
    truth = torch.tensor(true, dtype=torch.float64)
    assert average_precision([(boxes, scores)], [truth]) == pytest.approx(expected)
    elsewhere = [(boxes[:0], scores[:0]), (boxes, scores)], [truth[:0], truth]  # in the second of two images
    assert average_precision(*elsewhere) == pytest.approx(expected)


def test_a_box_is_only_right_in_its_own_image_and_a_class_that_does_not_occur_has_no_precision():
    a = torch.tensor([A], dtype=torch.float64)
    one, none = (a, torch.tensor([0.9])), (a[:0], torch.zeros(0))
    assert average_precision([one, none], [a[:0], a]) == 0
    assert math.isnan(average_precision([one], [a[:0]]))


def by_definition(found, truth) -> float:
    """Mean over the recalls 1/m, 2/m, ..., 1 of the largest precision among the thresholds that reach it."""
    total, points = sum(len(t) for t in truth), []
    for threshold in sorted({float(s) for _, scores in found for s in scores}):
        right = wrong = 0
        for (boxes, scores), true in zip(found, truth, strict=True):
            free = set(range(len(true)))
            for i in sorted((i for i in range(len(boxes)) if float(scores[i]) >= threshold), key=lambda i: -scores[i]):
                p = pixels(boxes[i])
                overlaps = [len(p & pixels(t)) / len(p | pixels(t)) for t in true]
                best = max(range(len(true)), key=overlaps.__getitem__) if overlaps else -1
                hit = best in free and overlaps[best] >= 0.5
                free -= {best} if hit else set()
                right, wrong = right + hit, wrong + (not hit)
        points.append((right / total, right / (right + wrong)))
    reached = [max((p for r, p in points if r >= k / total - 1e-12), default=0.0) for k in range(1, total + 1)]
    return sum(reached) / total


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_is_its_definition(seed):
    choose = random.Random(seed)
    truth = [draw(choose.randint(0, 4), choose) for _ in range(4)] + [draw(2, choose)]
    found = []
    for true in truth:  # some near a true box, some anywhere
        near = torch.cat([(true + torch.tensor([0, 0, choose.randint(0, 3), 1])), draw(4, choose)])
        found.append((near, torch.tensor([choose.random() for _ in near])))
    expected = by_definition(found, truth)
    assert 0 < expected < 1
    assert average_precision(found, truth) == pytest.approx(expected, abs=1e-9)


def test_mean_over_the_classes_that_occur():
    boxes, labels = scattered(20, 3)
    sure = outputs(boxes, labels, 3, 4)
    assert detection.mean_average_precision(sure, boxes, labels) > 0.95  # a few true boxes overlap each other
    apart = torch.tensor([[[0.1, 0.1, 0.2, 0.2], [0.6, 0.6, 0.8, 0.8]]])
    two = torch.tensor([[0, 2]])
    out = outputs(apart, two, 3, 4)
    assert detection.mean_average_precision(out, apart, two) == pytest.approx(1.0)
    assert detection.mean_average_precision(out, apart, torch.tensor([[0, 1]])) == pytest.approx(0.5)
    assert detection.mean_average_precision(out, apart, torch.tensor([[0, 0]])) == pytest.approx(0.5)
    assert detection.mean_average_precision(out.roll(1, 2), apart, two) == 0
    assert detection.mean_average_precision(out, apart, two, least=2.0) == 0
