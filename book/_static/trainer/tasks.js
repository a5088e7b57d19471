/* Task I, Task II, and one or two weights on a chosen loss: draws, losses and gradients, as in src/study/tasks. */
import { TorchGenerator, RandomState } from "./random.js";

/** log(1 + exp(x)) and its derivative. */
export const softplus = (x) => (x > 20 ? x : Math.log1p(Math.exp(x)));
const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** One long array of draws, d for every step. */
const row = (values, d) => (k) => values.subarray(k * d, (k + 1) * d);

/** A task for `train` from draws: order holds the sample numbers of the batches, one after the other. */
function batched(draws, batch, gradient) {
  const { order, uniform, initial, n } = draws, perEpoch = Math.floor(n / batch);
  return {
    ...draws,
    perEpoch,
    steps: perEpoch * (order.length / n),
    uniform: row(uniform, initial.length),
    gradient(w, k) {
      const start = Math.floor(k / perEpoch) * n + (k % perEpoch) * batch;
      return gradient(w, order.subarray(start, start + batch));
    },
  };
}

function orders(g, n, epochs) {
  const order = new Int32Array(n * epochs);
  for (let e = 0; e < epochs; e++) order.set(g.permutation(n), e * n);
  return order;
}

// Task I ------------------------------------------------------------------------------------------------------------

/** The draws of study.tasks.logistic.draw: rows z = y x, one after the other. */
export function drawLogistic(seed, { n = 6000, d = 10, batch = 1000, epochs = 25 } = {}) {
  const g = new TorchGenerator(seed), bound = d ** -0.5;
  const initial = g.rand(d).map((r) => (r * 2 - 1) * bound);
  const uniform = g.rand((epochs * Math.floor(n / batch) + 1) * d);
  const z = g.rand(n * d).map((r) => r * 2 - 1);
  const wStar = g.coins(d).map((c) => c * 2 - 1);
  g.rand(n).forEach((r, i) => {
    let margin = 0;
    for (let j = 0; j < d; j++) margin += z[i * d + j] * wStar[j];
    if (r >= sigmoid(margin)) for (let j = 0; j < d; j++) z[i * d + j] *= -1;
  });
  return { n, batch, initial, uniform, z, wStar, order: orders(g, n, epochs) };
}

/** Task I from its draws. */
export function logistic(draws) {
  const { z, n, batch } = draws, d = draws.initial.length;
  const margin = (w, i) => {
    let m = 0;
    for (let j = 0; j < d; j++) m += z[i * d + j] * w[j];
    return m;
  };
  return {
    ...batched(draws, batch, (w, samples) => {
      const G = new Float64Array(d);
      for (const i of samples) {
        const p = sigmoid(-margin(w, i)) / samples.length;
        for (let j = 0; j < d; j++) G[j] -= p * z[i * d + j];
      }
      return G;
    }),
    loss(w) {
      let sum = 0;
      for (let i = 0; i < n; i++) sum += softplus(-margin(w, i));
      return sum / n;
    },
  };
}

// Task II -----------------------------------------------------------------------------------------------------------

/** scikit-learn's make_moons(n, noise, random_state=seed): points (x_1, x_2, x_1, ...) and labels -1 and +1. */
export function makeMoons(n, noise, seed) {
  const g = new RandomState(seed), outer = Math.floor(n / 2), inner = n - outer;
  const order = g.permutation(n), x = new Float64Array(2 * n), y = new Float64Array(n);
  const angle = (i, of) => i * (Math.PI / (of - 1)); // np.linspace, whose last value is exactly pi
  order.forEach((from, to) => {
    const upper = from < outer, i = upper ? from : from - outer, of = upper ? outer : inner;
    const t = i === of - 1 ? Math.PI : angle(i, of);
    x[2 * to] = upper ? Math.cos(t) : 1 - Math.cos(t);
    x[2 * to + 1] = upper ? Math.sin(t) : 1 - Math.sin(t) - 0.5;
    y[to] = upper ? -1 : 1;
  });
  return { x: x.map((value) => value + noise * g.normal()), y };
}

/** The draws of study.tasks.moons.draw, without the test points that come after the n training points. */
export function drawMoons(seed, { hidden = 3, n = 2000, test = 200, noise = 0.1, batch = 100, epochs = 25 } = {}) {
  const g = new TorchGenerator(seed), d = 3 * hidden;
  const bound = (inputs) => Math.fround(inputs ** -0.5); // in single precision, as there
  const initial = g.rand(d).map((r, i) => (2 * r - 1) * bound(i < 2 * hidden ? 2 : hidden));
  const uniform = g.rand((epochs * Math.floor(n / batch) + 1) * d);
  const order = orders(g, n, epochs);
  const { x, y } = makeMoons(n + test, noise, seed);
  return { n, batch, initial, uniform, order, x: x.subarray(0, 2 * n), y: y.subarray(0, n) };
}

/** f(x) = sum_j a_j relu(W_j x) at one point, for weights (W_1, ..., W_H, a). */
export function network(w, x1, x2) {
  const H = w.length / 3;
  let f = 0;
  for (let j = 0; j < H; j++) {
    const r = w[2 * j] * x1 + w[2 * j + 1] * x2;
    if (r > 0) f += w[2 * H + j] * r;
  }
  return f;
}

/** Task II from its draws. */
export function moons(draws) {
  const { x, y, n, batch } = draws;
  return {
    ...batched(draws, batch, (w, samples) => {
      const H = w.length / 3, G = new Float64Array(w.length);
      for (const i of samples) {
        const [x1, x2] = [x[2 * i], x[2 * i + 1]];
        const slope = (-y[i] * sigmoid(-y[i] * network(w, x1, x2))) / samples.length; // of the loss by f
        for (let j = 0; j < H; j++) {
          const r = w[2 * j] * x1 + w[2 * j + 1] * x2;
          if (r <= 0) continue; // the derivative of relu at 0 is 0
          G[2 * j] += slope * w[2 * H + j] * x1;
          G[2 * j + 1] += slope * w[2 * H + j] * x2;
          G[2 * H + j] += slope * r;
        }
      }
      return G;
    }),
    loss(w) {
      let sum = 0;
      for (let i = 0; i < n; i++) sum += softplus(-y[i] * network(w, x[2 * i], x[2 * i + 1]));
      return sum / n;
    },
  };
}

/** How many of the 8^H one-bit networks of H neurons have a loss below a given one: a function loss -> {below, equal}, with
 * `losses` (of the different functions) and `counts` (networks of each). Every one-bit neuron is one of relu(+-x_1 +- x_2) with
 * a sign, so a network is a vector c of integers, f = c_1 relu(-x_1-x_2) + ..., and a neuron is a step in one of 8 directions. */
export function allNetworks({ x, y, n }, H) {
  let reached = new Map([["0,0,0,0", 1]]);
  for (let step = 0; step < H; step++) {
    const next = new Map();
    for (const [key, count] of reached) {
      for (let i = 0; i < 4; i++) {
        for (const sign of [-1, 1]) {
          const c = key.split(",").map(Number);
          c[i] += sign;
          next.set(c.join(), (next.get(c.join()) ?? 0) + count);
        }
      }
    }
    reached = next;
  }
  // At a point one of relu(+-(x_1 + x_2)) and one of relu(+-(x_1 - x_2)) is positive: four groups of points, and in each
  // the loss depends on two of the four coefficients only.
  const tables = [0, 1, 2, 3].map(() => new Float64Array((2 * H + 1) ** 2));
  for (let i = 0; i < n; i++) {
    const u = x[2 * i] + x[2 * i + 1], v = x[2 * i] - x[2 * i + 1], table = tables[(u > 0 ? 2 : 0) + (v > 0 ? 1 : 0)];
    for (let a = -H; a <= H; a++) {
      for (let b = -H; b <= H; b++) {
        table[(a + H) * (2 * H + 1) + b + H] += softplus(-y[i] * (a * Math.abs(u) + b * Math.abs(v)));
      }
    }
  }
  const all = [...reached].map(([key, count]) => {
    const [mm, mp, pm, pp] = key.split(",").map(Number); // of relu(-x_1-x_2), relu(-x_1+x_2), relu(x_1-x_2), relu(x_1+x_2)
    const at = (table, a, b) => table[(a + H) * (2 * H + 1) + b + H];
    const sum = at(tables[0], mm, mp) + at(tables[1], mm, pm) + at(tables[2], pp, mp) + at(tables[3], pp, pm);
    return [sum / n, count];
  }).sort((a, b) => a[0] - b[0]);
  return ranking(all.map(([loss]) => loss), all.map(([, count]) => count));
}

/** Sorted losses, each of so many networks, and the place of a loss among them. */
function ranking(losses, counts) {
  const total = counts.reduce((a, b) => a + b, 0);
  const place = (loss) => {
    let below = 0;
    for (let i = 0; i < losses.length && losses[i] < loss - 1e-9; i++) below += counts[i];
    return below + 1;
  };
  return { losses, counts, total, place };
}

/** The same for the 2^d sign vectors of Task I. Half of them are computed: log(1 + e^m) = log(1 + e^-m) + m. */
export function allSigns(task, d) {
  const centre = new Float64Array(d);
  for (let i = 0; i < task.n; i++) for (let j = 0; j < d; j++) centre[j] += task.z[i * d + j] / task.n;
  const losses = Array.from({ length: 2 ** (d - 1) }, (_, code) => {
    const w = Array.from(centre, (_, j) => ((code >> j) & 1) * 2 - 1), loss = task.loss(w);
    return [loss, loss + w.reduce((sum, v, j) => sum + v * centre[j], 0)];
  }).flat();
  losses.sort((a, b) => a - b);
  return ranking(losses, losses.map(() => 1));
}

// One and two weights -----------------------------------------------------------------------------------------------

/** Losses of one or two weights: value and gradient at w (an array), as the Python lines of the page print them. */
export const LOSSES = {
  // a bowl whose minimum is not on a level
  bowl: { value: ([w], c) => (w - c) ** 2 / 2, gradient: ([w], c) => [w - c] },
  // a straight line: the same gradient everywhere
  line: { value: ([w], c) => -c * w, gradient: (_, c) => [-c] },
  // two weights that pull each other: rounding each by itself is not the best pair of levels
  valley: {
    value: ([v, w], c) => ((v - c) ** 2 + (w - c) ** 2) / 2 + 0.9 * (v - c) * (w - c),
    gradient: ([v, w], c) => [v - c + 0.9 * (w - c), w - c + 0.9 * (v - c)],
  },
};

/** The draws for `weights`: noise of mean 0 in every gradient, uniform up to `noise`; then those of the roundings. */
export function drawWeights(seed, { d, steps }) {
  const g = new TorchGenerator(seed);
  return { noise: g.rand(steps * d).map((r) => 2 * r - 1), uniform: g.rand((steps + 1) * d) };
}

/** One or two weights on a loss of LOSSES with parameter c, from `start`; an epoch is one step. */
export function weights({ noise, uniform }, { loss, c, start, size = 0 }) {
  const d = start.length, { value, gradient } = LOSSES[loss], noiseOf = row(noise, d);
  return {
    initial: start,
    perEpoch: 1,
    steps: noise.length / d,
    uniform: row(uniform, d),
    gradient: (w, k) => Float64Array.from(gradient(w, c), (g, i) => g + size * noiseOf(k)[i]),
    loss: (w) => value(w, c),
  };
}
