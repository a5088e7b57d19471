/* What can be chosen, and a run of it: weights after every step, losses where they are asked for. */
import { METHODS, levelsFor, nearest, largestEpsilon, constant, cosine, harmonic, linear, geometric, train } from "./methods.js";
import { drawMoons, moons, allNetworks, drawLogistic, logistic, allSigns, drawWeights, weights } from "./tasks.js";

/** Colours of the methods, those of every figure of the book (study.methods.LINES). */
export const COLOURS = {
  "Full precision": "#7a7a7a", "BinaryConnect": "#c8571b", "BinaryConnect (deterministic)": "#c8571b",
  "Debiased BinaryConnect": "#b5449b", "Straight-through": "#b3871a", "k-bit straight-through": "#b3871a",
  "ProxQuant (L1)": "#2e8b57", "ProxQuant (L2)": "#2e8b57", "ProxQuant (squared L2)": "#2e8b57",
  "ASkewSGD": "#2f7fd1", "Modified ASkewSGD": "#8a63d2", "SGDA": "#d1495b",
};

/** Short names of the methods, for addresses. */
export const CODES = {
  fp: "Full precision", bc: "BinaryConnect", bcdet: "BinaryConnect (deterministic)", debiased: "Debiased BinaryConnect",
  ste: "Straight-through", kbit: "k-bit straight-through", prox1: "ProxQuant (L1)", prox2: "ProxQuant (L2)",
  proxsq: "ProxQuant (squared L2)", askew: "ASkewSGD", modified: "Modified ASkewSGD", sgda: "SGDA",
};

/** What each method does, in a line. */
export const ABOUT = {
  "Full precision": "Ordinary descent; it does not know of the levels.",
  "BinaryConnect": "Gradient at randomly rounded weights; the step moves the real ones.",
  "BinaryConnect (deterministic)": "Gradient at the rounded weights; the step moves the real ones.",
  "Debiased BinaryConnect": "BinaryConnect, each gradient weighted by the chance of its rounding.",
  "Straight-through": "Gradient at the rounded weights; none for a weight beyond the levels.",
  "k-bit straight-through": "The same, rounded on an even grid and kept between the levels.",
  "ProxQuant (L1)": "After each step every weight goes a bit towards its level.",
  "ProxQuant (L2)": "After each step the weights together go a bit towards their levels.",
  "ProxQuant (squared L2)": "After each step a share of each distance to a level is taken away.",
  "ASkewSGD": "A weight outside its interval is pushed back; the intervals shrink.",
  "Modified ASkewSGD": "ASkewSGD with up to twice the push.",
  "SGDA": "A price on each weight that is not at a level, raised step by step.",
};

const COMMON = { seed: 0, lr: 1, base: "sgd", eps: 1, from: 0, alpha: 0.5, clip: 1, strength: 0.002, dualeps: 0.5, rate: 0.001, dmax: 1, delta: 0.02 };
const WEIGHTS = { ...COMMON, lr: 0.1, eps: 0.9, rate: 0.05, dmax: 5, strength: 0.01, c: 0.3, w0: -0.7, noise: 0 };

/** Tasks: bits, the settings they start with, and how epsilon falls in each epoch. */
export const TASKS = {
  II: { label: "Task II: two moons, 9 weights, 1 bit", bits: 1, hidden: 3, ratio: 0.88, defaults: { ...COMMON, seed: 175, alpha: 4 } },
  "II-2": { label: "Task II with 2 bits", bits: 2, hidden: 3, ratio: 0.88, defaults: { ...COMMON, seed: 175, alpha: 0.5 } },
  "II-8": { label: "Task II with 8 neurons, 24 weights", bits: 1, hidden: 8, ratio: 0.88, defaults: { ...COMMON, seed: 175, alpha: 4 } },
  I: { label: "Task I: logistic regression, 10 weights", bits: 1, ratio: 0.88, defaults: { ...COMMON, alpha: 0.1 } },
  "I-2": { label: "Task I with 2 bits", bits: 2, ratio: 0.88, defaults: { ...COMMON, alpha: 0.1 },
    unplaced: " No place among all 4¹⁰ = 1,048,576 choices of levels: to score them takes a page too long." },
  bowl: { label: "One weight in a bowl", bits: 1, loss: "bowl", d: 1, ratio: 0.97, defaults: WEIGHTS },
  line: { label: "One weight on a slope", bits: 1, loss: "line", d: 1, ratio: 0.97, defaults: WEIGHTS },
  valley: { label: "Two weights in a valley", bits: 1, loss: "valley", d: 2, ratio: 0.97, defaults: WEIGHTS },
  "valley-2": { label: "Two weights, 2 bits", bits: 2, loss: "valley", d: 2, ratio: 0.97, defaults: WEIGHTS },
};
const STEPS = 200; // of one and two weights

/** What happens to the step size, and momentum. */
export const BASES = {
  sgd: "constant step size", cosine: "falling along a cosine", harmonic: "divided by the step number", momentum: "constant, momentum 0.9",
};
const rate = ({ lr, base }, steps) =>
  base === "cosine" ? cosine(lr, steps) : base === "harmonic" ? harmonic(lr) : constant(lr);
export const momentum = ({ base }) => (base === "momentum" ? 0.9 : 0);

const share = Array.from({ length: 40 }, (_, i) => Number(((i + 1) / 40).toFixed(3)));
/** The sliders: label, values in order, and of which tasks and methods they are. */
export const SETTINGS = {
  lr: { label: "Step size", values: [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5] },
  c: { label: "c, minimum or slope", values: Array.from({ length: 49 }, (_, i) => Number((-1.2 + i * 0.05).toFixed(2))), of: "weights" },
  w0: { label: "Start", values: Array.from({ length: 81 }, (_, i) => Number((-2 + i * 0.05).toFixed(2))), of: "weights" },
  noise: { label: "Gradient noise", values: [0, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2], of: "weights" },
  eps: { label: "ε at first (1: largest)", values: share, of: "askew" },
  from: { label: "Annealing starts, epoch", values: "epochs", of: "askew" },
  alpha: { label: "α", values: [0.02, 0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 2.5, 3, 4, 6, 8, 12, 16, 20, 22, 25, 30, 40], of: "askew" },
  clip: { label: "Clip of a push", values: [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 1000], of: "askew" },
  strength: { label: "λ grows per epoch by", values: [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1], of: "prox" },
  dualeps: { label: "SGDA: ε (1: largest)", values: share.slice(0, -1), of: "sgda" },
  rate: { label: "SGDA: dual step", values: [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.3, 1, 3], of: "sgda" },
  dmax: { label: "SGDA: largest multiplier", values: [0.1, 0.2, 0.5, 1, 2, 5, 10, 100], of: "sgda" },
  delta: { label: "δ, kept from the levels", values: [0.01, 0.02, 0.05, 0.1, 0.2], of: "debiased" },
};
const KIND = (name) => (/askew/i.test(name) ? "askew" : /Prox/.test(name) ? "prox" : name === "SGDA" ? "sgda" : /Debiased/.test(name) ? "debiased" : "");

/** Which sliders mean something for these two methods on this task. */
export const settingsOf = (task, names) =>
  Object.keys(SETTINGS).filter((key) => {
    const { of } = SETTINGS[key];
    return !of || (of === "weights" ? Boolean(TASKS[task].loss) : names.some((name) => KIND(name) === of));
  });
export const methodsOf = (task) =>
  Object.entries(CODES).filter(([code]) => code !== "debiased" || TASKS[task].bits === 1);

/** The settings of a method as methods.js takes them. */
export function methodSettings(name, state) {
  const { bits, ratio } = TASKS[state.task], Q = levelsFor(bits);
  switch (KIND(name)) {
    case "askew": {
      const largest = largestEpsilon(name === "ASkewSGD" ? "psi" : "phi", Q);
      return { alpha: state.alpha, M: state.clip, epsilon: geometric(state.eps * largest, ratio, state.from) };
    }
    case "prox": return { strength: linear(state.strength) };
    case "sgda": return { epsilon: state.dualeps * largestEpsilon("phi", Q), rate: state.rate, D: state.dmax };
    case "debiased": return { delta: state.delta };
    default: return {};
  }
}

/** The task of a state, drawn once for each seed. `all`: every network with weights on the levels, where they can be listed. */
export function taskOf(state, kept = {}) {
  const { hidden, loss, d, bits } = TASKS[state.task];
  const key = [hidden, loss, d, state.seed, ...(loss ? [state.c, state.w0, state.noise] : [])].join();
  if (kept.key === key && kept.bits === bits) return kept.task;
  let task;
  if (hidden) task = moons(drawMoons(state.seed, { hidden }));
  else if (loss) {
    const start = d === 1 ? [state.w0] : [state.w0, -state.w0 / 2];
    task = weights(drawWeights(state.seed, { d, steps: STEPS }), { loss, c: state.c, start, size: state.noise });
  } else task = logistic(drawLogistic(state.seed));
  task.all = loss || (bits > 1 && !hidden) ? null : hidden ? allNetworks(task, hidden, levelsFor(bits)) : allSigns(task, task.initial.length);
  Object.assign(kept, { key, bits, task });
  return task;
}

/** One method on one task, all steps at once. Losses are NaN until they are asked for. */
export class Run {
  constructor(name, state, task) {
    const Q = levelsFor(TASKS[state.task].bits);
    Object.assign(this, { name, task, Q, colour: COLOURS[name], T: task.steps, d: task.initial.length });
    const method = METHODS[name](Q, methodSettings(name, state));
    this.constraint = method.constraint;
    this.w = new Float64Array((this.T + 1) * this.d);
    this.epsilons = new Array(this.T + 1);
    this.duals = method.duals ?? null;
    this.largest = 0;
    train(task, method, { lr: rate(state, this.T), momentum: momentum(state) }, (k, w, { epsilon }) => {
      this.w.set(w, k * this.d);
      this.epsilons[k] = epsilon;
      for (const v of w) this.largest = Math.max(this.largest, Math.abs(v));
    });
    this.duals = method.duals ?? null; // after the last step
    this.latent = new Float64Array(this.T + 1).fill(NaN);
    this.rounded = new Float64Array(this.T + 1).fill(NaN);
    this.seen = new Map(); // losses of rounded weights, few of which are different
    this.next = this.order();
    this.filled = 0; // every so many-th step has its losses; 0: none yet
  }

  at(k) { return this.w.subarray(k * this.d, (k + 1) * this.d); }
  roundedAt(k) { return this.at(k).map((x) => nearest(x, this.Q)); }

  /** Both losses after step k. */
  losses(k) {
    if (Number.isNaN(this.latent[k])) {
      this.latent[k] = this.task.loss(this.at(k));
      const w = this.roundedAt(k), key = w.join();
      if (!this.seen.has(key)) this.seen.set(key, this.task.loss(w));
      this.rounded[k] = this.seen.get(key);
    }
    return [this.latent[k], this.rounded[k]];
  }

  /** Steps in the order in which a curve gets finer. */
  *order() {
    for (const stride of [25, 5, 1]) {
      for (let k = 0; k <= this.T; k += stride) yield k;
      this.filled = stride;
    }
  }

  /** Fills in losses until the time is `until`; true when none is missing. */
  fill(until) {
    while (performance.now() < until) {
      const { value, done } = this.next.next();
      if (done) return true;
      this.losses(value);
    }
    return false;
  }
}
