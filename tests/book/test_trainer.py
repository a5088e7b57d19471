"""The trainer in a browser, on a page of its own that is opened from a folder: what it shows, its controls, its address."""

from __future__ import annotations

import contextlib
import gzip
import io
import re

import pytest
from axe_playwright_python.sync_playwright import Axe

from book_trainer import bundle
from conftest import ROOT
from study.methods import LINES
from study.tasks import still

STATIC = ROOT / "book" / "_static"
PATIENCE = 60_000
KINDS = {"landing": still.Still(), "playground": still.Still(full=True)}
# The book's theme defines these; some text is needed to scroll away from the trainer.
PAGE = """<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>t</title>
<meta name="viewport" content="width=device-width"><style>
html {{ --pst-color-text-base: #222832; --pst-color-text-muted: #48566b; --pst-color-border: #c9c9c9; --pst-color-background: #fff;
  --pst-color-surface: #f3f4f5; --pst-color-primary: #0a7d91; }}
html[data-theme=dark] {{ --pst-color-text-base: #ced6dd; --pst-color-text-muted: #9ca4af; --pst-color-border: #48566b;
  --pst-color-background: #14181e; --pst-color-surface: #222832; --pst-color-primary: #5fb4c8; }}
body {{ background: var(--pst-color-background); color: var(--pst-color-text-base); margin: 1rem; font-family: sans-serif; }}
a {{ color: var(--pst-color-primary); }}
p.far {{ margin-bottom: 3000px; }}
</style><link rel="stylesheet" href="{css}"></head>
<body><main><h1>A page</h1><p><a href="#a" id="before">before</a></p>{still}<p class="far">after</p><p id="end">end</p></main>
<script src="{script}"></script></body></html>"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """(kind, theme) -> the address of a page."""
    folder = tmp_path_factory.mktemp("trainer")
    script = folder / "trainer.js"
    script.write_text(bundle(), encoding="utf-8")
    css = (STATIC / "custom.css").as_uri()

    def write(kind: str, theme: str = "light") -> str:
        file = folder / f"{kind}-{theme}.html"
        still = KINDS[kind]._repr_html_()
        file.write_text(PAGE.format(theme=theme, css=css, still=still, script=script.as_uri()), encoding="utf-8")
        return file.as_uri()

    return write


@pytest.fixture
def opened(chromium, address):
    """Opens pages; nothing may have gone wrong on any of them."""
    contexts, faults = [], []

    def open_page(kind="landing", state="", theme="light", width=1000, **options):
        context = chromium.new_context(viewport={"width": width, "height": 1100}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: message.type == "error" and faults.append(message.text))
        page.goto(address(kind, theme) + state)
        if options.get("java_script_enabled", True):
            page.wait_for_selector(".trainer[data-ready]", timeout=PATIENCE)
            page.wait_for_selector(".trainer-says:not(:empty)", timeout=PATIENCE)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def experiment_links() -> list[str]:
    text = (ROOT / "book" / "playground.md").read_text(encoding="utf-8")
    return [link.replace("&amp;", "&") for link in re.findall(r'href="(#[^"]+)"', text)]


def k(page) -> int:
    return page.evaluate("document.querySelector('.trainer').trainer.k")


def says(page) -> str:
    return page.locator(".trainer-says").text_content()


def losses(page) -> list[list[float]]:
    return page.evaluate("(t => t.runs.map(run => run.losses(t.k)))(document.querySelector('.trainer').trainer)")


def move(page, key: str, value: float) -> None:
    """Set a slider to one of its values, as a hand does."""
    page.evaluate(
        """([key, value]) => { const input = document.querySelector(`[data-key=${key}]`);
             const output = input.parentElement.querySelector("output");
             for (let i = 0; i <= Number(input.max); i++) { input.value = i; input.dispatchEvent(new Event("input"));
               if (Number(output.textContent.replace("−", "-")) === value) return; }
             throw new Error(`no ${value}`); }""",
        [key, value],
    )
    page.wait_for_function("!document.querySelector('.trainer').trainer.due", timeout=PATIENCE)


# The first state


def test_the_first_state_makes_the_point(opened):
    page = opened()
    found = still.places()
    for (latent, rounded), name in zip(losses(page), still.PAIR, strict=True):
        assert [latent, rounded] == pytest.approx(found[name].tolist(), abs=1e-9)
    connect = still.PAIR[1]
    assert "as trained, Full precision is ahead, 0.227 against 0.366" in says(page)
    assert f"Rounded to −1 and +1, {connect} is ahead, 0.373 against 0.500" in says(page)
    assert "Rounding turns the order round." in says(page)
    assert f"Of all 512 networks of such weights, Full precision gives the 28th best, {connect} the best." in says(page)


@pytest.mark.parametrize("width", [1000, 390])
def test_without_scripts_there_are_a_picture_and_its_data(opened, width):
    page = opened(width=width, java_script_enabled=False)
    panels = [panel.bounding_box()["width"] for panel in page.locator(".trainer-still > svg").all()]
    assert len(panels) == 4 and min(panels) >= 150, "as large as its words are readable"
    assert page.locator(".trainer-still").bounding_box()["height"] > 100
    assert page.get_by_text("A still picture").is_visible()
    page.locator("summary").click()
    assert page.locator(".trainer td").count() == 40


COLOURS = """[...document.querySelectorAll('.trainer canvas')].filter(c => c.offsetWidth).map(canvas => {
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data, found = new Set();
  for (let i = 0; i < data.length; i += 4) found.add([data[i], data[i + 1], data[i + 2], data[i + 3]].join());
  return found.size; })"""


@pytest.mark.parametrize("state", ["II", "II-2", "II-8", "I", "I-2", "bowl", "line", "valley", "valley-2"])
def test_every_task_is_drawn(opened, state):
    page = opened("playground", f"#task={state}&a=sgda&b=modified")
    page.evaluate("scrollTo(0, 0)")
    found = page.evaluate(COLOURS)
    assert len(found) == (8 if state in ("II", "II-2", "II-8", "I") else 7)
    assert min(found) > 8
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000


def test_all_pictures_are_drawn_after_another_method_and_another_seed(opened):
    page = opened()
    page.locator(".trainer select").first.select_option("askew")
    page.wait_for_timeout(500)
    assert min(page.evaluate(COLOURS)) > 8
    seed = page.locator(".trainer-settings input").first
    seed.fill("3")
    seed.dispatch_event("change")
    page.wait_for_timeout(500)
    assert min(page.evaluate(COLOURS)) > 8


EXPERIMENTS = """document.querySelector('main').insertAdjacentHTML('beforeend', `
  <section id="one"><span id="pg-one"></span><h3>One<a href="#">#</a></h3>
  <p><a class="trainer-link" href="#task=II&b=askew">Open the run</a> Look. <strong>Which?</strong>
  <a class="trainer-link" href="#task=II&b=askew&from=10">Start annealing in epoch 10</a></p>
  <details><summary>Answer</summary><p>That one.</p></details></section>
  <section id="two"><h3>Two</h3><p><a class="trainer-link" href="#task=bowl">Open the run</a></p></section>`)"""


def test_an_experiment_stands_above_its_run_with_its_steps_and_its_answer(opened):
    page = opened("playground")
    page.evaluate(EXPERIMENTS)
    page.locator("#one a.trainer-link").first.click()
    card = page.locator(".trainer-card")
    assert re.sub(r"\s+", " ", card.locator("p").first.text_content()) == (
        "One Open the run Look. Which? Start annealing in epoch 10"
    )
    assert card.locator("p").last.text_content() == "Next: Two"
    answer = card.get_by_text("That one.")
    assert not answer.is_visible() and card.locator("[id]").count() == 0
    card.get_by_text("Answer").click()
    card.get_by_text("Start annealing").click()
    page.wait_for_function("document.querySelector('.trainer').trainer.state.from === 10", timeout=PATIENCE)
    assert answer.is_visible(), "a further step of the same experiment"
    card.get_by_role("link", name="Two").click()
    page.wait_for_function("document.querySelector('.trainer').trainer.state.task === 'bowl'", timeout=PATIENCE)
    assert card.text_content() == "Two Open the run"


def test_the_playground_opens_at_the_first_experiment(opened):
    page = opened("playground")
    assert page.evaluate("location.hash") == experiment_links()[0]
    assert page.evaluate("document.querySelector('.trainer').trainer.state.seed") != still.SEED


def test_a_diverged_run_is_ahead_of_nobody(opened):
    page = opened("playground", "#task=line&a=bcdet&b=modified&c=-0.3&w0=-1.5&eps=0.1&alpha=30&clip=1000")
    assert (
        "as trained, Modified ASkewSGD has diverged" in says(page)
        and "ahead" not in page.locator(".trainer").text_content()
    )
    assert "beyond the picture" in page.locator(".trainer-run figcaption").last.text_content()
    page = opened("playground", "#task=line&c=-0.3")
    assert "the losses are" in says(page) and "ahead" not in page.locator(".trainer").text_content()
    page = opened("playground", "#task=II&b=sgda&rate=0.3&dmax=10")
    assert "SGDA has diverged" in says(page) and "turns" not in says(page)
    page = opened("playground", "#task=II&lr=3&base=momentum")  # far out, but where the loss is small
    assert "Full precision is ahead" in says(page)


@pytest.mark.parametrize("key", ["w0", "eps", "rate"])
def test_every_slider_moves_by_one_notch_under_a_finger(opened, key):
    page = opened("playground", "#task=bowl&a=sgda&b=askew&w0=0", width=390, has_touch=True)
    assert page.locator(".trainer input[type=range]").count() == page.get_by_role("button", name=": more").count()
    control = page.locator(f"[data-key={key}]")
    index = int(control.input_value())
    for word, expected in (("more", index + 1), ("less", index), ("less", index - 1)):
        button = control.locator("xpath=..").get_by_role("button", name=f": {word}")
        assert min(button.bounding_box()[side] for side in ("width", "height")) >= 24
        button.tap()
        page.wait_for_function("!document.querySelector('.trainer').trainer.due", timeout=PATIENCE)
        assert int(control.input_value()) == expected
        state = page.evaluate(f"document.querySelector('.trainer').trainer.state.{key}")
        assert control.locator("xpath=../output").text_content() == f"{state:g}".replace("-", "−")


def test_the_pictures_stand_next_to_play_on_a_phone(opened):
    page = opened("landing", width=390)
    play, pictures = page.locator(".trainer-bar"), page.locator(".trainer-two canvas")
    lowest = max(box["y"] + box["height"] for box in (picture.bounding_box() for picture in pictures.all()))
    assert lowest - play.bounding_box()["y"] < 560, "on one screen"
    assert page.locator(".trainer-says").bounding_box()["y"] > lowest


def test_every_method_is_described_in_a_line(opened):
    page = opened()
    for code, name in page.locator("#trainer-1-a option").evaluate_all("all => all.map(o => [o.value, o.textContent])"):
        page.locator("#trainer-1-a").select_option(code)
        words = page.locator(".trainer-about").first.text_content()
        assert name and 4 < len(words.split()) < 16 and words.endswith(".")


# Controls


def test_step_play_pause_and_reset(opened):
    page = opened()
    page.wait_for_timeout(300)
    assert k(page) == 500, "motion must not start by itself"
    page.get_by_role("button", name="Step").click()
    assert k(page) == 0, "from the end, a step goes to the start"
    page.get_by_role("button", name="Step").click()
    assert k(page) == 1 and "After 1 of 500 steps" in says(page)
    page.get_by_role("button", name="Play").click()
    said = "document.querySelector('.trainer-says')"
    page.wait_for_function(f"/After [2-9]\\d of/.test({said}.textContent)", timeout=PATIENCE)
    assert page.locator(".trainer-says").get_attribute("aria-live") == "off", "nobody wants to hear that"
    page.get_by_role("button", name="Pause").click()
    stopped = k(page)
    assert f"After {stopped} of 500 steps" in says(page)
    page.wait_for_timeout(200)
    assert k(page) == stopped < 500
    page.locator("#trainer-1-b").select_option("askew")
    move(page, "lr", 0.2)
    assert page.locator("[data-key=alpha]").count() == 1
    page.get_by_role("button", name="Reset").click()
    assert (
        k(page) == 500 and f"{still.PAIR[1]} is ahead" in says(page) and page.locator("[data-key=alpha]").count() == 0
    )


def test_play_stops_at_the_end_and_out_of_view(opened):
    page = opened("playground", "#task=bowl&k=190")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('.trainer-play').textContent === 'Play'", timeout=PATIENCE)
    assert k(page) == 200
    page.get_by_role("button", name="Play").click()
    page.locator("#end").scroll_into_view_if_needed()
    page.wait_for_function("!document.querySelector('.trainer').trainer.playing", timeout=PATIENCE)
    stopped = k(page)
    page.wait_for_timeout(300)
    assert k(page) == stopped


def test_with_reduced_motion_play_shows_one_picture_per_epoch(opened):
    page = opened(reduced_motion="reduce")
    page.evaluate(
        "window.seen = new Set(); setInterval(() => seen.add(document.querySelector('.trainer').trainer.k), 5)"
    )
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('.trainer').trainer.k >= 60", timeout=PATIENCE)
    page.get_by_role("button", name="Pause").click()
    assert all(step % 20 == 0 for step in page.evaluate("[...seen]"))


@pytest.mark.parametrize("key", ["lr", "eps", "from", "alpha", "clip", "rate", "dualeps", "dmax", "seed"])
def test_every_setting_changes_the_run(opened, key):
    page = opened("playground", "#task=II&a=askew&b=sgda")
    before = losses(page)
    control = page.locator(f"[data-key={key}]")
    if key == "seed":
        control.fill("3")
    elif key == "dmax":  # the largest multiplier of this run is far below
        page.evaluate("location.hash = '#task=II&a=askew&b=sgda&rate=0.3'")
        page.wait_for_function("document.querySelector('.trainer').trainer.state.rate === 0.3", timeout=PATIENCE)
        before = losses(page)
        control.press("Home")
    else:
        control.press("Home" if key in ("eps", "alpha", "clip", "dualeps", "lr") else "End")
    page.wait_for_function(
        """before => { const t = document.querySelector('.trainer').trainer;
             return !t.due && JSON.stringify(t.runs.map(run => run.losses(t.k))) !== before; }""",
        arg=str(before).replace(" ", ""),
        timeout=PATIENCE,
    )
    if key != "seed":
        assert control.get_attribute("aria-valuetext") == control.locator("xpath=../output").text_content() != ""


FOCUSED = """(() => { const e = document.activeElement; return !e.closest('.trainer') ? null
  : e.dataset.key ?? (e.id.split('-').slice(2).join('-') || e.tagName.toLowerCase()); })()"""


def tab_stops(page) -> list[str]:
    """What the Tab key reaches in the trainer, in order."""
    page.locator("#before").focus()
    found = []
    for _ in range(40):
        page.keyboard.press("Tab")
        if (stop := page.evaluate(FOCUSED)) is None:
            return found
        found.append(stop)
    raise AssertionError(found)


def test_every_control_is_within_twelve_tab_stops(opened):
    page = opened("landing")
    page.locator("#trainer-1-a").select_option("askew")
    page.locator("#trainer-1-b").select_option("sgda")
    stops = tab_stops(page)
    settings = ["seed", "lr", "eps", "from", "alpha", "clip", "dualeps", "rate"]
    assert stops[:12] == ["button", "time", "a", "b", *settings]
    page = opened("playground", "#task=valley&a=askew&b=sgda")
    page.evaluate(EXPERIMENTS)
    page.evaluate("document.querySelector('.trainer').trainer.ask('#task=II&b=askew')")
    card = ["a", "a", "summary", "a"]
    assert (stops := tab_stops(page))[:4] == card
    assert stops[4:12] == ["task", "base", "button", "time", "a", "b", "seed", "summary"]
    page.locator("[data-key=seed]").focus()
    reached = ["seed"]
    while len(reached) < 20:
        page.keyboard.press("ArrowDown")
        if (here := page.evaluate(FOCUSED)) == "seed":
            break
        reached.append(here)
    assert reached == ["seed", "lr", "c", "w0", "noise", "eps", "from", "alpha", "clip", "dualeps", "rate", "dmax"]
    page.locator("[data-key=alpha]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.trainer').trainer.state.alpha === 1", timeout=PATIENCE)


def test_the_buttons_are_reached_by_arrow_keys(opened):
    page = opened()
    page.locator(".trainer-play").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert k(page) == 0


# Speed: the processor's time, which says the same on a machine that is busy


FRAMES = """async () => {
  const { trainer } = document.querySelector(".trainer");
  let frames = 0, going = true;
  const count = () => { frames++; if (going) requestAnimationFrame(count); };
  trainer.start();
  requestAnimationFrame(count);
  while (trainer.playing && trainer.k < 240) await new Promise(later => setTimeout(later, 20));
  going = false;
  trainer.stop();
  return frames; }"""


def spent(cdp) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in cdp.send("Performance.getMetrics")["metrics"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_takes_a_quarter_of_its_time_and_seldom_a_layout(opened, kind):
    """So that a processor at a fourth of the speed still shows 60 pictures a second."""
    page = opened(kind, "#task=II&a=fp&b=askew", width=1280)
    page.wait_for_function("document.querySelector('.trainer').trainer.runs.every(run => run.filled === 1)")
    cdp = page.context.new_cdp_session(page)
    cdp.send("Performance.enable", {"timeDomain": "threadTicks"})  # seconds of the page's thread, not of the clock
    page.evaluate(FRAMES)  # until the browser has compiled what is used often
    page.evaluate("document.querySelector('.trainer').trainer.show(0)")
    before = spent(cdp)
    frames = page.evaluate(FRAMES)
    per_frame = {name: (value - before[name]) / frames for name, value in spent(cdp).items()}
    assert frames > 20
    assert per_frame["TaskDuration"] < 1 / 60 / 4
    assert per_frame["LayoutCount"] < 0.6  # the words' turn comes with every third frame


# The address


def test_the_state_lies_in_the_address(opened):
    page = opened("playground")
    page.locator("#trainer-1-task").select_option("I")
    page.locator("#trainer-1-b").select_option("modified")
    page.locator("#trainer-1-base").select_option("cosine")
    move(page, "alpha", 0.5)
    page.locator("[data-key=seed]").fill("7")
    page.locator("#trainer-1-time").press("Home")
    page.wait_for_function("location.hash.includes('seed=7') && location.hash.includes('k=0')", timeout=PATIENCE)
    state = page.evaluate("location.hash")
    assert state == "#task=I&b=modified&seed=7&base=cosine&alpha=0.5&k=0"
    move(page, "lr", 2)
    page.evaluate("document.querySelector('.trainer').trainer.show(90)")
    expected = losses(page)
    page.evaluate("document.querySelector('.trainer').trainer.settle()")
    again = opened("playground", page.evaluate("location.hash"))
    assert losses(again) == expected and k(again) == 90


def test_a_wrong_address_is_not_taken(opened):
    page = opened("playground", "#task=none&a=evil&b=bc&seed=-4&lr=nonsense&alpha=3.9&k=1e9&__proto__=1&from=3.7")
    state = page.evaluate("document.querySelector('.trainer').trainer.state")
    assert {key: state[key] for key in ("task", "a", "b", "seed", "lr", "alpha")} == {
        "task": "II", "a": "fp", "b": "bc", "seed": 0, "lr": 1, "alpha": 4,
    }  # fmt: skip
    assert k(page) == 500 and state["from"] == 4


def test_the_links_of_the_experiments_name_states_that_exist(opened):
    links = experiment_links()
    assert len(links) == len(set(links)) > 7
    page = opened("playground")
    for link in links:
        page.evaluate("link => (location.hash = link)", link)
        task, *settings = link[1:].split("&")
        page.wait_for_function(
            f"document.querySelector('.trainer').trainer.state.task === '{task[5:]}'", timeout=PATIENCE
        )
        for setting in settings:
            key, value = setting.split("=")
            page.wait_for_function(
                "([k, v]) => String(document.querySelector('.trainer').trainer.state[k]) === v", arg=[key, value]
            )
            assert key in ("a", "b", "k") or page.locator(f"[data-key={key}]").count() == 1


def test_the_landing_page_links_to_its_run(opened):
    page = opened()
    page.locator("#trainer-1-b").select_option("prox1")
    assert page.get_by_role("link", name="This run in the playground").get_attribute("href") == (
        "playground.html#task=II&b=prox1"
    )


# The same in Python

STATES = [
    "#task=II&a=fp&b=bc",
    "#task=II&a=bcdet&b=ste&seed=3",
    "#task=II-2&a=kbit&b=prox1&base=cosine",
    "#task=II-8&a=prox2&b=proxsq&k=77&strength=0.01",
    "#task=II&a=askew&b=modified&lr=0.3&alpha=0.5&from=2&eps=0.9&base=momentum",
    "#task=II&a=askew&b=modified&k=30",  # chaotic later
    "#task=I&a=bc&b=sgda&base=harmonic",
    "#task=I-2&a=askew&b=fp",
    "#task=bowl&a=bc&b=modified&noise=0.5&k=150",
    "#task=line&a=sgda&b=prox1&c=-0.3",
    "#task=valley&a=fp&b=askew&noise=0.1",
    "#task=valley-2&a=kbit&b=sgda&noise=0.1&seed=5",
    "#task=II&a=debiased&b=bc&lr=0.1",
]


@pytest.mark.parametrize("state", STATES)
def test_the_same_in_python_prints_the_same(opened, state):
    page = opened("playground", state)
    programs, outputs = (
        page.locator(f".trainer-python pre{kind}").all_text_contents()
        for kind in (":not(.trainer-output)", ".trainer-output")
    )
    assert len(programs) == len(outputs) == 2
    for program, output in zip(programs, outputs, strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(program, "pasted", "exec"), {})
        assert printed.getvalue() == output
        assert re.fullmatch(r"latent -?\d+\.\d{6}\nquantized -?\d+\.\d{6}\n", output)


# Everyone, and what it weighs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("theme", "width"), [("light", 1000), ("dark", 390)])
def test_it_is_accessible_and_narrow_enough(opened, kind, theme, width):
    page = opened(kind, "#task=II&a=askew&b=sgda", theme=theme, width=width)
    if kind == "playground":
        page.evaluate(EXPERIMENTS)
        page.evaluate("document.querySelector('.trainer').trainer.ask('#task=II&b=askew')")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = (
        Axe()
        .run(page, context=".trainer", options={"resultTypes": ["violations"], "preload": False})
        .response["violations"]
    )
    assert [(v["id"], [node["html"][:120] for node in v["nodes"]]) for v in found] == []


def test_the_pictures_follow_the_theme(opened):
    page = opened()
    pixels = "document.querySelector('.trainer canvas').toDataURL()"
    light = page.evaluate(pixels)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function(f"light => {pixels} !== light", arg=light, timeout=PATIENCE)


def test_the_pictures_follow_their_width(opened):
    page = opened()
    widths = "[...document.querySelectorAll('.trainer canvas')].map(canvas => canvas.{}).join()"
    drawn = f"{widths.format('width')} === {widths.format('clientWidth')}"
    page.wait_for_function(drawn, timeout=PATIENCE)
    seen = [page.evaluate(widths.format("width"))]
    for columns in ("1fr", ""):  # as with a style sheet that comes after the pictures: the trainer is as wide as before
        page.evaluate(
            "columns => (document.querySelector('.trainer-pair').style.gridTemplateColumns = columns)", columns
        )
        page.wait_for_function(
            f"seen => {widths.format('clientWidth')} !== seen && {drawn}", arg=seen[-1], timeout=PATIENCE
        )
        seen.append(page.evaluate(widths.format("width")))
    assert seen[0] == seen[2] != seen[1]


def test_the_script_is_small_and_whole():
    text = bundle()
    assert len(gzip.compress(text.encode())) < 60_000
    assert not re.search(r"^(import|export)\b", text, re.M)
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest", text), "it asks nobody"


def test_colours_and_names_are_those_of_the_figures():
    text = (STATIC / "trainer" / "run.js").read_text(encoding="utf-8")
    block = text[text.index("export const COLOURS") : text.index("/** Short names")]
    found = dict(re.findall(r'"([^"]+)": "(#\w+)"', block))
    assert len(found) == 12
    for name, colour in found.items():
        if name != "Debiased BinaryConnect" or name in LINES:
            assert LINES[name][0] == colour
