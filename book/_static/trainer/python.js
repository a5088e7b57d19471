/* The lines of Python that make the numbers of a run with the package, and what they print. */
import { TASKS, methodSettings, momentum } from "./run.js";

const LOSS = {
  bowl: (c) => `((w - ${c}) ** 2 / 2).sum()`,
  line: (c) => `(-${c} * w).sum()`,
  valley: (c) => `((w - ${c}) ** 2).sum() / 2 + 0.9 * (w - ${c}).prod()`,
};

/** The method as an expression, and the names to import for it. */
function expression(name, state) {
  const { bits, ratio } = TASKS[state.task], { epsilon: fixed } = methodSettings(name, state);
  const noise = "uniform=lambda w: next(draws)";
  if (name === "Full precision") return ["FullPrecision(levels)", ["FullPrecision"]];
  if (name === "BinaryConnect") return [`BinaryConnect(levels, ${noise})`, ["BinaryConnect"]];
  if (name === "BinaryConnect (deterministic)") return ["BinaryConnect(levels, stochastic=False)", ["BinaryConnect"]];
  if (name === "Debiased BinaryConnect") return [`DebiasedBinaryConnect(levels, delta=${state.delta}, ${noise})`, ["DebiasedBinaryConnect"]];
  if (name === "Straight-through") return ["StraightThrough(levels)", ["StraightThrough"]];
  if (name === "k-bit straight-through") return [`KBitStraightThrough(${bits})`, ["KBitStraightThrough"]];
  if (name === "SGDA") return [`SGDA(levels, epsilon=${fixed}, dual_lr=${state.rate}, dual_max=${state.dmax})`, ["SGDA"]];
  if (/Prox/.test(name)) {
    const norm = { "ProxQuant (L1)": "l1", "ProxQuant (L2)": "l2", "ProxQuant (squared L2)": "squared_l2" }[name];
    return [`ProxQuant(levels, Linear(${state.strength}), "${norm}")`, ["ProxQuant", "Linear"]];
  }
  const constraint = name === "ASkewSGD" ? "PSI" : "PHI";
  return [
    `ASkew(levels, ${constraint}, alpha=${state.alpha}, clip=${state.clip}, merged=True, allow_overshoot=True,\n` +
      `               epsilon=Geometric(${state.eps} * ${constraint}.largest_epsilon(levels), ${ratio}, start=${state.from}))`,
    ["ASkew", "Geometric", constraint],
  ];
}

/** A program that trains `name` for k steps and prints the loss of the latent and of the rounded weights. */
export function program(name, state, k, steps) {
  const { bits, hidden, loss, d } = TASKS[state.task], [method, names] = expression(name, state);
  const { lr, seed, base, w0, c, noise } = state;
  const schedule = base === "cosine" ? `Cosine(${lr}, ${steps})` : base === "harmonic" ? `Harmonic(${lr})` : null;
  if (schedule) names.push(schedule.split("(")[0]);
  const module = hidden ? "moons" : loss ? null : "logistic";
  const imports = [...new Set([...names, "Levels", "QuantizedOptimizer"])].sort().join(", ");
  const lines = ["import torch", "", `from quantized_training import ${imports}`];
  if (module) lines.push(`from study.tasks import ${module}`);
  lines.push("", `levels = Levels.for_bits(${bits})`);
  if (module) {
    lines.push(`task = ${module}.draw(range(${seed}, ${seed + 1})${hidden ? `, hidden=${hidden}` : ""})`);
    lines.push("w, draws = torch.nn.Parameter(task.initial[0].clone()), iter(task.uniform[0])");
  } else {
    lines.push(`random = torch.Generator().manual_seed(${seed})`);
    lines.push(`noise = 2 * torch.rand(${steps}, ${d}, generator=random, dtype=torch.float64) - 1`);
    lines.push(`draws = iter(torch.rand(${steps + 1}, ${d}, generator=random, dtype=torch.float64))`);
    lines.push(`w = torch.nn.Parameter(torch.tensor([${d === 1 ? w0 : `${w0}, ${-w0 / 2}`}], dtype=torch.float64))`);
  }
  const of = { moons: "moons.loss(w, task.x[0], task.y[0])", logistic: "logistic.loss(w[None], task.z)" }[module] ?? LOSS[loss](c);
  const gradient = {
    moons: "moons.gradient(w.detach(), *(part[0] for part in batch))",
    logistic: "logistic.gradient(w.detach()[None], *batch)[0]",
  }[module] ?? `torch.autograd.grad(loss(), w)[0]${noise ? ` + ${noise} * noise[k]` : ""}`;
  lines.push(
    `method = ${method}`,
    `sgd = torch.optim.SGD([w], lr=${lr}${momentum(state) ? `, momentum=${momentum(state)}` : ""})`,
    "optimizer = QuantizedOptimizer(sgd, method)",
    "", "", "def loss():", `    return ${of}`, "", "",
    module ? "for k, batch in enumerate(task.batches()):" : `for k in range(${steps}):`,
    `    if k == ${k}:`, "        break",
  );
  if (schedule) lines.push(`    sgd.param_groups[0]["lr"] = ${schedule}(k)`);
  lines.push(`    w.grad = ${gradient}`, "    optimizer.step()");
  lines.push(...(module ? ["    if (k + 1) % task.per_epoch == 0:", "        method.anneal()"] : ["    method.anneal()"]));
  for (const view of ["latent", "quantized"]) lines.push(`with optimizer.${view}():`, `    print(f"${view} {loss().item():.6f}")`);
  return lines.join("\n") + "\n";
}

/** What it prints. */
export const printed = ([latent, rounded]) => `latent ${latent.toFixed(6)}\nquantized ${rounded.toFixed(6)}\n`;
