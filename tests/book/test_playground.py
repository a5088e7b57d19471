"""The student's path: every number in the playground's answers from the engine that draws its runs, and ten minutes in all."""

from __future__ import annotations

import functools
import re

import pytest

from conftest import ROOT, served

PAGE = (ROOT / "book" / "playground.md").read_text(encoding="utf-8")
HOME = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
BOX = (ROOT / "notebooks" / "14_what_to_use.md").read_text(encoding="utf-8")
EXPERIMENTS = {
    name: (text, answer)
    for name, text, answer in re.findall(r"\((pg-\w+)\)=\n### (.*?)\n:::\{dropdown\} Answer\n(.*?)\n:::", PAGE, re.S)
}
PATH = ("pg-order", "pg-why", "pg-freeze")
SEEDS = range(40)

RUNS = """async ([hashes, whole]) => {
  const { readState } = await import("/trainer/view.js"), { taskOf, Run, CODES } = await import("/trainer/run.js");
  const kept = {};
  return hashes.map(hash => {
    const state = readState(hash), task = taskOf(state, kept);
    return [state.a, state.b].map(code => {
      const run = new Run(CODES[code], state, task), steps = Array.from({ length: run.T + 1 }, (_, k) => k);
      const signs = steps.map(k => run.roundedAt(k).join()), seen = {};
      const rounded = steps.map(k => (seen[signs[k]] ??= task.loss(run.roundedAt(k))));
      return {
        w: whole && steps.map(k => [...run.at(k)]), largest: run.largest, epsilons: run.epsilons,
        latent: steps.map(k => (whole || k === run.T ? task.loss(run.at(k)) : null)), rounded, multipliers: run.duals?.map(d => [...d]),
        changes: steps.slice(1).filter(k => signs[k] !== signs[k - 1]),
        places: whole && task.all && rounded.map(task.all.place) };
    });
  }); }"""


@pytest.fixture(scope="module")
def runs(chromium):
    """Addresses -> of each the runs of both methods."""
    with served(ROOT / "book" / "_static") as address:
        page = chromium.new_page()
        page.goto(f"{address}favicon.svg")
        yield lambda *hashes, whole=True: page.evaluate(RUNS, [hashes, whole])
        page.close()


@pytest.fixture(scope="module")
def forty(runs):
    """Ends of addresses -> of each the runs of both methods on forty seeds, with losses as trained at the end only."""

    @functools.cache
    def found(*ends):
        flat = runs(*(f"#task=II&seed={seed}{end}" for seed in SEEDS for end in ends), whole=False)
        return [flat[i :: len(ends)] for i in range(len(ends))]

    return found


def links(name: str) -> list[str]:
    return [link.replace("&amp;", "&") for link in re.findall(r'href="(#[^"]+)"', EXPERIMENTS[name][0])]


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def ordinal(n: int) -> str:
    return f"{n}{'th' if n % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def says(name: str, *facts: str) -> None:
    """The answer holds these words in this order, and no number besides."""
    answer = re.sub(r"\{ref\}`[^`]*`|\(\.\./[^)]*\)|−1 and \+1", "", EXPERIMENTS[name][1])
    for fact in facts:
        before, found, answer = answer.partition(fact)
        assert found, f"{name}: {fact!r} should come before {answer!r} or after {before!r}"
        assert not re.search(r"\d", before), f"{name}: no fact for {before!r}"
    assert not re.search(r"\d", answer), f"{name}: no fact for {answer!r}"


def turned(pair) -> bool:
    full, connect = pair
    return full["latent"][-1] < connect["latent"][-1] and full["rounded"][-1] > connect["rounded"][-1]


def test_rounding_turns_the_order_round(runs, forty):
    first, another, exception = runs(*links("pg-order"))
    (full, connect), (many,) = first, forty("")
    assert turned(first) and turned(another) and not turned(exception)
    says(
        "pg-order",
        f"{full['latent'][-1]:.3f} against {connect['latent'][-1]:.3f}",
        f"{connect['rounded'][-1]:.3f} against {full['rounded'][-1]:.3f}",
        "On seed 17",
        "on seed 4 it does not",
        f"on {sum(map(turned, many))} of {len(SEEDS)} seeds",
        f"{mean(full['rounded'][-1] for full, _ in many):.3f} with full precision",
        f"{mean(connect['rounded'][-1] for _, connect in many):.3f} with BinaryConnect",
    )


def test_why_binaryconnect_wins(runs, forty):
    (full, connect), start = runs(*links("pg-why"))[0], 60
    assert full["places"][start] == connect["places"][start] == 1, "both have the best network"
    away = [[k for k in range(start, 501) if run["places"][k] > 1] for run in (full, connect)]
    assert away[0] == list(range(away[0][0], 501)), "for good"
    assert all(k + 1 not in away[1] for k in away[1]), "back after one step"
    lost = [
        sum(run["rounded"][-1] > min(run["rounded"]) + 1e-9 for run in method)
        for method in zip(*forty("")[0], strict=True)
    ]
    assert lost[1] == 0
    says(
        "pg-why",
        f"step {away[0][0]} for good",
        f"{full['latent'][start]:.3f} to {full['latent'][-1]:.3f}",
        f"{full['rounded'][start]:.3f} to {full['rounded'][-1]:.3f}",
        f"leaves it {len(away[1])} times and is back 1 step later",
        f"On {lost[0]} of {len(SEEDS)} seeds",
    )


def test_a_flip_that_does_harm_is_felt_in_the_next_step(runs):
    """The weight that crossed was moved back by the very next gradient."""
    connect = runs(*links("pg-why"))[0][1]
    for k in [k for k in range(61, 501) if connect["places"][k] > 1 and connect["places"][k - 1] == 1]:
        before, after, back = (connect["w"][k + i] for i in (-1, 0, 1))
        (flipped,) = [i for i in range(9) if (before[i] < 0) != (after[i] < 0)]
        assert (back[flipped] - after[flipped]) * (after[flipped] - before[flipped]) < 0


def test_the_freeze(runs, forty):
    (_, early), (_, late) = runs(*links("pg-freeze"))
    assert early["changes"][-1] < 20 and late["changes"][-1] < 220, "before epsilon falls"
    ends, epochs = [], (0, 5, 10, 15, 20)
    for epoch, many in zip(epochs, forty(*(f"&a=askew&b=askew&alpha=0.5&from={e}" for e in epochs)), strict=True):
        found = [run for run, _ in many]
        falls = found[0]["epsilons"].index(next(e for e in found[0]["epsilons"] if e < found[0]["epsilons"][0]))
        assert max(k for run in found for k in run["changes"]) <= falls == 20 * (epoch + 1)
        ends.append(f"{mean(run['rounded'][-1] for run in found):.3f}")
    step = early["changes"][-1]
    says(
        "pg-freeze",
        f"After step {step} of 500",
        f"{500 - step} steps",
        "epoch 10 on (step 200)",
        f"step {late['changes'][-1]}",
        f"On {len(SEEDS)} other",
        f"{late['rounded'][-1]:.3f} instead of {early['rounded'][-1]:.3f}",
        f"{ends[2]} and {ends[0]}",
    )
    full, latest = runs(*links("pg-late"))[0]
    assert early["places"][-1] == 1
    says(
        "pg-late",
        f"the {ordinal(latest['places'][-1])} of 512",
        f"the {ordinal(full['places'][-1])}",
        f"over {len(SEEDS)}\nseeds the rounded loss is {', '.join(ends[:4])} and {ends[4]} with starts after 0, 5, 10, 15 and 20 epochs",
    )


def test_the_midpoint(runs):
    (stays, leaves), (swings, _) = runs(*links("pg-midpoint"))
    assert {w[0] for w in stays["w"]} == {0} and leaves["w"][-1][0] > 0.9
    w = [w[0] for w in swings["w"]]
    assert min(w[w.index(max(w)) :]) < 0.2 and max(w[-50:]) - min(w[-50:]) > 1, "it does not settle"
    says(
        "pg-midpoint",
        "slope is 0",
        f"its bound, {max(stays['multipliers'][0]):g}",
        "From 0.05",
        f"up to {max(w):.2f}",
        f"{len(w) - 1} steps",
    )


def test_alpha_times_step_size_above_two(runs):
    def jumps(run):
        w = [w[0] for w in run["w"]]
        return max(abs(b - a) for a, b in zip(w, w[1:], strict=False))

    (_, calm), (_, wild), (_, clipped) = runs(*links("pg-overshoot"))
    edge, w = -1.1, [w[0] for w in calm["w"]]
    factor = (w[1] - edge) / (w[0] - edge)
    assert factor == pytest.approx(1 - 16 * 0.1) and abs(w[-1] + 1) < 0.05
    second = (wild["w"][2][0] - wild["w"][1][0]) / (wild["w"][1][0] - wild["w"][0][0])
    assert abs(second) > 2 and wild["largest"] > 8
    says(
        "pg-overshoot",
        f"1 − 16 · 0.1 = −{-factor:.1f}",
        "α = 30 the factor is −2",
        f"at {jumps(wild):.0f}",
        "With a clip of 1",
        f"longer than {jumps(clipped):.1f}",
        "step size above 1",
    )


def test_the_dual_step_that_diverges(runs):
    (_, small), (full, wild), (_, boxed) = runs(*links("pg-dual"))
    assert small["places"][-1] == 1
    last = wild["latent"][-14:]
    says(
        "pg-dual",
        f"up to {wild['largest']:.0f} from 0",
        f"the last {len(last)} steps",
        f"between {min(last):.0f} and {max(last):.0f}",
        "multiplier at 1",
        f"{boxed['latent'][-1]:.3f} as trained",
        f"{boxed['rounded'][-1]:.3f}, the {ordinal(boxed['places'][-1])} network instead of the {ordinal(wild['places'][-1])}",
    )


# The clock


def visible(text: str) -> str:
    """Markdown without its code, header, marks and addresses."""
    text = re.sub(r"```.*?```|\A---.*?---|:::\{claims\}.*?:::|^\([^\n]*\)=$", "", text, flags=re.S | re.M)
    text = re.sub(r"\{cite\}`[^`]*`|<a [^>]*>|</a>|:::.*|\{ref\}|<[\w-]+>", " ", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def seconds(text: str, runs: int = 0) -> float:
    """200 words a minute, 20 seconds for each run that is opened, 30 for each that is played."""
    words = [word for word in visible(text).split() if re.search(r"\w", word)]
    return 0.3 * len(words) + 20 * runs + 30 * len(re.findall(r"\bPlay\b", text))


def test_the_students_path_takes_ten_minutes():
    """The landing page, the three experiments, the box of What to use, each within what the landing page says of it."""
    claimed = [int(n) for n in re.findall(r"\((\d)\)", re.search(r"\*\*New here\?.*", HOME)[0])]
    upper, rest = PAGE.split("## More, for readers")
    assert all(f"({name})=" in upper for name in PATH) and "**Done.**" in upper
    box = re.search(r":class: opener\n(.*?)\n:::", BOX, re.S)[1]
    spent = [
        seconds(HOME, 1) + 0.3 * 60,  # with the trainer's own sentence
        seconds(upper, sum(len(links(name)) for name in PATH)),
        seconds(box),
    ]
    assert sum(claimed) == 10 and len(claimed) == 3
    assert sum(spent) <= 600, spent
    assert [round(s / 60) for s in spent] == claimed, spent


def test_the_path_is_followed_with_next_alone():
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert re.findall(r"(?:root|file): (\S+)", toc)[:3] == ["book/index", "book/playground", "notebooks/14_what_to_use"]


# Words that explain themselves


@pytest.mark.parametrize("touch", [True, False])
def test_a_tap_shows_the_meaning_in_place_and_a_second_one_goes_there(chromium, tmp_path, touch):
    static = ROOT / "book" / "_static"
    (tmp_path / "page.html").write_text(
        f'<!doctype html><title>t</title><link rel="stylesheet" href="{(static / "custom.css").as_uri()}">'
        '<body class="bd-article"><p>It is <a class="hint" href="#term" data-meaning="What it means.">annealed</a> and '
        f'<b>more</b>.</p><script defer src="{(static / "touch.js").as_uri()}"></script>',
        encoding="utf-8",
    )
    context = chromium.new_context(has_touch=touch, is_mobile=touch)
    page = context.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    shown = "getComputedStyle(document.querySelector('a.hint'), '::after').content"
    press = (lambda where: page.locator(where).tap()) if touch else (lambda where: page.locator(where).click())
    press("a.hint")
    assert page.evaluate("location.hash") == ("" if touch else "#term")
    assert "What it means." in page.evaluate(shown)
    if touch:
        press("b")
        assert page.locator("a.hint.shown").count() == 0
        press("a.hint")
        press("a.hint")
        assert page.evaluate("location.hash") == "#term"
    context.close()
