/* The trainer on a page: two methods side by side. A .trainer holds a still picture and its data (src/study/tasks/still.py) until
 * this script takes its place; with data-full it is the playground, whose state lies in the address.
 *
 * A run is computed at once, for all steps; playing shows one step after the other. Losses over time are filled in between
 * frames, coarse first. Nothing moves by itself, and nothing runs while the trainer is out of view.
 */
import { TASKS, SETTINGS, BASES, CODES, ABOUT, Run, taskOf, settingsOf, methodsOf } from "./run.js";
import { Picture, palette, paintMoons, paintSigns, paintCurve, paintPlane, paintWeights, paintLosses, paintPlaces } from "./draw.js";
import { feasible } from "./methods.js";
import { program, printed } from "./python.js";

const STEPS_PER_SECOND = 60;
const STILLS_PER_SECOND = 2; // where motion is unwelcome: one picture per epoch instead
const TURNS = 3; // while playing, the rounded networks, the lower pictures and the words change in every third frame, in turn
const LATER = 5; // milliseconds of each frame for losses that are still missing
const OPENING = "#task=II&seed=0"; // the playground's first experiment
const EDGE = 8; // no picture shows a weight further out

let count = 0;
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A slider between two buttons that move it by one notch, for fingers; those who tab have the arrow keys. */
function between(input, label) {
  const [less, more] = [["−", "less", () => input.stepDown()], ["+", "more", () => input.stepUp()]].map(([sign, word, move]) => {
    const button = element("button", { type: "button", class: "nudge", tabindex: -1, "aria-label": `${label}: ${word}` }, sign);
    button.addEventListener("click", () => {
      move();
      for (const name of ["input", "change"]) input.dispatchEvent(new Event(name));
    });
    return button;
  });
  return [less, input, more];
}

const number = (value) => (Math.abs(value) >= 1000 ? value.toExponential(1) : value.toFixed(3)).replace("-", "−");
const short = (value) => String(value).replace("-", "−");
const many = (n) => n.toLocaleString("en");
/** 1st, 2nd, 3rd, 4th, 11th */
const ordinal = (n) => `${many(n)}${n % 100 >= 11 && n % 100 <= 13 ? "th" : ["th", "st", "nd", "rd"][n % 10] ?? "th"}`;
/** Who of two has the smaller loss: -1 the first, 1 the second, 0 neither. */
const ahead = ([a, b]) => (Math.abs(a - b) < 5e-4 ? 0 : a < b ? -1 : 1);

// State and address -------------------------------------------------------------------------------------------------

const CHOICES = { task: TASKS, a: CODES, b: CODES, base: BASES };
const fresh = (task) => ({ task, a: "fp", b: "bcdet", ...TASKS[task].defaults, k: Infinity });

/** The state that an address names; what it does not name, or names wrongly, is the task's own. */
export function readState(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, "")), task = given.get("task");
  const state = fresh(TASKS[task] ? task : "II");
  for (const [key, text] of given) {
    if (!(key in state) || key === "task" || text === "") continue;
    const allowed = key === "a" || key === "b" ? Object.fromEntries(methodsOf(state.task)) : CHOICES[key];
    if (allowed) state[key] = text in allowed ? text : state[key];
    else if (Number.isFinite(Number(text))) state[key] = proper(key, Number(text));
  }
  return state;
}

/** A number that a control can show: the seed whole, a slider's nearest value. */
function proper(key, value) {
  const { values } = SETTINGS[key] ?? {};
  if (!Array.isArray(values)) return Math.max(0, Math.min(Math.round(value), 2 ** 31 - 1));
  return values.reduce((best, v) => (Math.abs(v - value) < Math.abs(best - value) ? v : best));
}

/** The address of a state: what differs from the task's own settings. */
export function writeState(state) {
  const usual = fresh(state.task);
  const named = Object.entries(state).filter(([key, value]) => key === "task" || value !== usual[key]);
  return `#${new URLSearchParams(named)}`;
}

// The trainer -------------------------------------------------------------------------------------------------------

class Trainer {
  constructor(root) {
    Object.assign(this, { root, full: "full" in root.dataset, id: `trainer-${++count}`, kept: {}, playing: false, turn: 0 });
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    const hash = location.hash.includes("=") ? location.hash : OPENING;
    this.state = readState(this.full ? hash : root.dataset.state ?? "");
    this.build();
    this.compute();
    this.watch();
    this.settle(); // words do not wait until the pictures come into view
    if (this.full) {
      const ask = () => this.ask(hash);
      if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", ask); // experiments stand further down
      else ask();
    }
    root.dataset.ready = Math.round(performance.now()); // milliseconds since the page was opened
  }

  // Elements ......................................................................................................

  build() {
    const { full } = this;
    this.play = element("button", { type: "button", class: "trainer-play" }, "Play");
    this.step = element("button", { type: "button" }, "Step");
    this.reset = element("button", { type: "button", title: "All settings as they were" }, "Reset");
    this.tools = element("div", { role: "toolbar", "aria-label": "Run", class: "trainer-tools" }, this.play, this.step, this.reset);
    this.roving(this.tools, "ArrowLeft", "ArrowRight");
    this.time = element("input", { type: "range", min: 0, step: 1, id: `${this.id}-time` });
    this.shown = element("output", { for: this.time.id });
    const time = element("div", { class: "figure-control figure-range" }, element("label", { for: this.time.id }, "Step"), ...between(this.time, "Step"), this.shown);
    const menus = full ? [this.menu("task", "Task", Object.entries(TASKS).map(([key, { label }]) => [key, label])), this.menu("base", "Step sizes", Object.entries(BASES))] : [];
    this.says = element("p", { class: "trainer-says", "aria-live": "polite" });
    this.columns = ["a", "b"].map((key) => this.column(key));
    this.losses = this.picture(150, "");
    this.places = this.picture(110, "");
    this.placesFigure = this.figure("", this.places);
    this.lossesFigure = this.figure("", this.losses);
    this.settings = element("div", full ? { role: "toolbar", "aria-orientation": "vertical", "aria-label": "Settings" } : { role: "group", "aria-label": "Settings" });
    this.settings.classList.add("figure-controls", "trainer-settings");
    if (full) this.roving(this.settings, "ArrowUp", "ArrowDown");
    this.data = element("div", { class: "table-wrap", tabindex: "0", role: "region", "aria-label": "The numbers of this step" });
    this.card = element("div", { class: "trainer-card" });
    const parts = [
      ...(full ? [this.card] : []),
      ...(menus.length ? [element("div", { class: "figure-controls" }, ...menus)] : []),
      element("div", { class: "figure-controls trainer-bar" }, this.tools, time),
      this.says,
      element("div", { class: "trainer-pair" }, ...this.columns.map(({ node }) => node)),
      element("div", { class: "trainer-pair" }, this.lossesFigure, this.placesFigure),
      this.settings,
      element("details", { class: "trainer-data" }, element("summary", {}, "The numbers of this step"), this.data),
    ];
    if (!full) parts.push(element("p", {}, (this.link = element("a", {}, "This run in the playground")), ", with every method, other tasks and the same in Python."));
    if (full) {
      this.python = ["a", "b"].map(() => ({ name: element("span"), code: element("pre", { tabindex: "0" }), output: element("pre", { class: "trainer-output" }) }));
      this.warning = element("p");
      parts.push(element("details", { class: "trainer-python" }, element("summary", {}, "The same in Python"), this.warning,
        ...this.python.map(({ name, code, output }) => element("div", {}, element("p", {}, name, " prints:"), output, code))));
    }
    this.root.replaceChildren(...parts);

    this.play.addEventListener("click", () => (this.playing ? this.stop() : this.start()));
    this.step.addEventListener("click", () => { this.stop(); this.show(this.k >= this.T ? 0 : this.k + 1); this.settle(); });
    this.reset.addEventListener("click", () => { this.stop(); this.change(this.full ? fresh(this.state.task) : readState(this.root.dataset.state ?? "")); });
    this.time.addEventListener("input", () => { this.stop(); this.show(Number(this.time.value)); this.later(); });
    this.time.addEventListener("change", () => this.settle());
  }

  picture(height, label) {
    const picture = new Picture(height, label);
    (this.pictures ??= []).push(picture);
    return picture;
  }

  figure(caption, picture) {
    const figure = element("figure", {}, picture.canvas, element("figcaption", {}, caption));
    return figure;
  }

  menu(key, label, options) {
    const select = element("select", { id: `${this.id}-${key}` }, ...options.map(([value, text]) => element("option", { value }, text)));
    select.addEventListener("change", () => {
      const state = key === "task" ? { ...fresh(select.value), a: this.state.a, b: this.state.b } : { ...this.state, [key]: select.value };
      for (const side of ["a", "b"]) if (!methodsOf(state.task).some(([code]) => code === state[side])) state[side] = "bcdet";
      this.change({ ...state, k: Infinity });
    });
    (this.menus ??= {})[key] = select;
    return element("div", { class: "figure-control" }, element("label", { for: select.id }, label), select);
  }

  /** One method: a menu, its network twice, its weights over time. */
  column(key) {
    const menu = this.menu(key, key === "a" ? "Left" : "Right", Object.entries(CODES));
    const small = (word) => {
      const loss = element("b"), lead = document.createTextNode(""), caption = element("figcaption", {}, `${word}, loss`, element("br"), loss, lead);
      return { picture: this.picture(120, ""), loss, lead, caption };
    };
    const latent = small("as trained"), rounded = small("rounded"), weights = this.picture(150, "");
    const note = element("figcaption"), about = element("p", { class: "trainer-about" });
    const node = element("div", { class: "trainer-run" }, menu, about,
      element("div", { class: "trainer-two" }, ...[latent, rounded].map(({ picture, caption }) => element("figure", {}, caption, picture.canvas))),
      element("figure", {}, weights.canvas, note));
    return { key, node, about, latent, rounded, weights, note };
  }

  /** One tab stop for a group of controls; the two keys go from one to the next. */
  roving(group, back, on) {
    const stops = () => [...group.querySelectorAll("button:not(.nudge), input, select")];
    const only = (chosen) => stops().forEach((stop) => (stop.tabIndex = stop === chosen ? 0 : -1));
    group.addEventListener("focusin", ({ target }) => only(target));
    group.addEventListener("keydown", (event) => {
      const step = event.key === on ? 1 : event.key === back ? -1 : 0, all = stops();
      if (!step) return;
      event.preventDefault(); // a slider would change its value
      all[(all.indexOf(document.activeElement) + step + all.length) % all.length].focus();
    });
    group.first = () => only(stops()[0]);
    group.first();
  }

  slider(key) {
    const { label, values } = SETTINGS[key], id = `${this.id}-${key}`;
    const list = values === "epochs" ? Array.from({ length: this.T / this.task.perEpoch + 1 }, (_, i) => i) : values;
    const input = element("input", { type: "range", id, min: 0, max: list.length - 1, step: 1, "data-key": key });
    const output = element("output", { for: id });
    const say = () => {
      output.textContent = short(list[input.value]);
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.value = list.reduce((best, v, i) => (Math.abs(v - this.state[key]) < Math.abs(list[best] - this.state[key]) ? i : best), 0);
    say();
    input.addEventListener("input", () => {
      this.stop();
      say();
      this.state = { ...this.state, [key]: list[input.value] };
      this.soon();
    });
    return element("div", { class: "figure-control figure-range" }, element("label", { for: id }, label), ...between(input, label), output);
  }

  seed() {
    const id = `${this.id}-seed`, input = element("input", { type: "number", id, min: 0, max: 2 ** 31 - 1, step: 1, "data-key": "seed", inputmode: "numeric" });
    input.value = this.state.seed;
    input.addEventListener("input", () => {
      if (!/^\d+$/.test(input.value)) return; // not yet a number
      this.stop();
      this.state = { ...this.state, seed: proper("seed", Number(input.value)) };
      this.soon();
    });
    return element("div", { class: "figure-control" }, element("label", { for: id }, "Seed"), input);
  }

  // Runs ..........................................................................................................

  /** A new state, and everything that follows from it. */
  change(state) {
    this.stop();
    this.state = state;
    this.compute();
    this.draw();
    this.settle();
  }

  /** The same in the next frame, however many events come before. */
  soon() {
    if (this.due) return;
    this.due = requestAnimationFrame(() => {
      this.due = null;
      this.compute();
      this.draw();
      this.later();
      clearTimeout(this.quiet);
      this.quiet = setTimeout(() => this.settle(), 250);
    });
  }

  compute() {
    const { state } = this;
    this.task = taskOf(state, this.kept);
    this.names = [CODES[state.a], CODES[state.b]];
    this.runs = this.names.map((name) => new Run(name, state, this.task));
    if (this.runs[0].colour === this.runs[1].colour) this.runs[1].colour = "#128c7e"; // methods of one family share theirs
    this.T = this.task.steps;
    this.time.max = this.T;
    this.k = Math.min(state.k, this.T);
    const largest = Math.min(EDGE, Math.max(1.6, ...this.runs.map((run) => run.largest))), low = this.runs[0].Q[0];
    this.range = [Math.min(-largest, low - 0.6), largest].map((v) => v * 1.08);
    this.names.forEach((name, i) => (this.columns[i].about.textContent = ABOUT[name]));
    for (const [key, select] of Object.entries(this.menus)) select.value = state[key];
    const known = methodsOf(state.task).map(([code]) => code);
    for (const key of ["a", "b"]) for (const option of this.menus[key].options) option.hidden = option.disabled = !known.includes(option.value);
    const wanted = ["seed", ...settingsOf(state.task, this.names)].filter((key) => this.full || key !== "dmax"); // 12 tab stops
    const shown = [...this.settings.querySelectorAll("[data-key]")];
    const same = wanted.join() === shown.map((input) => input.dataset.key).join() && this.settings.dataset.task === state.task;
    const stale = !this.settings.contains(document.activeElement); // a slider that is being moved stays
    if (!same || stale) {
      this.settings.dataset.task = state.task;
      this.settings.replaceChildren(...wanted.map((key) => (key === "seed" ? this.seed() : this.slider(key))));
      this.settings.first?.();
    }
  }

  // Drawing .......................................................................................................

  show(k) {
    this.k = this.state.k = Math.max(0, Math.min(k, this.T));
    this.draw();
  }

  draw() {
    const { k, runs, range, playing } = this, colours = (this.colours ??= palette());
    if (!playing) this.measure();
    if (!this.losses.width) return; // not on the page's screen
    const turn = playing && !this.calm.matches ? this.turn++ % TURNS : null, due = (n) => turn === null || turn === n;
    runs.forEach((run, i) => {
      const { latent, rounded, weights } = this.columns[i];
      this.paint(latent.picture, run, run.at(k), true);
      paintWeights(weights, colours, { run, k, range, colour: run.colour });
      if (due(0)) this.paint(rounded.picture, run, run.roundedAt(k), false);
    });
    if (due(1)) this.drawLosses(), this.drawPlaces();
    if (due(2)) this.tell();
  }

  /** The widths of all pictures at once, before anything is written: each later look at them would lay out the page anew. */
  measure() {
    this.placesFigure.hidden = !this.task.all;
    for (const picture of this.pictures) picture.measure();
  }

  /** A network as a picture; with its path, where it is one or two weights. */
  paint(picture, run, w, withPath) {
    const { k, task, colours } = this, { loss, hidden, d } = TASKS[this.state.task];
    if (hidden) return paintMoons(picture, colours, task, w);
    if (!loss) return paintSigns(picture, colours, task, [...w], run.colour);
    const path = withPath ? Array.from({ length: k + 1 }, (_, s) => [...run.at(s)]) : null;
    const allowed = run.constraint ? feasible(run.constraint, run.Q, run.epsilons[k]) : null;
    const range = run.Q.length > 2 ? [-3, 2] : [-2.2, 2.2];
    (d === 1 ? paintCurve : paintPlane)(picture, colours, { loss: task.loss, Q: run.Q, allowed, w, range, colour: run.colour, path });
  }

  /** The step, and the losses over the networks. */
  tell() {
    const { k, T, runs } = this, losses = runs.map((run) => run.losses(k));
    if (this.playing && this.said !== this.epoch()) {
      this.say();
      this.columns.forEach(({ note }, i) => (note.textContent = this.remark(runs[i])));
    }
    this.time.value = k;
    this.shown.textContent = `${k} of ${T}`;
    this.time.setAttribute("aria-valuetext", this.shown.textContent);
    [0, 1].forEach((j) => {
      const leader = this.comparable(j) ? ahead(losses.map((l) => l[j])) : 0;
      this.columns.forEach(({ latent, rounded }, i) => {
        const { loss, lead } = j ? rounded : latent;
        loss.textContent = number(losses[i][j]);
        lead.data = !j && this.diverged(runs[i]) ? " diverged" : leader === (i ? 1 : -1) ? " ◂ ahead" : "";
      });
    });
  }

  drawLosses() {
    const step = Math.max(1, ...this.runs.map((run) => run.filled || 25));
    paintLosses(this.losses, this.colours, { runs: this.runs, k: this.k, best: this.task.all?.losses[0] ?? null, step });
  }

  drawPlaces() {
    const { k, runs, colours, task: { all } } = this;
    if (!all) return;
    for (const run of runs) run.losses(k); // of a new run they are not there yet
    const words = runs.map((run) => `${run.name}: ${ordinal(all.place(run.rounded[k]))}`);
    paintPlaces(this.places, colours, { runs, k, all, words });
  }

  /** Losses that are missing, a few milliseconds in each frame. */
  later() {
    if (this.filling || !this.visible) return;
    const go = () => {
      this.filling = null;
      const { runs } = this, until = performance.now() + LATER;
      const done = runs.map((run) => run.fill(until));
      this.drawLosses();
      if (!done.every(Boolean) && this.visible) this.filling = requestAnimationFrame(go);
    };
    this.filling = requestAnimationFrame(go);
  }

  /** The sentence: who is ahead, and whether rounding turns that round. */
  say() {
    const { k, T, runs, task, names, state } = this, { bits } = TASKS[state.task];
    const losses = runs.map((run) => run.losses(k)), [trained, deployed] = [0, 1].map((j) => losses.map((l) => l[j]));
    const verdict = (pair, j) => {
      const away = names.filter((_, i) => !j && this.diverged(runs[i]));
      if (away.length) return `${away.join(" and ")} ${away.length > 1 ? "have" : "has"} diverged`;
      if (!this.comparable(j)) return `the losses are ${number(pair[0])} and ${number(pair[1])}`;
      const who = ahead(pair);
      if (!who) return `both have loss ${number(pair[0])}`;
      const [first, second] = who < 0 ? [0, 1] : [1, 0];
      return `${names[first]} is ahead, ${number(pair[first])} against ${number(pair[second])}`;
    };
    const to = bits === 1 ? "−1 and +1" : `the ${2 ** bits} levels`;
    const parts = [`After ${k} of ${T} steps, as trained, ${verdict(trained, 0)}. Rounded to ${to}, ${verdict(deployed, 1)}.`];
    const turned = this.comparable(0) && ahead(trained) * ahead(deployed) < 0;
    if (turned) parts.push(element("strong", {}, " Rounding turns the order round."));
    if (task.all) {
      const place = runs.map((run) => task.all.place(run.rounded[k])), { total } = task.all;
      const [one, other] = place.map((p) => (p === 1 ? "best" : `${ordinal(p)} best`));
      parts.push(` Of all ${many(total)} networks of such weights, ${place[0] === place[1] ? `both give the ${one}` : `${names[0]} gives the ${one}, ${names[1]} the ${other}`}.`);
    }
    this.said = this.epoch();
    this.says.ariaLive = this.playing ? "off" : "polite"; // spoken when nothing moves any more
    this.says.replaceChildren(...parts);
    this.root.dataset.turned = turned;
  }

  /** A weight has left every picture, and not because the loss falls there. */
  diverged(run) {
    const { k } = this, out = run.at(k).some((w) => !(Math.abs(w) <= EDGE));
    return out && (TASKS[this.state.task].loss === "line" || !(run.losses(k)[0] <= run.losses(0)[0]));
  }

  /** Whether a smaller loss is a better one. On a slope none is the smallest; as trained (j = 0), no run may have diverged. */
  comparable(j) { return TASKS[this.state.task].loss !== "line" && (j === 1 || !this.runs.some((run) => this.diverged(run))); }

  epoch() { return Math.floor(this.k / Math.max(this.task.perEpoch, 10)); }

  /** What is said once, when nothing moves: the sentence, the words of the pictures, the numbers, the address. */
  settle() {
    const { k, runs, task, names, state } = this, losses = runs.map((run) => run.losses(k));
    this.later();
    this.say();

    const what = { 1: "the curve of the loss", 2: "the plane of the two weights" }[TASKS[state.task].d] ?? (TASKS[state.task].hidden ? "the two moons with the network's boundary" : "ten weights as bars, with the signs that made the data");
    runs.forEach((run, i) => {
      const { latent, rounded, weights, note } = this.columns[i];
      note.textContent = this.remark(run);
      latent.picture.say(`${run.name}, weights as trained: ${what}; loss ${number(losses[i][0])}.`);
      rounded.picture.say(`${run.name}, weights rounded: ${what}; loss ${number(losses[i][1])}.`);
      weights.say(`${note.textContent} Now ${[...run.at(k)].map(number).join(", ")}.`);
    });
    const line = "thin: as trained, thick: rounded";
    this.lossesFigure.lastChild.textContent = `Loss on all points over time; ${line}${task.all ? "; dotted: the best of all networks" : ""}.${TASKS[state.task].unplaced ?? ""}`;
    this.losses.say(`Loss over time of ${names[0]} and ${names[1]}, as trained and rounded.`);
    this.placesFigure.lastChild.textContent = task.all ? `All ${many(task.all.total)} networks by their loss; filled: where rounding lands, open: the loss as trained.` : "";
    this.places.say(task.all ? `Histogram of the losses of all ${many(task.all.total)} networks, and the places of ${names[0]} and ${names[1]} in it.` : "");
    this.tabulate(losses);
    if (this.full) this.publish(losses);
    else this.link.href = this.root.dataset.playground + this.address();
  }

  /** What stands below the weights of a run. */
  remark(run) {
    const { k } = this, epsilon = run.epsilons[k], flips = this.flips(run, k);
    const words = epsilon === null ? "" : ` Shaded: where a weight may be, ε = ${Number(epsilon.toPrecision(2))} now.`;
    return `${run.d === 1 ? "The weight" : `The ${run.d} weights`} of ${run.name}.${words} Last change of a rounding: ${flips === 0 ? "none" : `step ${flips}`}.${run.largest > EDGE ? ` Up to ${Math.round(run.largest)} from 0, beyond the picture.` : ""}`;
  }

  /** The last step up to k at which a rounded weight changed; 0 where none did. */
  flips(run, k) {
    for (let s = k; s > 0; s--) {
      const now = run.roundedAt(s), before = run.roundedAt(s - 1);
      if (now.some((v, i) => v !== before[i])) return s;
    }
    return 0;
  }

  tabulate(losses) {
    const { runs, k, task } = this, row = (head, values) => {
      const tr = element("tr", {}, element("th", { scope: "row" }, head));
      tr.append(...values.map((value) => element("td", {}, value)));
      return tr;
    };
    const { hidden } = TASKS[this.state.task];
    const named = (i) => (!hidden ? `w${i + 1}` : i < 2 * hidden ? `W${Math.floor(i / 2) + 1}${(i % 2) + 1}` : `a${i - 2 * hidden + 1}`);
    const pair = (f) => runs.flatMap((run, i) => f(run, i));
    const rows = [row("loss", pair((_, i) => losses[i].map((v) => v.toFixed(6))))];
    if (task.all) rows.push(row(`place of ${many(task.all.total)}`, pair((run) => ["", String(task.all.place(run.rounded[k]))])));
    for (let i = 0; i < runs[0].d; i++) rows.push(row(named(i), pair((run) => [run.at(k)[i].toFixed(6), short(run.roundedAt(k)[i])])));
    const head = element("thead", {}, element("tr", {}, element("th", { scope: "col" }, `step ${k}`),
      ...pair((run) => ["as trained", "rounded"].map((word) => element("th", { scope: "col" }, `${run.name}, ${word}`)))));
    this.data.replaceChildren(element("table", { class: "data" }, head, element("tbody", {}, ...rows)));
  }

  address() { return writeState({ ...this.state, k: this.k === this.T ? Infinity : this.k }); }

  publish(losses) {
    const { state, k, T } = this;
    try { history.replaceState(null, "", this.address()); } catch { /* too often in a moment, for some browsers */ }
    this.python.forEach(({ name, code, output }, i) => {
      name.textContent = this.names[i];
      code.textContent = program(this.names[i], state, k, T);
      output.textContent = printed(losses[i]);
    });
    const chaotic = this.names.some((name) => /askew/i.test(name)) && state.alpha * state.lr > 1 && k > 40;
    this.warning.textContent = "Paste into a notebook where the book's packages are installed." + (chaotic ? " α times step size is above 1: pushes overshoot, and rounding errors grow. From about step 40 on another machine may print another last digit, later another number; the rounded weights change hardly." : "");
  }

  // Motion ........................................................................................................

  start() {
    if (this.k >= this.T) this.show(0);
    this.playing = true;
    this.play.textContent = "Pause";
    let before = null, part = 0;
    const frame = (now) => {
      if (!this.playing) return;
      this.frame = requestAnimationFrame(frame);
      const [speed, size] = this.calm.matches ? [STILLS_PER_SECOND, this.task.perEpoch > 1 ? this.task.perEpoch : 10] : [STEPS_PER_SECOND, 1];
      part += before === null ? 0 : Math.min((now - before) / 1000, 0.5) * speed;
      before = now;
      if (part < 1) return;
      this.show(this.k + size * Math.floor(part));
      part %= 1;
      if (this.k >= this.T) this.stop();
    };
    this.frame = requestAnimationFrame(frame);
  }

  stop() {
    if (!this.playing) return;
    this.playing = false;
    this.play.textContent = "Play";
    cancelAnimationFrame(this.frame);
    this.draw();
    this.settle();
  }

  watch() {
    const repaint = () => {
      this.colours = palette();
      if (this.visible || this.losses.width) this.measure(), this.draw();
    };
    this.visible = false;
    new IntersectionObserver(([{ isIntersecting }]) => {
      const came = isIntersecting && !this.visible;
      this.visible = isIntersecting;
      if (!isIntersecting) this.stop();
      else if (came) repaint(), this.later();
    }, { rootMargin: "100px" }).observe(this.root);
    document.addEventListener("visibilitychange", () => document.hidden && this.stop());
    new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    const sizes = new ResizeObserver(() => { // the window's, or that of style sheets which come late
      if (this.pictures.some(({ canvas, width }) => canvas.clientWidth !== width)) repaint();
    });
    for (const { canvas } of this.pictures) sizes.observe(canvas);
    if (this.full) addEventListener("hashchange", () => {
      if (!location.hash.includes("=")) return;
      this.ask(location.hash);
      this.change(readState(location.hash));
      this.root.scrollIntoView();
    });
  }

  /** The experiment of which a link was followed, above the run: its task with the links of the further steps, its answer folded. */
  ask(hash) {
    const link = [...document.querySelectorAll(".trainer-link")].find((a) => a.getAttribute("href") === hash), section = link?.closest("section[id]");
    if (section === this.asked || this.card.contains(link)) return; // a further step of the same one: an open answer stays open
    this.asked = section;
    const within = this.card.contains(document.activeElement), name = (of) => of.querySelector("h3").firstChild.textContent.trim();
    const parts = [...(section?.querySelectorAll(":scope > p, :scope > details") ?? [])].map((part) => part.cloneNode(true));
    for (const part of parts) {
      if (part.matches("details")) part.removeAttribute("open");
      for (const hint of part.querySelectorAll("a.hint")) hint.tabIndex = -1; // the one in the text is reached by Tab
    }
    if (parts.length) parts[0].prepend(element("strong", {}, name(section)), " ");
    const next = section?.nextElementSibling, first = next?.querySelector(".trainer-link");
    if (first) parts.push(element("p", {}, "Next: ", element("a", { href: first.getAttribute("href") }, name(next))));
    this.card.replaceChildren(...parts);
    if (within) this.card.querySelector("a")?.focus({ preventScroll: true });
  }
}

/** While the page loads: something stands behind the node, so that it has been read to its end. */
const whole = (node) => Boolean(node && (node.nextSibling || whole(node.parentNode)));

/** Every trainer that has been read; the page may still be loading. */
export function startAll() {
  for (const root of document.querySelectorAll(".trainer:not([data-ready])")) {
    if (document.readyState !== "loading" || whole(root)) root.trainer = new Trainer(root);
  }
}
startAll();
if (document.readyState === "loading") { // at once when its place has been read, ahead of the scripts that wait for the page's end
  const reading = new MutationObserver(startAll);
  reading.observe(document, { childList: true, subtree: true });
  document.addEventListener("readystatechange", () => { reading.disconnect(); startAll(); }, { once: true });
}
