/* Draws the book's plotly figures in the reader's browser.
 *
 * A page carries each figure as <figure class="plotly-figure"> with its JSON (book/_ext/book_figures.py). A figure is
 * drawn when it comes near the screen, by one plotly.js shared by all pages, in the colours of the page's theme.
 * Plotly's own sliders and menus are drawn shapes that neither keyboard nor screen reader reaches, so they become
 * native controls: a range with a play button for a slider, a select for a menu. A live figure (layout.meta.live) has
 * controls of its own, which compute what they show.
 */
(() => {
  "use strict";
  const page = document.documentElement;
  const narrow = matchMedia("(max-width: 520px)");
  const touch = matchMedia("(pointer: coarse)");
  const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false };
  const SECONDS_PER_PLAY = 6;
  const MARGIN = 600; // pixels from the screen at which a figure is drawn

  /** The page loads plotly.js by itself, beside its own content. */
  const plotlyScript = () => document.querySelector('script[src*="plotly.min.js"]');
  function loadPlotly() {
    if (window.Plotly) return window.Plotly;
    return new Promise((resolve, reject) => {
      plotlyScript().addEventListener("load", () => resolve(window.Plotly));
      plotlyScript().addEventListener("error", () => reject(new Error("plotly.js could not be loaded")));
    });
  }

  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

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
      title: { standoff: 8 },
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

  let count = 0;
  const freshId = () => `figure-control-${++count}`;

  /** Run one step of a slider or one choice of a menu. Motion never starts by itself and is never interpolated. */
  function run(Plotly, plot, { method, args }) {
    if (method !== "animate") return Plotly[method](plot, ...args);
    const redraw = args[1]?.frame?.redraw ?? true;
    const options = { mode: "immediate", transition: { duration: 0 }, frame: { duration: 0, redraw } };
    return Plotly.animate(plot, args[0], options);
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
    return element("div", { class: "figure-control figure-range" }, name, input, output, play);
  }

  function selectControl(Plotly, plot, menu) {
    const id = freshId();
    const buttons = menu.buttons.filter((button) => button.visible !== false && button.method !== "animate");
    if (!buttons.length) return null; // plotly's own play button: the range has one
    const options = buttons.map((button, index) => element("option", { value: index }, plain(button.label)));
    const select = element("select", { id }, ...options);
    select.selectedIndex = menu.active ?? 0;
    select.addEventListener("change", () => run(Plotly, plot, buttons[select.value]));
    const name = element("label", { for: id }, plain(menu.name) || "Show");
    return element("div", { class: "figure-control figure-select" }, name, select);
  }

  // Figures ---------------------------------------------------------------------------------------------------------

  /** A narrow screen has no room for wide margins, nor for a legend beside the plot. */
  function adapt(layout) {
    delete layout.width;
    if (touch.matches) layout.dragmode ??= false; // a finger on a figure scrolls the page
    if (!narrow.matches) return;
    layout.margin = { ...layout.margin, l: Math.min(layout.margin?.l ?? 50, 50), r: Math.min(layout.margin?.r ?? 10, 10) };
    if (layout.legend?.orientation !== "h") layout.legend = { ...layout.legend, orientation: "h", x: 0, y: -0.2, yanchor: "top" };
  }

  async function draw(figure) {
    const plot = figure.querySelector(".figure-plot");
    const { data, layout, frames } = JSON.parse(figure.querySelector("script").textContent);
    const Plotly = await loadPlotly();
    const { sliders = [], updatemenus = [], template: base } = layout;
    delete layout.sliders;
    delete layout.updatemenus;
    layout.margin = { ...layout.margin, t: Math.min(layout.margin?.t ?? 50, 50) }; // title and menus are HTML here
    adapt(layout);
    layout.template = template(base);
    await Plotly.newPlot(plot, data, layout, CONFIG);
    if (frames.length) await Plotly.addFrames(plot, frames);

    const live = window.quantizedTraining?.live[layout.meta?.live?.kind]; // recomputed here (constraint.js), not stored
    const controls = live ? live(Plotly, plot, layout.meta.live, { element, freshId }) : [
      ...updatemenus.map((menu) => selectControl(Plotly, plot, menu)),
      ...sliders.map((slider) => rangeControl(Plotly, plot, slider)),
    ].filter(Boolean);
    if (controls.length) plot.after(element("div", { class: "figure-controls" }, ...controls));

    const recolour = () => Plotly.relayout(plot, { template: template(base) });
    new MutationObserver(recolour).observe(page, { attributeFilter: ["data-theme"] });
    narrow.addEventListener("change", recolour);
    figure.dataset.drawn = Math.round(performance.now()); // milliseconds since the page was opened
  }

  /** One after the other, so that the first is not kept waiting by the rest. */
  let queue = Promise.resolve();
  function enqueue(figure) {
    queue = queue.then(() => draw(figure)).catch((error) => {
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

  /** Typesetting keeps the browser busy for a second; the figures that a reader sees first come before it. */
  function letMathWait(figures) {
    const { MathJax } = window; // still its configuration: MathJax itself comes with the deferred scripts
    if (!MathJax) return; // a page without maths
    const patience = new Promise((resolve) => setTimeout(resolve, 2000));
    const pageReady = () => Promise.race([figures, patience]).then(() => window.MathJax.startup.defaultPageReady());
    MathJax.startup = { ...MathJax.startup, pageReady };
  }

  // "interactive" comes before the deferred scripts (MathJax, icons); a figure need not wait for them.
  if (document.readyState === "loading") document.addEventListener("readystatechange", start, { once: true });
  else start();
})();
