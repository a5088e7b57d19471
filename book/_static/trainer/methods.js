/* The methods, written from the equations as src/study/theory/reference.py is: plain numbers, one weight at a time, the
 * paper's symbols (w a weight, Q its levels, G the gradient of the loss). tests/book/test_trainer.py holds them to the package.
 */

// Levels and roundings ----------------------------------------------------------------------------------------------

/** The codebook of 2^bits levels: {-1, +1} for one bit, else the integers -2^(bits-1) .. 2^(bits-1) - 1. */
export const levelsFor = (bits) =>
  bits === 1 ? [-1, 1] : Array.from({ length: 2 ** bits }, (_, i) => i - 2 ** (bits - 1));

export const clip = (w, low, high) => Math.min(Math.max(w, low), high);
const hull = (w, Q) => clip(w, Q[0], Q[Q.length - 1]);

/** Index j of the gap between Q[j] and Q[j + 1] that w lies in, or is nearest to. */
function gapOf(w, Q) {
  let j = 0;
  while (j < Q.length - 2 && w >= Q[j + 1]) j++;
  return j;
}

/** (1) for any levels: the closest one; the upper one at a midpoint. */
export function nearest(w, Q) {
  let q = Q[0];
  for (let j = 1; j < Q.length; j++) if (w >= (Q[j - 1] + Q[j]) / 2) q = Q[j];
  return q;
}

/** (4) for any levels: up with the probability that makes w the mean, where u is uniform in [0, 1). */
export function stochastic(w, Q, u) {
  const j = gapOf(w, Q), [a, b] = [Q[j], Q[j + 1]];
  return u < (w - a) / (b - a) ? b : a;
}

/** (5), with its offset repaired and the hull mapped on [0, 1]. */
export function kbit(w, Q) {
  const [low, high] = [Q[0], Q[Q.length - 1]];
  return Q[Math.floor((Q.length - 1) * ((clip(w, low, high) - low) / (high - low)) + 0.5)];
}

// Constraints -------------------------------------------------------------------------------------------------------

/** psi (19) and phi (22). `band`: how far beyond an outer level w stays feasible; in a gap, u from its midpoint and h half of
 * it, feasible is u^2 >= h^2 - band. `cap`: epsilon must stay below it, or the intervals around neighbouring levels merge. */
export const CONSTRAINTS = {
  psi: { band: Math.sqrt, cap: (gap) => gap ** 4 / 16, degree: 2 },
  phi: { band: (epsilon) => epsilon, cap: (gap) => gap ** 2 / 4, degree: 1 },
};

const smallestGap = (Q) => Math.min(...Q.slice(1).map((q, j) => q - Q[j]));
export const largestEpsilon = (constraint, Q) => CONSTRAINTS[constraint].cap(smallestGap(Q));

/** The feasible set as disjoint closed intervals. */
export function feasible(constraint, Q, epsilon) {
  const band = CONSTRAINTS[constraint].band(epsilon);
  const edges = [Q[0] - band];
  for (let j = 1; j < Q.length; j++) {
    const square = ((Q[j] - Q[j - 1]) / 2) ** 2 - band, m = (Q[j - 1] + Q[j]) / 2;
    if (square > 0) edges.push(m - Math.sqrt(square), m + Math.sqrt(square));
  }
  edges.push(Q[Q.length - 1] + band);
  return edges.flatMap((edge, i) => (i % 2 ? [[edges[i - 1], edge]] : []));
}

/** -g / g' of an infeasible weight, 0 of a feasible one, Infinity at a midpoint. Half of e^2/u - u in a gap, the distance to
 * the edge beyond the hull; psi's follows from psi with tolerance s^2 being phi_s (2 s - phi_s). */
export function push(constraint, w, Q, epsilon) {
  const { band, degree } = CONSTRAINTS[constraint], s = band(epsilon);
  const j = gapOf(w, Q), [low, high] = [Q[0] - s, Q[Q.length - 1] + s];
  const u = w - (Q[j] + Q[j + 1]) / 2, square = ((Q[j + 1] - Q[j]) / 2) ** 2 - s;
  let depth = 0, p = 0; // depth: minus phi
  if (w < low || w > high) depth = Math.abs(p = clip(w, low, high) - w);
  else if (square > 0 && u * u < square) {
    depth = square - u * u;
    p = u === 0 ? Infinity : depth / u / 2;
  }
  return degree === 2 ? p * (s / 2 / (depth + s) + 0.5) : p;
}

/** The rule below (21), repaired: the projection of -G on the velocities that (20) allows; the push is clipped at M. */
export function velocity(G, w, Q, { constraint, epsilon, alpha, M }) {
  const p = clip(alpha * push(constraint, w, Q, epsilon), -M, M);
  return p > 0 ? Math.max(-G, p) : p < 0 ? Math.min(-G, p) : -G;
}

/** Section 5: the pieces f_1 .. f_(K+1), whose minimum is phi, and their derivatives. */
export const pieces = (w, Q, epsilon) =>
  [epsilon - (Q[0] - w), ...Q.slice(1).map((b, j) => epsilon - (Q[j] - w) * (w - b)), epsilon - (w - Q[Q.length - 1])];
export const piecesSlope = (w, Q) => [1, ...Q.slice(1).map((b, j) => 2 * w - Q[j] - b), -1];

// Schedules: k -> value ---------------------------------------------------------------------------------------------

export const constant = (value) => () => value;
export const linear = (slope) => (k) => slope * k;
export const harmonic = (initial) => (k) => initial / (k + 1);
export const cosine = (initial, steps) => (k) => (initial * (1 + Math.cos(Math.PI * Math.min(k / steps, 1)))) / 2;
export const geometric = (initial, ratio, start = 0) => (k) => initial * Math.max(ratio ** Math.max(k - start, 0), 1e-12);

// Methods: four questions -------------------------------------------------------------------------------------------

/** What every method answers, for all weights w (an array): full precision's answers, where a method does not differ.
 * point: where the gradient is taken, `uniform` the draws for a rounding. descent: what the step goes against, from the gradient
 * G at that point. after: the weights after the step. t: the annealing index. */
class Plain {
  constructor(Q) {
    this.Q = Q;
    this.t = 0;
  }
  point(w) { return w; }
  descent(G) { return G; }
  after(w) { return w; }
  anneal() { this.t++; }
  /** The tolerance in force, and the set it allows; null where a method has none. */
  get epsilon() { return null; }
}

class BinaryConnect extends Plain {
  constructor(Q, { stochastic: random = true } = {}) {
    super(Q);
    this.draws = random;
  }
  point(w, uniform) { return w.map((x, i) => (this.draws ? stochastic(x, this.Q, uniform[i]) : nearest(x, this.Q))); }
  after(w) { return w.map((x) => hull(x, this.Q)); }
}

/** BinaryConnect on the mean loss of the randomly rounded network, for two levels: each gradient over twice its chance. */
class Debiased extends Plain {
  constructor(Q, { delta = 0.02 } = {}) {
    super(Q);
    this.delta = delta;
    this.draws = true;
  }
  shrunk(x) {
    const [a, b] = this.Q, edge = (this.delta * (b - a)) / 2;
    return clip(x, a + edge, b - edge);
  }
  point(w, uniform) { return (this.taken = w.map((x, i) => stochastic(this.shrunk(x), this.Q, uniform[i]))); }
  descent(G, w) {
    const [a, b] = this.Q;
    return G.map((g, i) => {
      const up = (this.shrunk(w[i]) - a) / (b - a);
      return g / (2 * (this.taken[i] === b ? up : 1 - up));
    });
  }
  after(w) { return w.map((x) => this.shrunk(x)); }
}

class StraightThrough extends Plain {
  point(w) { return w.map((x) => nearest(x, this.Q)); }
  descent(G, w) { return G.map((g, i) => (hull(w[i], this.Q) === w[i] ? g : 0)); } // (3)
}

class KBit extends Plain {
  point(w) { return w.map((x) => kbit(x, this.Q)); }
  after(w) { return w.map((x) => hull(x, this.Q)); }
}

class ProxQuant extends Plain {
  constructor(Q, { norm = "l1", strength = linear(1e-4) } = {}) {
    super(Q);
    Object.assign(this, { norm, strength });
  }
  after(w, lr) { // (6)
    const lam = lr * this.strength(this.t), q = w.map((x) => nearest(x, this.Q));
    if (this.norm === "l1") {
      return w.map((x, i) => (Math.abs(x - q[i]) <= lam ? q[i] : x - lam * Math.sign(x - q[i])));
    }
    if (this.norm === "squared_l2") return w.map((x, i) => (x + 2 * lam * q[i]) / (1 + 2 * lam));
    const size = Math.sqrt(w.reduce((sum, x, i) => sum + (x - q[i]) ** 2, 0)); // one block, as printed
    return size <= lam ? q : w.map((x, i) => x - (x - q[i]) * (lam / size));
  }
}

class ASkew extends Plain {
  constructor(Q, { constraint = "psi", alpha = 0.1, M = 1, epsilon = constant(0.1) } = {}) {
    super(Q);
    Object.assign(this, { constraint, alpha, M, schedule: epsilon });
  }
  get epsilon() { return this.schedule(this.t); }
  descent(G, w) {
    const settings = { constraint: this.constraint, epsilon: this.epsilon, alpha: this.alpha, M: this.M };
    return G.map((g, i) => -velocity(g, w[i], this.Q, settings));
  }
}

/** Algorithm 2: both steps from the same (w, lambda); each multiplier stays in [0, D]. duals[i][j] belongs to f_j of w_i. */
class SGDA extends Plain {
  constructor(Q, { epsilon, rate = 1e-3, D = 1 } = {}) {
    super(Q);
    Object.assign(this, { constraint: "phi", tolerance: epsilon ?? largestEpsilon("phi", Q) / 2, rate, D });
  }
  get epsilon() { return this.tolerance; }
  descent(G, w) {
    this.duals ??= Array.from(w, () => new Float64Array(this.Q.length + 1));
    return G.map((g, i) => {
      const lam = this.duals[i], f = pieces(w[i], this.Q, this.tolerance), slope = piecesSlope(w[i], this.Q);
      const direction = lam.reduce((sum, l, j) => sum - l * slope[j], g);
      lam.forEach((l, j) => (lam[j] = clip(l - this.rate * f[j], 0, this.D)));
      return direction;
    });
  }
}

/** name -> (levels, settings) -> method, under the package's names; settings as in the classes above. */
export const METHODS = {
  "Full precision": (Q) => new Plain(Q),
  "BinaryConnect": (Q) => new BinaryConnect(Q),
  "BinaryConnect (deterministic)": (Q) => new BinaryConnect(Q, { stochastic: false }),
  "Debiased BinaryConnect": (Q, settings) => new Debiased(Q, settings),
  "Straight-through": (Q) => new StraightThrough(Q),
  "k-bit straight-through": (Q) => new KBit(Q),
  "ProxQuant (L1)": (Q, settings) => new ProxQuant(Q, { ...settings, norm: "l1" }),
  "ProxQuant (L2)": (Q, settings) => new ProxQuant(Q, { ...settings, norm: "l2" }),
  "ProxQuant (squared L2)": (Q, settings) => new ProxQuant(Q, { ...settings, norm: "squared_l2" }),
  "ASkewSGD": (Q, settings) => new ASkew(Q, { ...settings, constraint: "psi" }),
  "Modified ASkewSGD": (Q, settings) => new ASkew(Q, { ...settings, constraint: "phi" }),
  "SGDA": (Q, settings) => new SGDA(Q, settings),
};

// The loop ----------------------------------------------------------------------------------------------------------

/** Train: SGD with momentum around a method. task: {initial, steps, perEpoch, uniform(k), gradient(point, k)}, lr: k -> step
 * size. `see(k, w, method)` is called before the first step and after each one, with k = 0 .. steps. The method anneals once
 * per epoch. */
export function train(task, method, { lr, momentum = 0, steps = task.steps }, see) {
  let w = Float64Array.from(task.initial), buffer = null;
  see(0, w, method);
  for (let k = 0; k < steps; k++) {
    const direction = method.descent(task.gradient(method.point(w, task.uniform(k)), k), w);
    buffer = momentum && buffer ? buffer.map((b, i) => momentum * b + direction[i]) : direction;
    const rate = lr(k);
    w = method.after(w.map((x, i) => x - rate * buffer[i]), rate);
    if ((k + 1) % task.perEpoch === 0) method.anneal();
    see(k + 1, w, method);
  }
}
