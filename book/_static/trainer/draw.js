/* Pictures on canvas, in the page's colours: a frame with axes, and what the trainer draws into it. */
import { network } from "./tasks.js";
import { feasible } from "./methods.js";

const TAU = 2 * Math.PI;

/** The page's colours, and those of the two classes of points, which differ in shape, too. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name, otherwise) => style.getPropertyValue(`--pst-color-${name}`).trim() || otherwise;
  const dark = document.documentElement.dataset.theme === "dark";
  return {
    text: colour("text-base", dark ? "#ddd" : "#222"), muted: colour("text-muted", "#777"), grid: colour("border", "#ccc"),
    background: colour("background", dark ? "#111" : "#fff"), font: style.getPropertyValue("--pst-font-family-base") || "sans-serif",
    classes: dark ? ["#4cc3b2", "#b79bf0"] : ["#0f7a6e", "#7447c4"],
  };
}

/** A canvas with words for those who do not see it, drawn in CSS pixels. */
export class Picture {
  constructor(height, label) {
    this.canvas = document.createElement("canvas");
    this.canvas.style.height = `${height}px`;
    this.canvas.setAttribute("role", "img");
    this.height = height;
    this.say(label);
  }

  say(label) { this.canvas.setAttribute("aria-label", label); }

  /** How wide the page shows it. Asks for the page's layout: not to be called in every frame. */
  measure() { this.width = this.canvas.clientWidth; }

  /** Clears and returns the context. */
  begin(colours, width = this.width) {
    const { canvas, height } = this, ratio = Math.min(devicePixelRatio || 1, 2);
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    }
    const g = (this.g ??= canvas.getContext("2d"));
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = `12px ${colours.font}`;
    g.lineJoin = "round";
    Object.assign(this, { width, colours });
    return g;
  }

  /** Axes over x0..x1 and y0..y1, with ticks at the given values; sets this.x and this.y, value -> pixel. */
  axes({ x: [x0, x1], y: [y0, y1], xticks = [], yticks = [], left = 34, bottom = 18, top = 6, right = 8, xlabel = "", format = String }) {
    const { g, width, height, colours } = this;
    this.x = (v) => left + ((v - x0) / (x1 - x0)) * (width - left - right);
    this.y = (v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - bottom - top);
    this.box = { left, top, width: width - left - right, height: height - top - bottom };
    g.strokeStyle = colours.grid;
    g.fillStyle = colours.text;
    g.lineWidth = 1;
    g.textBaseline = "middle";
    g.textAlign = "right";
    for (const v of yticks) {
      this.line([[x0, v], [x1, v]]);
      g.fillText(format(v), left - 5, this.y(v));
    }
    g.textBaseline = "alphabetic";
    xticks.forEach((v) => {
      g.textAlign = this.x(v) > width - 24 ? "right" : "center";
      g.fillText(format(v), this.x(v), height - bottom + 13);
    });
    if (xlabel) {
      g.textAlign = "center";
      g.fillText(xlabel, left + this.box.width / 2, height - bottom + 13);
    }
  }

  /** Draws `inside` cut off at the frame. */
  clipped(inside) {
    const { g, box } = this;
    g.save();
    g.beginPath();
    g.rect(box.left, box.top - 1, box.width, box.height + 2);
    g.clip();
    inside();
    g.restore();
  }

  line(points) {
    const { g } = this;
    g.beginPath();
    for (const [x, y] of points) g.lineTo(this.x(x), this.y(y));
    g.stroke();
  }

  dot(x, y, radius, fill = true) {
    const { g } = this;
    g.beginPath();
    g.arc(this.x(x), this.y(y), radius, 0, TAU);
    if (fill) g.fill();
    else g.stroke();
  }
}

/** "#rrggbb" as a transparent colour. */
export const faded = (colour, opacity) =>
  `rgba(${[1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)).join()},${opacity})`;

/** Round numbers between low and high, about `count` of them. */
export function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9; i++) found.push(Number((i * step).toFixed(10)));
  return found;
}

// Task II -----------------------------------------------------------------------------------------------------------

const RANGE = { x: [-1.6, 2.6], y: [-1.2, 1.7] };
const DIRECTIONS = 360; // directions in which a network is asked
const RAYS = Array.from({ length: DIRECTIONS + 1 }, (_, i) => [4 * Math.cos((i * TAU) / DIRECTIONS), 4 * Math.sin((i * TAU) / DIRECTIONS)]);
const BETWEEN = Array.from({ length: DIRECTIONS }, (_, i) => [Math.cos(((i + 0.5) * TAU) / DIRECTIONS), Math.sin(((i + 0.5) * TAU) / DIRECTIONS)]);

/** Points with their class by shape and colour; drawn once, then copied. */
function cloud(picture, { x, y }, shown) {
  const { canvas, colours } = picture, key = [canvas.width, canvas.height, colours.text, shown].join();
  if (picture.cloud?.key === key && picture.cloud.of === x) return picture.cloud.canvas;
  const layer = document.createElement("canvas"), g = layer.getContext("2d");
  [layer.width, layer.height] = [canvas.width, canvas.height];
  const ratio = canvas.width / picture.width;
  g.scale(ratio, ratio);
  g.lineWidth = 1;
  for (let i = 0; i < shown; i++) {
    const own = colours.classes[y[i] > 0 ? 1 : 0];
    g.beginPath();
    g.arc(picture.x(x[2 * i]), picture.y(x[2 * i + 1]), 1.9, 0, TAU);
    g.fillStyle = g.strokeStyle = own;
    if (y[i] > 0) g.fill();
    else g.stroke();
  }
  picture.cloud = { key, of: x, canvas: layer };
  return layer;
}

/** The points, and what a network w says of the plane: without biases its sign depends on the angle alone. */
export function paintMoons(picture, colours, task, w) {
  const g = picture.begin(colours);
  if (!picture.width) return; // not on the page's screen yet
  picture.axes({ ...RANGE, left: 0, right: 0, top: 0, bottom: 0 });
  const sign = BETWEEN.map(([x1, x2]) => Math.sign(network(w, x1, x2)));
  for (let i = 0; i < DIRECTIONS; ) {
    let j = i + 1;
    while (j < DIRECTIONS && sign[j] === sign[i]) j++;
    g.fillStyle = sign[i] === 0 ? colours.background : faded(colours.classes[sign[i] > 0 ? 1 : 0], 0.2);
    g.beginPath();
    g.moveTo(picture.x(0), picture.y(0));
    for (let k = i; k <= j; k++) g.lineTo(picture.x(RAYS[k][0]), picture.y(RAYS[k][1]));
    g.fill();
    i = j;
  }
  g.drawImage(cloud(picture, task, Math.min(task.n, 400)), 0, 0, picture.width, picture.height);
  g.strokeStyle = colours.text;
  g.lineWidth = 2.5;
  for (let i = 0; i < DIRECTIONS; i++) if (sign[i] !== sign[(i + DIRECTIONS - 1) % DIRECTIONS]) picture.line([[0, 0], RAYS[i]]);
}

// Task I ------------------------------------------------------------------------------------------------------------

/** Ten bars: each weight, with a tick at the sign that made the data. */
export function paintSigns(picture, colours, task, w, colour) {
  const g = picture.begin(colours), d = w.length, top = Math.max(1.5, ...w.map(Math.abs));
  picture.axes({ x: [-0.7, d - 0.3], y: [-top * 1.08, top * 1.08], yticks: [-1, 0, 1], left: 26, bottom: 4 });
  w.forEach((v, i) => {
    g.fillStyle = faded(colour, 0.75);
    g.fillRect(picture.x(i - 0.3), Math.min(picture.y(0), picture.y(v)), picture.x(0.6) - picture.x(0), Math.abs(picture.y(v) - picture.y(0)));
    g.strokeStyle = colours.text;
    g.lineWidth = 2.5;
    picture.line([[i - 0.42, task.wStar[i]], [i + 0.42, task.wStar[i]]]);
  });
}

// One and two weights -----------------------------------------------------------------------------------------------

/** The loss of one weight, its levels, where it is feasible, and the weight. */
export function paintCurve(picture, colours, { loss, Q, allowed, w, range, colour, path }) {
  const g = picture.begin(colours), [a, b] = range;
  const xs = Array.from({ length: 121 }, (_, i) => a + ((b - a) * i) / 120), ys = xs.map((x) => loss([x]));
  const [low, high] = [Math.min(...ys), Math.max(...ys)], pad = 0.1 * (high - low);
  picture.axes({ x: range, y: [low - pad, high + pad], xticks: Q, left: 8 });
  g.fillStyle = faded(colour, 0.15);
  for (const [l, h] of allowed ?? []) g.fillRect(picture.x(l), picture.box.top, picture.x(h) - picture.x(l), picture.box.height);
  g.strokeStyle = colours.grid;
  for (const q of Q) picture.line([[q, low - pad], [q, high + pad]]);
  g.strokeStyle = colours.text;
  g.lineWidth = 1.5;
  picture.line(xs.map((x, i) => [x, ys[i]]));
  picture.clipped(() => {
    g.fillStyle = faded(colour, 0.35);
    for (const [x] of path ?? []) picture.dot(x, loss([x]), 2);
    g.fillStyle = colour;
    picture.dot(w[0], loss(w), 6);
  });
}

/** The loss of two weights as shades, pairs of levels, the feasible squares, and the path. */
export function paintPlane(picture, colours, { loss, Q, allowed, w, range, colour, path }) {
  const g = picture.begin(colours), [a, b] = range, N = 32, size = (b - a) / N;
  const side = Math.min(picture.width - 34, picture.height - 24), right = picture.width - 26 - side;
  picture.axes({ x: range, y: range, xticks: Q, yticks: Q, left: 26, right });
  const at = (i) => a + (i + 0.5) * size, values = [];
  for (let i = 0; i < N; i++) for (let j = 0; j < N; j++) values.push(loss([at(i), at(j)]));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  values.forEach((v, n) => {
    const [i, j] = [Math.floor(n / N), n % N], shade = Math.floor(12 * Math.sqrt((v - low) / (high - low))) / 12;
    g.fillStyle = faded("#7a7a7a", 0.02 + 0.5 * shade);
    g.fillRect(picture.x(a + i * size), picture.y(a + (j + 1) * size), picture.x(size) - picture.x(0) + 0.5, picture.y(0) - picture.y(size) + 0.5);
  });
  picture.clipped(() => {
    g.strokeStyle = colour;
    g.lineWidth = 1;
    for (const [l, h] of allowed ?? []) {
      for (const [m, n] of allowed) g.strokeRect(picture.x(l), picture.y(n), picture.x(h) - picture.x(l), picture.y(m) - picture.y(n));
    }
    g.fillStyle = colours.text;
    for (const p of Q) for (const q of Q) picture.dot(p, q, 3);
    g.strokeStyle = colour;
    g.lineWidth = 1.5;
    if (path) picture.line(path);
    g.fillStyle = colour;
    picture.dot(w[0], w[1], 6);
  });
}

// Over time ---------------------------------------------------------------------------------------------------------

/** Every weight against the step, its levels, and the feasible set as it closes. While time goes on, only what is new is drawn:
 * `back` holds axes, feasible set and the lines up to its own k. */
export function paintWeights(picture, colours, { run, k, range, colour }) {
  const g = picture.begin(colours), { d, w } = run;
  if (!picture.width) return;
  const key = [picture.canvas.width, range, colour, colours.text].join();
  let back = picture.back;
  if (back?.key !== key || back.run !== run || back.k > k) {
    back = picture.back = Object.assign(new Picture(picture.height, ""), { key, run, k: 0 });
    paintFeasible(back, colours, { run, range, colour, width: picture.width });
  }
  back.g.strokeStyle = colour;
  back.g.lineWidth = d > 12 ? 0.8 : 1.3;
  back.clipped(() => {
    for (let i = 0; i < d; i++) back.line(Array.from({ length: k - back.k + 1 }, (_, s) => [back.k + s, w[(back.k + s) * d + i]]));
  });
  back.k = k;
  g.drawImage(back.canvas, 0, 0, picture.width, picture.height);
  g.fillStyle = colour;
  Object.assign(picture, { x: back.x, y: back.y, box: back.box });
  picture.clipped(() => { for (let i = 0; i < d; i++) picture.dot(k, w[k * d + i], 3); });
}

function paintFeasible(picture, colours, { run, range, colour, width }) {
  const g = picture.begin(colours, width), { T, epsilons, Q } = run;
  const yticks = range[1] - range[0] > 9 ? ticks(...range, 4) : Q;
  picture.axes({ x: [0, T], y: range, yticks, xticks: [0, T], xlabel: "step" });
  picture.clipped(() => {
    g.fillStyle = faded(colour, 0.18);
    for (let start = 0; start < T; ) { // strips with one epsilon
      let stop = start + 1;
      while (stop < T && epsilons[stop] === epsilons[start]) stop++;
      if (epsilons[start] !== null) {
        for (const [low, high] of feasible(run.constraint, Q, epsilons[start])) {
          g.fillRect(picture.x(start), picture.y(high), picture.x(stop) - picture.x(start) + 0.3, picture.y(low) - picture.y(high));
        }
      }
      start = stop;
    }
    g.strokeStyle = colours.muted;
    for (const q of Q) picture.line([[0, q], [T, q]]);
  });
}

/** Loss of the latent (thin) and the rounded weights (thick) of each run, and the best that weights on the levels can have. */
export function paintLosses(picture, colours, { runs, k, best, step }) {
  const g = picture.begin(colours), T = runs[0].T;
  let [low, high] = [Infinity, -Infinity];
  for (const run of runs) { // the first twentieth of the steps may start above the frame
    for (const values of [run.latent, run.rounded]) {
      values.forEach((v, s) => {
        if (v < low) low = v;
        if (v > high && s >= T / 20) high = v;
      });
    }
  }
  if (best !== null) low = Math.min(low, best);
  const pad = 0.08 * (high - low || 1), range = [low - pad, high + pad];
  picture.axes({ x: [0, T], y: range, yticks: ticks(...range, 4), xticks: [0, T], xlabel: "step", left: 38 });
  picture.clipped(() => {
    if (best !== null) {
      g.strokeStyle = colours.text;
      g.setLineDash([2, 4]);
      picture.line([[0, best], [T, best]]);
      g.setLineDash([]);
    }
    for (const run of runs) {
      g.strokeStyle = g.fillStyle = run.colour;
      for (const [values, width] of [[run.rounded, 3], [run.latent, 1.2]]) {
        g.lineWidth = width;
        g.beginPath();
        for (let s = 0; s <= k; s += s + step > k && s < k ? k - s : step) if (values[s] === values[s]) g.lineTo(picture.x(s), picture.y(values[s]));
        g.stroke();
      }
      picture.dot(k, run.rounded[k], 5);
      g.lineWidth = 1.5;
      picture.dot(k, run.latent[k], 4, false);
    }
  });
}

/** How many of all networks have which loss, and where the rounded weights of each run are among them. */
export function paintPlaces(picture, colours, { runs, k, all, words }) {
  const g = picture.begin(colours), first = all.losses[0], last = all.losses[all.losses.length - 1];
  const low = Math.min(first, ...runs.map((run) => run.latent[k])), x = [low - 0.05 * (last - low), last + 0.03 * (last - low)];
  const bins = new Float64Array(80), of = (loss) => Math.min(79, Math.floor((80 * (loss - x[0])) / (x[1] - x[0])));
  all.losses.forEach((loss, i) => (bins[of(loss)] += all.counts[i]));
  const most = Math.max(...bins);
  picture.axes({ x, y: [0, most * 2.1], xticks: ticks(...x, 5), left: 8, bottom: 18 });
  g.fillStyle = colours.muted;
  bins.forEach((count, i) => {
    const at = x[0] + ((x[1] - x[0]) * i) / 80, width = picture.box.width / 80 - 1;
    if (count) g.fillRect(picture.x(at), picture.y(count), width, picture.y(0) - picture.y(count));
  });
  const beside = picture.x(Math.max(...runs.flatMap((run) => [run.rounded[k], run.latent[k]]))) + 9;
  runs.forEach((run, i) => {
    const height = most * (i ? 1.25 : 1.7);
    g.strokeStyle = g.fillStyle = run.colour;
    g.lineWidth = 3;
    picture.line([[run.rounded[k], 0], [run.rounded[k], height]]);
    picture.dot(run.rounded[k], height, 5);
    g.lineWidth = 1.5;
    g.setLineDash([3, 3]);
    picture.line([[run.latent[k], height], [run.rounded[k], height]]);
    g.setLineDash([]);
    picture.dot(run.latent[k], height, 4, false);
    g.textAlign = beside > picture.width / 2 ? "right" : "left";
    g.textBaseline = "middle";
    g.fillText(words[i], g.textAlign === "left" ? beside : picture.width - 8, picture.y(height) - (g.textAlign === "left" ? 0 : 12));
  });
}
