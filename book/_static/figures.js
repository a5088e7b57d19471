/* Draws the book's plotly figures in the reader's browser.
 *
 * A page carries each figure as <figure class="plotly-figure"> with its JSON (book/_ext/book_figures.py). A figure is
 * drawn when it comes near the screen, by one plotly.js that is loaded for the first of them, in the colours of the page's
 * theme. Plotly's own sliders, menus and legends are drawn shapes that neither keyboard nor screen reader reaches, so they
 * become native controls: a range with a play button for a slider, a select for a menu, a row of switches for a legend. A
 * live figure (layout.meta.live) has controls of its own, which compute what they show. What a figure shows can be read as a
 * table and saved as CSV and as a picture. Printed figures are light, and drawn even when no one has scrolled to them.
 */
(() => {
  "use strict";
  const page = document.documentElement;
  const narrow = matchMedia("(max-width: 520px)");
  const touch = matchMedia("(pointer: coarse)");
  const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false };
  const SECONDS_PER_PLAY = 6;
  const PIECE = 30; // milliseconds of typesetting at a time
  const MARGIN = 600; // pixels from the screen at which a figure is drawn

  const PLOTLY = new URL("plotly-4.1.1.min.js", document.currentScript.src); // made by `make plotly`
  const TYPES = ["scatter", "bar", "heatmap", "contour"]; // all that are in it
  const used = (type) => [...document.querySelectorAll(".plotly-figure > script")].some((script) => script.text.includes(`"type":"${type}"`));
  let loading = null;
  function loadPlotly() {
    return (loading ??= new Promise((resolve, reject) => {
      const script = element("script", { src: PLOTLY });
      script.addEventListener("load", async () => {
        for (const type of TYPES.filter((name) => used(name))) {
          await pause(); // to read it, and to compile what draws each kind of trace, are tasks of their own
          const first = element("div");
          await window.Plotly.newPlot(first, [{ type, y: [0, 1], z: [[0, 1], [1, 0]] }], { width: 100, height: 100 });
          window.Plotly.purge(first);
        }
        await pause();
        resolve(window.Plotly);
      });
      script.addEventListener("error", () => reject(new Error("plotly.js could not be loaded")));
      document.head.append(script);
    }));
  }

  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  /** Between two pieces of work the browser may scroll and answer. */
  const pause = () => new Promise((resolve) => setTimeout(resolve));
  const idle = () => (window.requestIdleCallback ? new Promise((resolve) => requestIdleCallback(resolve, { timeout: 500 })) : pause());

  /** The text of plotly's small HTML ("<i>w</i><sub>t</sub>"), for labels that hold plain text only. */
  const plain = (text) => new DOMParser().parseFromString(text ?? "", "text/html").body.textContent.trim();

  // Colours ---------------------------------------------------------------------------------------------------------

  /** Defaults of a figure in the page's colours, as a plotly template: what the figure sets itself stays. */
  function template(base) {
    const style = getComputedStyle(page);
    const colour = (name) => style.getPropertyValue(`--pst-color-${name}`).trim();
    const [text, surface, grid, background] = ["text-base", "surface", "border", "background"].map(colour);
    const axis = {
      gridcolor: grid, zerolinecolor: grid, linecolor: text, tickcolor: text, automargin: true,
      title: { standoff: 8 }, ticklabeloverflow: "allow", // to look for those beyond the edge takes a fourth of the drawing
    };
    const small = narrow.matches;
    const layout = {
      font: { color: text, family: style.getPropertyValue("--pst-font-family-base") || "sans-serif", size: small ? 11 : 13 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: axis, yaxis: axis, polar: { bgcolor: "rgba(0,0,0,0)", angularaxis: axis, radialaxis: axis },
      scene: { xaxis: axis, yaxis: axis, zaxis: axis },
      coloraxis: { colorbar: { tickcolor: text, outlinecolor: grid } },
      legend: { bgcolor: "rgba(0,0,0,0)", font: { color: text } },
      hoverlabel: { bgcolor: surface, bordercolor: text, font: { color: text } },
      annotationdefaults: { font: { color: text }, arrowcolor: text },
      shapedefaults: { line: { color: text } },
      modebar: { bgcolor: background, color: text },
    };
    return { data: base?.data ?? {}, layout: merge(base?.layout ?? {}, layout) };
  }

  function merge(under, over) {
    const result = { ...under };
    for (const [key, value] of Object.entries(over)) {
      const both = [value, under[key]].every((v) => v && typeof v === "object" && !Array.isArray(v));
      result[key] = both ? merge(under[key], value) : value;
    }
    return result;
  }

  // Controls --------------------------------------------------------------------------------------------------------

  /** A slider between two buttons that move it by one notch, for fingers; those who tab have the arrow keys. */
  function between(input, label) {
    const [less, more] = [["−", "less", () => input.stepDown()], ["+", "more", () => input.stepUp()]].map(([sign, word, move]) => {
      const button = element("button", { type: "button", class: "nudge", tabindex: -1, "aria-label": `${label}: ${word}` }, sign);
      button.addEventListener("click", () => {
        move();
        input.dispatchEvent(new Event("input"));
      });
      return button;
    });
    return [less, input, more];
  }

  let count = 0;
  const freshId = () => `figure-control-${++count}`;

  /** Run one step of a slider or one choice of a menu. Motion never starts by itself and is never interpolated. */
  async function run(Plotly, plot, { method, args }) {
    if (method === "animate") {
      const redraw = args[1]?.frame?.redraw ?? true;
      const options = { mode: "immediate", transition: { duration: 0 }, frame: { duration: 0, redraw } };
      await Plotly.animate(plot, args[0], options);
    } else await Plotly[method](plot, ...args);
    await breakTitles(Plotly, plot);
    return plot.legend?.update();
  }

  function rangeControl(Plotly, plot, slider) {
    const id = freshId();
    const steps = slider.steps.filter((step) => step.visible !== false);
    const label = plain(slider.currentvalue?.prefix).replace(/[:=\s]+$/, "") || "Step";
    const input = element("input", { type: "range", id, min: 0, max: steps.length - 1, step: 1 });
    const output = element("output", { for: id });
    const play = element("button", { type: "button" });
    input.value = slider.active ?? 0;
    let timer = null;

    function show() {
      const text = plain(steps[input.value].label) + plain(slider.currentvalue?.suffix);
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
    }
    function update() {
      show();
      return run(Plotly, plot, steps[input.value]);
    }
    function stop() {
      clearTimeout(timer);
      timer = null;
      play.textContent = "Play";
    }
    async function advance() {
      const started = performance.now();
      input.value = Number(input.value) + 1;
      await update();
      if (timer === null) return; // paused meanwhile
      if (Number(input.value) >= steps.length - 1) return stop();
      const pause = Math.max(60, (1000 * SECONDS_PER_PLAY) / steps.length) - (performance.now() - started);
      timer = setTimeout(advance, Math.max(0, pause));
    }
    input.addEventListener("input", () => {
      stop();
      update();
    });
    play.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (Number(input.value) >= steps.length - 1) input.value = -1;
      play.textContent = "Pause";
      timer = setTimeout(advance, 0);
    });
    document.addEventListener("visibilitychange", () => document.hidden && stop());

    show();
    stop();
    play.setAttribute("aria-describedby", `${id}-label`);
    const name = element("label", { for: id, id: `${id}-label` }, label);
    return element("div", { class: "figure-control figure-range" }, name, ...between(input, label), output, play);
  }

  function selectControl(Plotly, plot, menu) {
    const id = freshId();
    const buttons = menu.buttons.filter((button) => button.visible !== false && button.method !== "animate");
    if (!buttons.length) return null; // plotly's own play button: the range has one
    const options = buttons.map((button, index) => element("option", { value: index }, plain(button.label)));
    const select = element("select", { id }, ...options);
    select.selectedIndex = menu.active ?? 0;
    // shown where a narrow screen cuts the words of the choice (fit.js)
    const choice = element("output", { for: id, class: "figure-choice" }, plain(buttons[select.selectedIndex].label));
    select.addEventListener("change", () => {
      choice.textContent = plain(buttons[select.value].label);
      return run(Plotly, plot, buttons[select.value]);
    });
    const name = element("label", { for: id }, plain(menu.name) || "Show");
    return element("div", { class: "figure-control figure-select" }, name, select, choice);
  }

  // Legend ----------------------------------------------------------------------------------------------------------

  const first = (value) => (Array.isArray(value) || ArrayBuffer.isView(value) ? value[0] : value);
  const SYMBOLS = {
    diamond: "M15 1l6 6-6 6-6-6z", square: "M10 2h10v10H10z", x: "M11 3l8 8m0-8l-8 8", cross: "M15 2v10m-5-5h10",
    "triangle-up": "M15 2l6 10H9z", "triangle-down": "M15 12L9 2h12z", circle: "M20 7a5 5 0 1 1-10 0a5 5 0 1 1 10 0z",
  };
  const DASHES = { dot: "2 3", dash: "7 4", longdash: "11 4", dashdot: "7 3 2 3", longdashdot: "11 3 2 3" };

  /** A small picture of a trace: its line, its mark, or its area. */
  function swatch(trace) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const add = (attributes) => {
      const path = document.createElementNS(svg.namespaceURI, "path");
      for (const [name, value] of Object.entries(attributes)) path.setAttribute(name, value);
      svg.append(path);
    };
    for (const [name, value] of Object.entries({ viewBox: "0 0 30 14", width: 30, height: 14, "aria-hidden": true })) svg.setAttribute(name, value);
    svg.style.opacity = Math.max(0.4, trace.opacity ?? 1);
    const { line = {}, marker = {}, mode = "" } = trace, scatter = trace.type === "scatter";
    if (!scatter || (trace.fill && trace.fill !== "none")) {
      const colour = scatter ? trace.fillcolor : trace.type === "bar" ? first(marker.color) : null;
      if (colour) add({ d: "M2 1h26v12H2z", fill: colour });
    }
    const drawn = scatter ? mode.includes("lines") && line.width !== 0 : trace.type === "contour";
    const stroke = trace.type === "contour" ? trace.colorscale?.[0]?.[1] : first(line.color);
    if (drawn) add({ d: "M1 7h28", stroke, "stroke-width": Math.min(4, line.width ?? 2), "stroke-dasharray": DASHES[line.dash] ?? line.dash?.replace("solid", "") ?? "" });
    if (mode.includes("markers")) {
      const symbol = String(first(marker.symbol) ?? "circle"), colour = first(marker.color), open = symbol.includes("open");
      add({ d: SYMBOLS[symbol.replace(/-(open|dot|thin)/g, "")] ?? SYMBOLS.circle, stroke: colour, fill: open || /^(x|cross)/.test(symbol) ? "none" : colour, "stroke-width": 2 });
    }
    return svg;
  }

  /** A legend of native switches: one tab stop, arrow keys between its entries. What the reader hides stays hidden when a menu changes the view. */
  function legend(Plotly, plot, shown) {
    const row = element("div", { class: "figure-legend", role: "toolbar", "aria-label": "Curves to show" });
    const chosen = new Map(); // entry -> shown or hidden by the reader
    const key = (trace) => trace.legendgroup || trace.name;
    const entries = () => {
      const found = new Map();
      plot._fullData.forEach((trace, index) => {
        if (trace.visible === false) return;
        const entry = found.get(key(trace)) ?? { name: null, traces: [], on: false, rank: trace.legendrank ?? 1000 };
        entry.traces.push(index);
        entry.on ||= trace.visible === true;
        if (trace.showlegend && entry.name === null) Object.assign(entry, { name: trace.name, trace });
        found.set(key(trace), entry);
      });
      return [...found].filter(([, { name }]) => name !== null).sort(([, a], [, b]) => a.rank - b.rank);
    };

    async function toggle(name, on) {
      chosen.set(name, on);
      await update();
      row.querySelector('[tabindex="0"]')?.focus();
    }
    /** Apply the reader's choices to what the figure shows now, and list it. */
    async function update() {
      const wrong = entries().filter(([name, { on }]) => chosen.has(name) && chosen.get(name) !== on);
      for (const [name, { traces }] of wrong) await Plotly.restyle(plot, { visible: chosen.get(name) ? true : "legendonly" }, traces);
      const list = entries(), active = Number(row.dataset.active ?? 0);
      row.hidden = !shown(list.length);
      row.replaceChildren(...list.map(([name, { name: text, trace, on }], index) => {
        const button = element("button", { type: "button", "aria-pressed": on, tabindex: index === Math.min(active, list.length - 1) ? 0 : -1 }, swatch(trace), plain(text));
        button.addEventListener("click", () => {
          row.dataset.active = index;
          return toggle(name, !on);
        });
        return button;
      }));
    }
    row.addEventListener("keydown", (event) => {
      const buttons = [...row.children], now = buttons.indexOf(document.activeElement);
      const next = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (next === undefined || !buttons[next]) return;
      event.preventDefault();
      buttons[now].tabIndex = -1;
      buttons[next].tabIndex = 0;
      buttons[next].focus();
      row.dataset.active = next;
    });
    plot.legend = { update };
    return row;
  }

  /** Undoes a zoom by mouse or finger; shown while there is one. */
  function wholeView(Plotly, plot) {
    const button = element("button", { type: "button", class: "figure-whole", hidden: "" }, "Whole view");
    const axes = () => Object.entries(plot._fullLayout).filter(([name, { range } = {}]) => /^[xy]axis\d*$/.test(name) && range);
    let before = {};
    plot.addEventListener("pointerdown", () => {
      if (button.hidden) before = Object.fromEntries(axes().map(([name, { range, autorange }]) => (autorange ? [`${name}.autorange`, true] : [`${name}.range`, [...range]])));
    }, true);
    plot.on("plotly_relayout", (change) => {
      const zoomed = Object.keys(change).some((key) => /^[xy]axis\d*\.range\[/.test(key)); // menus give the range as a whole
      if (zoomed || Object.keys(change).some((key) => /^[xy]axis/.test(key))) button.hidden = !zoomed;
    });
    button.addEventListener("click", () => Plotly.relayout(plot, before));
    return button;
  }

  // Data ------------------------------------------------------------------------------------------------------------

  const ROWS = 200; // in the table on the page; the CSV has all
  const list = (values) => (values == null ? [] : Array.from(values));

  /** What the figure shows now, as rows of [curve, x, y, value or words]. */
  function values(plot) {
    return plot._fullData.filter(({ visible, hoverinfo, showlegend }) => visible === true && (hoverinfo !== "skip" || showlegend)).flatMap((trace) => {
      const name = plain(trace.name), x = list(trace.x), y = list(trace.y);
      if (trace.z) return list(trace.z).flatMap((row, j) => list(row).map((z, i) => [name, x[i] ?? i, y[j] ?? j, z]));
      const words = Array.isArray(trace.text) ? trace.text : Array.isArray(trace.customdata) ? trace.customdata : [];
      return Array.from({ length: Math.max(x.length, y.length) }, (_, i) => [name, x[i] ?? i, y[i] ?? i, plain(String(first(words[i]) ?? ""))]);
    }).filter(([, x, y]) => x !== null && y !== null);
  }
  const axis = (plot, letter) => plain(plot._fullLayout[`${letter}axis`]?.title?.text) || letter;
  const rounded = (value) => (typeof value === "number" ? Number(value.toPrecision(5)) : value);
  const quoted = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? ""));

  function save(name, type, content) {
    const link = element("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  /** Below a figure: its description, its data as a table and as CSV, a picture. Made when it is opened. */
  function behind(Plotly, figure, plot) {
    const inside = element("div", { class: "figure-behind" });
    const box = element("details", { class: "figure-data" }, element("summary", {}, "Description and data"), inside);
    const name = [document.location.pathname.split("/").pop().replace(/\.html$/, ""), figure.id].join("-");
    const button = (label, act) => {
      const made = element("button", { type: "button" }, label);
      made.addEventListener("click", act);
      return made;
    };
    function table(rows, heads) {
      const used = heads.map((_, i) => rows.some((row) => row[i] !== "" && row[i] != null));
      const line = (row, tag) => element("tr", {}, ...row.filter((_, i) => used[i]).map((value) => element(tag, tag === "th" ? { scope: "col" } : {}, String(value ?? ""))));
      return element("table", { class: "data" }, element("thead", {}, line(heads, "th")), element("tbody", {}, ...rows.slice(0, ROWS).map((row) => line(row.map(rounded), "td"))));
    }
    box.addEventListener("toggle", () => {
      if (!box.open) return;
      const rows = values(plot), heads = ["curve", axis(plot, "x"), axis(plot, "y"), "value"];
      const csv = () => save(`${name}.csv`, "text/csv", [heads, ...rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n");
      const png = () => Plotly.downloadImage(plot, { format: "png", scale: 2, filename: name, width: plot.clientWidth, height: plot.clientHeight });
      const more = rows.length > ROWS ? `The first ${ROWS} of ${rows.length} rows; the CSV has all.` : "";
      inside.replaceChildren(
        element("p", {}, figure.querySelector(".figure-alt").textContent),
        element("p", { class: "figure-saves" }, button("Save the data (CSV)", csv), button("Save the picture (PNG)", png)),
        element("div", { class: "figure-table", tabindex: 0, role: "region", "aria-label": "Data of the figure" }, table(rows, heads)),
        element("p", {}, more),
      );
    });
    return box;
  }

  // Figures ---------------------------------------------------------------------------------------------------------

  /** A narrow screen has no room for wide margins, nor for a legend beside the plot. */
  function adapt(layout, data) {
    delete layout.width;
    if (touch.matches) layout.dragmode ??= false; // a finger on a figure scrolls the page
    if (!narrow.matches) return;
    const bars = [layout.coloraxis?.colorbar, ...data.map(({ colorbar, marker }) => colorbar ?? marker?.colorbar)];
    if (bars.some((bar) => bar?.orientation === "h")) layout.margin = { ...layout.margin, b: (layout.margin?.b ?? 50) + 24 }; // its words stand aslant
    if (layout.margin?.autoexpand !== false) layout.margin = { ...layout.margin, l: Math.min(layout.margin?.l ?? 50, 50), r: Math.min(layout.margin?.r ?? 10, 10) };
    if (layout.legend?.orientation !== "h") layout.legend = { ...layout.legend, orientation: "h", x: 0, y: -0.2, yanchor: "top" };
  }

  /** Axis titles that are longer than their figure is wide (or high) break into lines; again when the size or a menu changes it. */
  function breakTitles(Plotly, plot) {
    const brush = document.createElement("canvas").getContext("2d"), changes = {};
    const whole = (plot.wholeTitles ??= {});
    for (const [name, axis] of Object.entries(plot._fullLayout)) {
      const [, letter, number] = /^([xy])axis(\d*)$/.exec(name) ?? [], text = axis?.title?.text;
      const node = letter && text && plot.querySelector(`.infolayer .${letter}${number}title`);
      if (!node) continue;
      const title = whole[name]?.broken === text ? whole[name].text : text, words = title.split(" ");
      brush.font = getComputedStyle(node).font;
      const { _offset: start, _length: length } = axis, size = letter === "x" ? plot.clientWidth : plot.clientHeight;
      const room = 2 * Math.min(start + length / 2, size - start - length / 2) - 8;
      const lines = [];
      for (const word of words) {
        const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
        if (lines.length && brush.measureText(plain(longer)).width <= room) lines[lines.length - 1] = longer;
        else lines.push(word);
      }
      const broken = lines.join("<br>");
      whole[name] = { text: title, broken };
      if (broken !== text) changes[`${name}.title.text`] = broken;
    }
    return Object.keys(changes).length ? Plotly.relayout(plot, changes) : null;
  }

  /** What plotly is given to draw, and what the page does in its place. */
  function read(figure) {
    const { data, layout, frames } = JSON.parse(figure.querySelector("script").textContent);
    const { sliders = [], updatemenus = [], template: base, showlegend } = layout;
    delete layout.sliders;
    delete layout.updatemenus;
    layout.showlegend = false; // it is HTML, as title and menus are
    const above = layout.annotations?.some(({ yref, y }) => yref !== "y" && y >= 1); // the titles of panels
    layout.margin = { ...layout.margin, t: Math.min(layout.margin?.t ?? 50, above ? 40 : 20) };
    adapt(layout, data);
    layout.template = template(base);
    return { plot: figure.querySelector(".figure-plot"), data, layout, frames, sliders, updatemenus, base, showlegend };
  }

  /** The figure, drawn at once; what plotly does later (frames, nothing else) is awaited. */
  function paint(figure, Plotly) {
    const { plot, data, layout, frames, sliders, updatemenus, base, showlegend } = read(figure);
    figure.recolour = () => Plotly.relayout(plot, { template: template(base) });
    const drawn = Plotly.newPlot(plot, data, layout, CONFIG);
    const row = legend(Plotly, plot, (count) => showlegend !== false && (count > 1 || (count === 1 && showlegend === true)));
    plot.before(row);
    plot.legend.update(); // at once: paper does not wait

    const finish = async () => {
      await drawn;
      await pause();
      if (frames.length) await Plotly.addFrames(plot, frames);
      const live = window.quantizedTraining?.live[layout.meta?.live?.kind]; // recomputed here (constraint.js), not stored
      const controls = live ? live(Plotly, plot, layout.meta.live, { element, freshId, between }) : [
        ...updatemenus.map((menu) => selectControl(Plotly, plot, menu)),
        ...sliders.map((slider) => rangeControl(Plotly, plot, slider)),
      ].filter(Boolean);
      figure.append(wholeView(Plotly, plot), behind(Plotly, figure, plot));
      if (controls.length) plot.after(element("div", { class: "figure-controls" }, ...controls));
      await plot.legend.update();
      await pause();
      await breakTitles(Plotly, plot);
      plot.on("plotly_relayout", ({ autosize }) => autosize && breakTitles(Plotly, plot));
      new MutationObserver(figure.recolour).observe(page, { attributeFilter: ["data-theme"] });
      narrow.addEventListener("change", figure.recolour);
      figure.dataset.drawn = Math.round(performance.now()); // milliseconds since the page was opened
      figure.dispatchEvent(new CustomEvent("drawn", { bubbles: true }));
    };
    return finish();
  }

  async function draw(figure) {
    const Plotly = await loadPlotly();
    const { plot, layout } = read(figure);
    if (!figure.recolour) await Plotly.newPlot(plot, [], layout, CONFIG); // the axes alone: one task would have too much to do
    await pause();
    if (!figure.recolour) await paint(figure, Plotly);
  }

  /** One after the other, so that the first is not kept waiting by the rest. */
  let queue = Promise.resolve();
  function enqueue(figure) {
    queue = queue.then(() => draw(figure)).then(idle).catch((error) => {
      figure.querySelector(".figure-plot").textContent = `This figure could not be drawn: ${error.message}`;
      console.error(error);
    });
  }

  /** Figures near the screen, or the one that the address points to, are drawn at once; the others when they come near. */
  function start() {
    const near = (figure) => {
      const { top, bottom } = figure.getBoundingClientRect();
      return top < innerHeight + MARGIN && bottom > -MARGIN;
    };
    const target = location.hash && document.getElementById(location.hash.slice(1))?.closest(".plotly-figure");
    const observer = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(target);
        enqueue(target);
      }
    }, { rootMargin: `${MARGIN}px` });
    for (const figure of document.querySelectorAll(".plotly-figure")) {
      if (figure === target || (!target && near(figure))) enqueue(figure);
      else observer.observe(figure);
    }
    letMathWait(queue);
  }

  /** Typesetting keeps the browser busy for a second: it waits for the figures that a reader sees first, and goes on in pieces. */
  function letMathWait(figures) {
    const { MathJax } = window; // still its configuration: MathJax itself comes with the deferred scripts
    if (!MathJax) return; // a page without maths
    const patience = new Promise((resolve) => setTimeout(resolve, 2000));
    const pageReady = async () => {
      await Promise.race([figures, patience]);
      const formulas = [...document.querySelectorAll(".math")]; // all: a test looks for others
      let start = 0, size = 1;
      while (start < formulas.length) {
        const began = performance.now();
        await window.MathJax.typesetPromise(formulas.slice(start, start + size));
        start += size;
        size = Math.max(1, Math.floor((PIECE * size) / Math.max(1, performance.now() - began)));
        await pause();
      }
    };
    MathJax.startup = { ...MathJax.startup, pageReady };
  }

  // Paper -----------------------------------------------------------------------------------------------------------

  /** The browser does not wait before it prints: what is missing is loaded and drawn at once. */
  function loadNow() {
    if (window.Plotly) return window.Plotly;
    try {
      const request = new XMLHttpRequest();
      request.open("GET", PLOTLY, false);
      request.send();
      window.Plotly = (0, eval)(`${request.responseText}\n;Plotly`);
    } catch {
      return null; // a file on disk may not be asked for: the figures' words are printed
    }
    return window.Plotly;
  }
  let screenTheme = null;
  addEventListener("beforeprint", () => {
    screenTheme = page.dataset.theme;
    page.dataset.theme = "light";
    for (const figure of document.querySelectorAll(".plotly-figure")) {
      const Plotly = loadNow();
      if (figure.recolour) figure.recolour();
      else if (Plotly) paint(figure, Plotly).catch(console.error);
      // paper is narrower or wider than the window: a drawing with a view box can be scaled by the style sheet
      for (const svg of figure.querySelectorAll("svg.main-svg"))
        svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`);
    }
  });
  addEventListener("afterprint", () => {
    page.dataset.theme = screenTheme ?? page.dataset.theme;
    for (const svg of document.querySelectorAll(".plotly-figure svg.main-svg")) svg.removeAttribute("viewBox");
  });

  // "interactive" comes before the deferred scripts (MathJax, icons); a figure need not wait for them.
  if (document.readyState === "loading") document.addEventListener("readystatechange", start, { once: true });
  else start();
})();
