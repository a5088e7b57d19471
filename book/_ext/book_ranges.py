"""Axes that stay put: a figure whose controls change what is drawn gets ranges that hold all of it.

Plotly fits an axis to what is drawn at the moment, so that a menu or a slider would move the frame and not the curve. Here
the extent of every view is computed once, and the axis is given one range for all of them. Where an axis changes what it
measures (its title, its type), or where a view would shrink to a small part of it, each option of the menu that makes the
difference gets a range. Axes of names or of stacked bars, and those whose range the figure itself says, stay as they are.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

LEAST = 1 / 6  # of an axis, for a view that shares it with others
MARGIN = 0.05  # of the extent, on either side
MANY = 3000  # combinations of options that are looked at
NAMES = "names"  # the extent of an axis that holds words


class Extent(NamedTuple):
    """Of what is drawn along an axis: the least and the largest number, and those of what keeps a margin to the edge."""

    low: float
    high: float
    lowest: float
    highest: float


def fix(figure: dict) -> dict:
    """The figure (data, layout, frames) with ranges; the same object, changed."""
    layout = figure["layout"]
    controls = [menu["buttons"] for menu in layout.get("updatemenus", ())]
    controls += [slider["steps"] for slider in layout.get("sliders", ())]
    controls = [options for options in controls if all(option["method"] != "animate" for option in options)]
    stacked = layout.get("barmode") in ("stack", "relative")  # their sums are not looked at
    if (controls or figure.get("frames")) and not stacked and math.prod(map(len, controls)) <= MANY:
        for axis in [key for key in layout if re.fullmatch(r"[xy]axis\d*", key)]:
            _fix(figure, axis, controls)
    return figure


def parts(option: dict) -> tuple[dict, dict, list | None]:
    """What an option changes: of the traces, of the layout, and the numbers of these traces (None: all)."""
    args = option["args"]
    if option["method"] == "relayout":
        return {}, args[0], None
    if option["method"] == "restyle":
        return args[0], {}, args[1] if len(args) > 1 else None
    return args[0], args[1] if len(args) > 1 else {}, args[2] if len(args) > 2 else None


def _fix(figure: dict, axis: str, controls: list[list[dict]]) -> None:
    own = figure["layout"][axis]
    changed = {key for options in controls for option in options for key in parts(option)[1]}
    if (
        own.get("range")
        or own.get("matches")
        or any(key.startswith((f"{axis}.range", f"{axis}.auto")) for key in changed)
    ):
        return
    views = [view for view in _views(figure, axis, controls) if view[2]]
    if not views or any(extent == NAMES for *_, extent in views):
        return
    for shares, control in itertools.product((LEAST, 0), (None, *range(len(controls)))):
        classes: dict = {}
        for picks, kind, extent in views:
            classes.setdefault(None if control is None else picks[control], []).append((kind, extent))
        if all(_agree(members, shares) for members in classes.values()):
            break
    else:
        return
    if control is not None:  # options that measure the same may still share a range
        alike: dict = {}
        for members in classes.values():
            alike.setdefault(members[0][0], []).extend(members)
        classes = {pick: alike[m[0][0]] if _agree(alike[m[0][0]], LEAST) else m for pick, m in classes.items()}
    ranges = {pick: _range([extent for _, extent in members], own) for pick, members in classes.items()}
    own.pop("autorange", None)
    if control is None:
        own["range"] = ranges[None]
        return
    active = _active(figure["layout"], controls[control])
    own["range"] = ranges.get(active, next(iter(ranges.values())))
    for pick, found in ranges.items():
        traces, layout, which = parts(controls[control][pick])
        change = [traces, layout | {f"{axis}.range": found}]
        controls[control][pick] |= {"method": "update", "args": change if which is None else [*change, which]}


def _agree(members: list[tuple], least: float) -> bool:
    """Do these views measure the same, and does each fill its share of what they span together?"""
    spans = [extent.high - extent.low for _, extent in members]
    whole = max(extent.high for _, extent in members) - min(extent.low for _, extent in members)
    return len({kind for kind, _ in members}) == 1 and all(span >= least * whole for span in spans if span > 0)


def _range(extents: list[Extent], axis: dict) -> list[float]:
    low, high = min(extent.low for extent in extents), max(extent.high for extent in extents)
    if axis.get("rangemode") in ("tozero", "nonnegative") and axis.get("type") != "log":
        low = min(low, 0)
    margin = MARGIN * (high - low) if high > low else abs(high) / 2 or 1
    low = min(low, *(extent.lowest - margin for extent in extents))
    high = max(high, *(extent.highest + margin for extent in extents))
    digits = 5 - math.floor(math.log10(high - low))
    ends = [round(end, digits) for end in (low, high)]
    return ends[::-1] if axis.get("autorange") == "reversed" else ends


def _active(layout: dict, options: list[dict]) -> int:
    for control in (*layout.get("updatemenus", ()), *layout.get("sliders", ())):
        if (control.get("buttons") or control.get("steps")) is options:
            return control.get("active") or 0
    raise AssertionError("options of no control")


def _views(figure: dict, axis: str, controls: list[list[dict]]) -> Iterator[tuple]:
    """Of every combination of options: their numbers, what the axis measures, and the extent along it (None: of nothing)."""
    letter, short = axis[0], axis.replace("axis", "")
    layout = figure["layout"]
    for picks in itertools.product(*(range(len(options)) for options in controls)):
        traces = [dict(trace) for trace in figure["data"]]
        kind = [_words(layout[axis].get("title")), layout[axis].get("type")]
        for options, pick in zip(controls, picks, strict=True):
            change, relayout, which = parts(options[pick])
            for key, value in change.items():
                where = range(len(traces)) if which is None else which
                for n, i in enumerate(where):
                    traces[i][key] = value[n % len(value)] if isinstance(value, list) and value else value
            for n, key in enumerate(("title", "type")):
                found = relayout.get(f"{axis}.{key}.text", relayout.get(f"{axis}.{key}"))
                kind[n] = kind[n] if found is None else _words(found) if key == "title" else found
        yield picks, tuple(kind), _extent(figure, traces, letter, short, kind[1] == "log")


def _words(title) -> str:
    return (title.get("text") if isinstance(title, dict) else title) or ""


def _extent(figure: dict, traces: list[dict], letter: str, short: str, log: bool) -> Extent | str | None:
    """Of what these traces cover, whatever frame is shown."""
    drawn = list(traces)
    for frame in figure.get("frames", ()):
        which = frame.get("traces") or range(len(frame["data"]))
        drawn += [traces[i] | change for i, change in zip(which, frame["data"], strict=False)]
    every, padded = [], ([], [])
    for trace in drawn:
        if trace.get("visible", True) is False or (trace.get(f"{letter}axis") or letter) != short:
            continue
        numbers = _numbers(trace, letter)
        if numbers == NAMES:
            return NAMES
        numbers = [math.log10(v) for v in numbers if v > 0] if log else numbers
        every += numbers
        for side, margin in zip(padded, _margins(trace, letter), strict=True):
            side += numbers if margin else []
    for shape in figure["layout"].get("shapes", ()):
        if shape.get(f"{letter}ref", letter) == short:
            ends = [shape.get(f"{letter}{end}") for end in (0, 1)]
            ends = [end for end in ends if isinstance(end, int | float) and (end > 0 or not log)]
            every += [math.log10(end) for end in ends] if log else ends
    if not every:
        return None
    return Extent(min(every), max(every), min(padded[0], default=math.inf), max(padded[1], default=-math.inf))


def _margins(trace: dict, letter: str) -> tuple[bool, bool]:
    """Below and above? Plotly draws maps to the edge, lines to both ends, and bars from the edge; all else keeps a distance."""
    kind = trace.get("type", "scatter")
    if kind in ("heatmap", "contour"):
        return False, False
    if kind == "bar" and _grow(trace, letter):
        return min((v for v in trace.get(letter) or () if v is not None), default=0) < 0, True
    mode = trace.get("mode") or ("lines+markers" if len(trace.get("y") or ()) < 20 else "lines")
    padded = letter == "y" or kind != "scatter" or mode != "lines" or f"error_{letter}" in trace
    return padded, padded


def _grow(bars: dict, letter: str) -> bool:
    return (bars.get("orientation") or "v") == ("h" if letter == "x" else "v")


def _numbers(trace: dict, letter: str) -> list[float] | str:
    """What a trace covers along an axis: its points, their error bars, the widths and feet of bars, the edges of cells."""
    kind, values = trace.get("type", "scatter"), trace.get(letter)
    if values is None:
        rows = trace.get("z") or ()
        other = trace.get("y" if letter == "x" else "x") or ()
        values = range((len(rows[0]) if letter == "x" else len(rows)) if rows else len(other))
    numbers = [v for v in values if v is not None]
    if any(isinstance(v, str) for v in numbers):
        return NAMES
    if kind == "heatmap" or (kind == "bar" and not _grow(trace, letter)):
        steps = [b - a for a, b in itertools.pairwise(sorted(numbers)) if b != a]
        half = min(steps, default=1) / 2
        return [v + side * half for v in numbers for side in (-1, 1)]
    if kind == "bar" or str(trace.get("fill", "")).endswith(f"tozero{letter}"):
        numbers.append(0)
    bar = trace.get(f"error_{letter}") or {}
    if up := bar.get("array"):
        ends = zip(values, up, bar.get("arrayminus") or up, strict=False)
        numbers += [end for v, u, d in ends if None not in (v, u, d) for end in (v + u, v - d)]
    return numbers
