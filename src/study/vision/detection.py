"""One-stage detection on a grid, as in YOLOv2 (Redmon and Farhadi, 2017) but with one box for each cell, and its score.

A box is left, top, right, bottom as shares of the image's width and height. The cell that holds a box's centre is to find
it. Outputs of a network, (n, 5 + C, rows, columns): horizontal and vertical place of the centre in the cell before a
sigmoid, logarithm of width and height over `PRIOR`, logit of there being a box, logits of the C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

PRIOR = (1 / 6, 1 / 5)  # width and height of a usual box: about those of a red blood cell in BCCD


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Area of intersection over area of union of boxes (k, 4) and (m, 4): (k, m); 0 where both are empty."""
    corner, end = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    common = (end - corner).clamp(min=0).prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).clamp(min=0).prod(-1) for x in (a, b)]
    union = areas[0][:, None] + areas[1] - common
    return torch.where(union > 0, common / union, 0.0)


def encode(boxes: Tensor, labels: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the cells are to find: whether there is a box (n, rows, columns), its four numbers (.., 4), its class (..).

    boxes: (n, m, 4), labels: (n, m), -1 where there is no box. Of several centres in a cell the last one counts. The first
    two numbers are the centre's place in the cell, in [0, 1).
    """
    n, device = len(boxes), boxes.device
    there = torch.zeros(n, rows, columns, dtype=torch.bool, device=device)
    numbers = torch.zeros(n, rows, columns, 4, device=device)
    classes = torch.zeros(n, rows, columns, dtype=torch.int64, device=device)
    grid = torch.tensor((columns, rows), device=device)
    place = (boxes[..., :2] + boxes[..., 2:]) / 2 * grid
    cell = torch.minimum(place.floor().long(), grid - 1)
    size = ((boxes[..., 2:] - boxes[..., :2]) / torch.tensor(PRIOR, device=device)).clamp(min=1e-3).log()
    targets = torch.cat([place - cell, size], -1)
    for j in range(labels.shape[1]):  # one box of each image at a time: what counts does not depend on the device
        i = (labels[:, j] >= 0).nonzero()[:, 0]
        x, y = cell[i, j].unbind(-1)
        there[i, y, x], numbers[i, y, x], classes[i, y, x] = True, targets[i, j], labels[i, j]
    return there, numbers, classes


def decode(out: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of a network -> boxes (n, rows columns, 4) and their scores for each class (n, rows columns, C)."""
    _, _, rows, columns = out.shape
    y, x = (torch.arange(k, device=out.device) for k in (rows, columns))
    centre = torch.stack([(out[:, 0].sigmoid() + x) / columns, (out[:, 1].sigmoid() + y[:, None]) / rows], -1)
    size = torch.tensor(PRIOR, device=out.device) * out[:, 2:4].clamp(max=4.0).exp().movedim(1, -1)
    boxes = torch.cat([centre - size / 2, centre + size / 2], -1)
    return boxes.flatten(1, 2), (out[:, 4:5].sigmoid() * out[:, 5:].softmax(1)).flatten(2).transpose(1, 2)


def loss(out: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Mean over all cells of the cross entropy of there being a box, plus, where one is to be found, 5 times the squared
    error of its four numbers and the cross entropy of its class. 5 is YOLO's weight; there it is a sum, not a mean."""
    there, numbers, classes = encode(boxes, labels, *out.shape[2:])
    out = out.movedim(1, -1)
    mine = out[there]
    found = torch.cat([mine[:, :2].sigmoid(), mine[:, 2:4]], 1)
    total = 5 * (found - numbers[there]).square().sum()
    total = total + cross_entropy(mine[:, 5:], classes[there], reduction="sum")
    total = total + binary_cross_entropy_with_logits(out[..., 4], there.to(out.dtype), reduction="sum")
    return total / there.numel()


def suppress(boxes: Tensor, scores: Tensor, overlap: float = 0.5) -> Tensor:
    """Non-maximum suppression: indices of the boxes (k, 4) that overlap no kept box of a higher score by more than `overlap`,
    by falling score (k,)."""
    order = scores.argsort(descending=True, stable=True)
    close = iou(boxes[order], boxes[order]) > overlap
    keep = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if keep[i]:
            keep[i + 1 :] &= ~close[i, i + 1 :]
    return order[keep]


def average_precision(found: Sequence[tuple[Tensor, Tensor]], truth: Sequence[Tensor], overlap: float = 0.5) -> float:
    """Average precision of one class as PASCAL VOC has it since 2010: the area under the largest precision at each recall.

    found: for each image boxes (k, 4) and scores (k,); truth: for each image boxes (m, 4). By falling score, a box is right
    if its best match among the image's true boxes overlaps by `overlap` and is not taken yet. NaN where no box is true.
    """
    judged: list[tuple[float, bool]] = []
    for (boxes, scores), true in zip(found, truth, strict=True):
        taken, overlaps = set(), iou(boxes, true)
        for i in scores.argsort(descending=True, stable=True).tolist():
            best = int(overlaps[i].argmax()) if len(true) else -1
            right = best >= 0 and best not in taken and float(overlaps[i, best]) >= overlap
            taken |= {best} if right else set()
            judged.append((-float(scores[i]), right))
    total = sum(map(len, truth))
    if not total:
        return math.nan
    judged.sort(key=lambda pair: pair[0])
    right = torch.tensor([r for _, r in judged], dtype=torch.float64)
    precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
    largest = precision.flip(0).cummax(0).values.flip(0) if len(right) else precision
    return float((right * largest).sum() / total)


def mean_average_precision(out: Tensor, boxes: Tensor, labels: Tensor, least: float = 0.01) -> float:
    """Mean over the classes that occur of the average precision at an overlap of 1/2, from outputs of a network and the true
    boxes, see `encode`. Boxes with a score of less than `least` are left out."""
    decoded, scores = decode(out.float().cpu())
    boxes, labels, found = boxes.cpu(), labels.cpu(), []
    for c in range(scores.shape[2]):
        kept = []
        for place, score in zip(decoded, scores[..., c], strict=True):
            place, score = place[score >= least], score[score >= least]
            i = suppress(place, score)
            kept.append((place[i], score[i]))
        found.append(average_precision(kept, [b[label == c] for b, label in zip(boxes, labels, strict=True)]))
    return float(torch.tensor(found, dtype=torch.float64).nanmean())
