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

/** Task II's networks with H neurons and all weights on the levels Q, by their loss: see `ranking`. Between the lines on which
 * a neuron can change from off to on, a network is linear, p x with a vector p of integers; the points of such a sector have one
 * sum of losses for each p, computed once. Networks that differ in the order of their neurons only are looked at once. */
export function allNetworks({ x, y, n }, H, Q) {
  const neurons = new Map(); // s relu(v x), s a sign: one for each pair (s, v), and how many weights (W, a) give it
  for (const a of Q) for (const w1 of Q) for (const w2 of Q) {
    const [s, v1, v2] = w1 || w2 ? [Math.sign(a), Math.abs(a) * w1, Math.abs(a) * w2] : [0, 0, 0];
    const key = s && [s, v1, v2].join(), known = neurons.get(key);
    if (known) known.count++;
    else neurons.set(key, { s, v1, v2, count: 1 });
  }
  const kinds = [...neurons.values()], TURN = 2 * Math.PI, size = 2 * H * Math.max(...Q.map(Math.abs)) ** 2 + 1;
  const edges = kinds.filter(({ s }) => s).flatMap(({ v1, v2 }) => [0.25, 0.75].map((t) => (Math.atan2(v2, v1) + (t + 1) * TURN) % TURN));
  const sorted = Float64Array.from(edges).sort().filter((e, i, all) => !i || e - all[i - 1] > 1e-9);
  const sectors = Array.from(sorted, (e, i) => {
    const middle = (e + (sorted[i + 1] ?? sorted[0] + TURN)) / 2, [u1, u2] = [Math.cos(middle), Math.sin(middle)];
    const on = kinds.map(({ v1, v2, s }) => (v1 * u1 + v2 * u2 > 0 ? s : 0));
    return { points: [], sums: new Float64Array(size * size).fill(NaN), shift: kinds.map(({ v1, v2 }, k) => on[k] * (v1 * size + v2)) };
  });
  for (let i = 0; i < n; i++) {
    const angle = (Math.atan2(x[2 * i + 1], x[2 * i]) + TURN) % TURN;
    sectors.at(sorted.findLastIndex((e) => e <= angle)).points.push(i); // -1, before the first edge: the last sector
  }
  const half = (size - 1) / 2, centre = half * size + half;
  const sum = ({ points, sums }, at) => {
    if (Number.isNaN(sums[at])) {
      const p1 = Math.floor(at / size) - half, p2 = (at % size) - half;
      sums[at] = points.reduce((total, i) => total + softplus(-y[i] * (p1 * x[2 * i] + p2 * x[2 * i + 1])), 0);
    }
    return sums[at];
  };
  const found = [];
  const add = (first, left, count, at) => { // neurons of the kinds from `first` on, `left` of them
    if (!left) return found.push([sectors.reduce((total, sector, i) => total + sum(sector, at[i]), 0) / n, count]);
    if (first === kinds.length) return;
    let ways = count; // to choose places for m neurons of this kind, and their weights
    for (let m = 0, to = at; m <= left; m++) {
      add(first + 1, left - m, ways, to);
      ways *= (kinds[first].count * (left - m)) / (m + 1);
      to = to.map((index, i) => index + sectors[i].shift[first]);
    }
  };
  add(0, H, 1, sectors.map(() => centre));
  found.sort((a, b) => a[0] - b[0]);
  return ranking(found.map(([loss]) => loss), found.map(([, count]) => count));
}

/** Losses in order (`losses`), each of so many networks (`counts`), how many there are, and the place of a loss among them. */
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
