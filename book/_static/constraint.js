/* The live figure of the constraints psi (19) and phi (22): any levels, any tolerance, recomputed in the browser.
 *
 * figures.js calls `live.constraint` for a figure that carries meta.live = {kind: "constraint", levels, epsilon,
 * constraint}. The maths mirrors src/quantized_training/constraints.py; tests/book/test_live_figure.py holds the two equal.
 */
(() => {
  "use strict";

  // Maths -----------------------------------------------------------------------------------------------------------

  /** Where w lies: distance u to the midpoint of its gap, half h of that gap, signed distance past the outer levels. */
  function place(w, levels) {
    const last = levels.length - 1;
    let j = 0;
    while (j < last - 1 && w >= levels[j + 1]) j++;
    const beyond = w < levels[0] ? w - levels[0] : w > levels[last] ? w - levels[last] : 0;
    return { u: w - (levels[j] + levels[j + 1]) / 2, h: (levels[j + 1] - levels[j]) / 2, beyond };
  }

  const CONSTRAINTS = {
    psi: {
      symbol: "ψ", equation: 19, band: Math.sqrt, epsilon: (band) => band * band,
      value(w, levels, epsilon) {
        const { u, h, beyond } = place(w, levels);
        const s = Math.sqrt(epsilon);
        const inside = (u * u - (h * h - s)) * (s + h * h - u * u);
        return beyond === 0 ? inside : (s - Math.abs(beyond)) * (s + Math.abs(beyond));
      },
    },
    phi: {
      symbol: "φ", equation: 22, band: (epsilon) => epsilon, epsilon: (band) => band,
      value(w, levels, epsilon) {
        const { u, h, beyond } = place(w, levels);
        return beyond === 0 ? u * u - (h * h - epsilon) : epsilon - Math.abs(beyond);
      },
    },
  };

  const smallestGap = (levels) => Math.min(...levels.slice(1).map((q, j) => q - levels[j]));

  /** Epsilon must stay below this: there the feasible intervals around neighbouring levels touch. */
  const cap = (name, levels) => CONSTRAINTS[name].epsilon(smallestGap(levels) ** 2 / 4);

  /** The set where the constraint is not negative, as disjoint closed intervals [low, high]. */
  function feasibleIntervals(name, levels, epsilon) {
    const band = CONSTRAINTS[name].band(epsilon);
    const edges = [levels[0] - band];
    for (let j = 1; j < levels.length; j++) {
      const middle = (levels[j - 1] + levels[j]) / 2;
      const square = ((levels[j] - levels[j - 1]) / 2) ** 2 - band;
      if (square > 0) edges.push(middle - Math.sqrt(square), middle + Math.sqrt(square));
    }
    edges.push(levels[levels.length - 1] + band);
    return edges.flatMap((edge, i) => (i % 2 ? [[edges[i - 1], edge]] : []));
  }

  const LARGEST = 1e6, CLOSEST = 1e-3, MOST = 32;

  /** "1, 3, 4, 7" to {levels} in increasing order, or to {error} in words. */
  function parseLevels(text) {
    const words = text.replaceAll("−", "-").split(/[\s,;{}]+/).filter(Boolean);
    const bad = words.find((word) => !Number.isFinite(Number(word)));
    if (bad !== undefined) return { error: `“${bad}” is not a finite number. Separate numbers by commas, as in -1, 0, 1.` };
    const levels = [...new Set(words.map(Number))].sort((a, b) => a - b);
    if (levels.length < 2) return { error: "Give at least two different numbers, as in -1, 0, 1." };
    if (levels.length > MOST) return { error: `Give at most ${MOST} different numbers.` };
    if (levels.some((q) => Math.abs(q) > LARGEST)) return { error: `Give numbers between -${LARGEST} and ${LARGEST}.` };
    if (smallestGap(levels) < CLOSEST) return { error: `Two levels are closer than ${CLOSEST}: too close to be drawn.` };
    return { levels };
  }

  // Drawing ---------------------------------------------------------------------------------------------------------

  const POINTS = 48; // of the curve, on each piece

  /** The figure's three traces (feasible set, curve, edges) as columns for plotly, and the ranges of its axes. */
  function drawing({ levels, epsilon, constraint }) {
    const { value, band } = CONSTRAINTS[constraint];
    const largest = cap(constraint, levels);
    const margin = Math.max(1.5 * band(largest), 0.06 * (levels.at(-1) - levels[0]));
    const [low, high] = [levels[0] - margin, levels.at(-1) + margin];
    const stops = [low, ...levels, high];
    const x = stops.slice(1).flatMap((b, j) => {
      const a = stops[j]; // denser towards both ends, where the levels are
      return Array.from({ length: POINTS }, (_, i) => (a + b) / 2 - ((b - a) / 2) * Math.cos((Math.PI * i) / POINTS));
    }).concat(high);
    const intervals = feasibleIntervals(constraint, levels, epsilon);
    const [bottom, top] = [-1.1 * largest, 1.15 * largest];
    return {
      intervals,
      x: [intervals.flatMap(([a, b]) => [a, b, b, a, a, null]), x, intervals.flat()],
      y: [
        intervals.flatMap(() => [bottom, bottom, top, top, bottom, null]),
        x.map((w) => value(w, levels, epsilon)),
        intervals.flatMap(() => [0, 0]),
      ],
      layout: { "xaxis.range": [low, high], "yaxis.range": [bottom, top] },
    };
  }

  const STEPS = 200; // of the range: multiples of cap / STEPS, both ends left out
  const short = (number) => String(Number(number.toPrecision(4)));
  /** Enough digits to tell the ends of the narrowest interval apart. */
  function inWords(intervals) {
    const digits = Math.max(4, ...intervals.map(([a, b]) => Math.ceil(2 - Math.log10(b - a))));
    return intervals.map(([a, b]) => `${a.toFixed(digits)} to ${b.toFixed(digits)}`).join("; ");
  }

  /** The controls of one figure, as elements; `element`, `freshId` and `between` are those of figures.js. */
  function controls(Plotly, plot, settings, { element, freshId, between }) {
    const state = { levels: settings.levels, epsilon: settings.epsilon, constraint: settings.constraint };
    const ids = { levels: freshId(), error: freshId(), epsilon: freshId(), constraint: freshId() };

    const text = element("input", {
      type: "text", id: ids.levels, value: state.levels.join(", "), autocomplete: "off", spellcheck: "false",
      "aria-describedby": ids.error, "aria-invalid": "false",
    });
    const error = element("span", { id: ids.error, class: "figure-error", "aria-live": "polite" });
    const range = element("input", { type: "range", id: ids.epsilon, min: 1, max: STEPS - 1, step: 1 });
    const shown = element("output", { for: ids.epsilon });
    const select = element("select", { id: ids.constraint }, ...Object.entries(CONSTRAINTS).map(([name, { symbol, equation }]) =>
      element("option", { value: name }, `${symbol}, equation (${equation})`)));
    select.value = state.constraint;
    const answer = element("output", { class: "figure-answer", for: Object.values(ids).join(" "), "aria-live": "polite" });

    function refresh() {
      const largest = cap(state.constraint, state.levels);
      range.value = Math.round((STEPS * state.epsilon) / largest);
      const words = `${short(state.epsilon)} of at most ${short(largest)}`;
      shown.textContent = words;
      range.setAttribute("aria-valuetext", words);
      const { intervals, x, y, layout } = drawing(state);
      answer.textContent = `Feasible: ${inWords(intervals)}`;
      layout["yaxis.title.text"] = `${CONSTRAINTS[state.constraint].symbol}<sub>ε</sub>(<i>w</i>)`;
      return Plotly.update(plot, { x, y }, layout, [0, 1, 2]);
    }

    let waiting = false; // one drawing per frame, however many events
    function schedule() {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        refresh();
      });
    }

    text.addEventListener("input", () => {
      const { levels, error: problem = "" } = parseLevels(text.value);
      error.textContent = problem;
      text.setAttribute("aria-invalid", String(Boolean(problem)));
      if (problem) return; // the last good drawing stays
      state.epsilon *= cap(state.constraint, levels) / cap(state.constraint, state.levels); // the same share of the cap
      state.levels = levels;
      schedule();
    });
    range.addEventListener("input", () => {
      state.epsilon = (cap(state.constraint, state.levels) * Number(range.value)) / STEPS;
      schedule();
    });
    select.addEventListener("change", () => {
      const band = CONSTRAINTS[state.constraint].band(state.epsilon); // the same feasible set, the other function
      state.constraint = select.value;
      state.epsilon = CONSTRAINTS[state.constraint].epsilon(band);
      schedule();
    });

    refresh();
    const control = (kind, label, id, ...nodes) =>
      element("div", { class: `figure-control figure-${kind}` }, element("label", { for: id }, label), ...nodes);
    return [
      control("text", "Levels", ids.levels, text, error),
      control("range", "Tolerance ε", ids.epsilon, ...between(range, "Tolerance ε"), shown),
      control("select", "Constraint", ids.constraint, select),
      answer,
    ];
  }

  window.quantizedTraining = { CONSTRAINTS, cap, feasibleIntervals, parseLevels, live: { constraint: controls } };
})();
