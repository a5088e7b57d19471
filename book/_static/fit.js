/* Nothing is cut: what is wider than its place is made to fit, step by step, and again whenever the width changes.
 *
 * tables    closer columns, then smaller, then each row as a block in which every value carries its column's name
 * listings  a little smaller, then long lines wrap
 * formulas  a little smaller, then folded: at wide spaces and commas first, then before relations, at operators, within
 *           brackets, within the cells of an array
 * choices   the words of a choice that its control cuts stand below it
 * What still does not fit then scrolls, with a shadow at the edge that says so (class `scrolls`); a test counts these.
 */
(() => {
  "use strict";
  const slack = 1; // pixels that rounding may cost
  const ARROW = 16; // of a select

  /** A line of a formula may break before these boxes, the more of them the less room there is. */
  const BREAKS = [
    (node) => wide(node),
    (node) => wide(node) || relation(node),
    (node) => wide(node) || relation(node) || node.matches("mjx-mo[space='3']"), // + and -
  ];
  const wide = (node) => node.matches("mjx-mstyle, mjx-mspace") && parseFloat((node.querySelector("mjx-mspace") ?? node).style.width) >= 1;
  const relation = (node) => node.matches("mjx-mo[space='4'], mjx-texatom[space='4'][texclass='REL']");
  const comma = (node) => node && /[,;]/.test(glyph(node));
  const opening = (node) => node.matches("mjx-texatom[texclass='OPEN']") || /^[([{⟨⌊⌈]$/.test(glyph(node));
  const closing = (node) => node.matches("mjx-texatom[texclass='CLOSE']") || /^[)\]}⟩⌋⌉]$/.test(glyph(node));
  /** MathJax writes characters as class names: mjx-c28 is "(". */
  function glyph(node) {
    if (!node.matches("mjx-mo")) return "";
    const code = node.querySelector("mjx-c")?.className.match(/mjx-c([0-9A-F]+)/)?.[1];
    return code ? String.fromCodePoint(parseInt(code, 16)) : "";
  }

  /** Wrap the children of `row` into runs that stay on one line. Levels: as in BREAKS; 3: within brackets, too. */
  function split(row, level) {
    join(row);
    let run = null, depth = 0;
    for (const node of [...row.childNodes]) {
      if (node.nodeType === 1 && node.matches("mjx-tstrut")) continue;
      if (closing(node)) depth -= 1;
      const free = depth === 0 || level > 2;
      if (!run || (free && BREAKS[Math.min(level, 2)](node)) || (free && comma(run.lastElementChild))) {
        run = document.createElement("span");
        run.className = "maths-run";
        node.before(run);
      }
      run.append(node);
      if (opening(node)) depth += 1;
    }
  }
  function join(row) {
    for (const run of row.querySelectorAll(":scope > .maths-run")) run.replaceWith(...run.childNodes);
  }

  /** Where all is in one style or group, the row within that. */
  function inner(row) {
    const children = [...row.children].filter((node) => !node.matches("mjx-tstrut, mjx-assistive-mml"));
    if (children.length !== 1 || !children[0].matches("mjx-mstyle, mjx-texatom")) return row;
    children[0].classList.add("maths-line");
    return inner(children[0]);
  }
  /** The rows of boxes that a formula's lines consist of: the cells of the outermost table (tagged or aligned), or all of it. */
  function rows(box, deep) {
    const cells = [...box.querySelectorAll("mjx-math > mjx-mtable > mjx-table > mjx-itable > * > mjx-mtd")];
    const outer = (cells.length ? cells : [...box.querySelectorAll("mjx-math")]).map(inner);
    if (!deep) return outer;
    return [...outer, ...box.querySelectorAll("mjx-mtd mjx-mtd, mjx-math:not(:has(> mjx-mtable)) mjx-mtd, mjx-mrow:has(> mjx-mo)")]
      .filter((row) => !row.closest("mjx-labels, mjx-mfrac, mjx-script, mjx-msqrt"));
  }
  function fold(box, level) {
    box.classList.add("folded");
    box.classList.toggle("folded-deep", level > 3);
    for (const row of rows(box, level > 3)) split(row, level);
    // the numbers of equations stand beside their lines, which are now higher
    const lines = box.querySelectorAll("mjx-math > mjx-mtable > mjx-table > mjx-itable > *");
    box.querySelectorAll("mjx-labels mjx-mtr").forEach((label, i) => lines[i] && (label.style.height = `${lines[i].offsetHeight}px`));
  }
  function unfold(box) {
    if (!box.classList.contains("folded")) return;
    box.classList.remove("folded", "folded-deep");
    for (const run of box.querySelectorAll(".maths-run")) run.replaceWith(...run.childNodes);
    for (const line of box.querySelectorAll(".maths-line")) line.classList.remove("maths-line");
  }

  /** Rows as blocks: a value says which column it belongs to; roles keep what display: block takes from a table. */
  function name(table) {
    if (table.dataset.named) return;
    table.dataset.named = "yes";
    const heads = [...(table.tHead?.rows[0]?.cells ?? [])].map((cell) => cell.textContent.trim());
    for (const [selector, role] of [["table", "table"], ["thead, tbody", "rowgroup"], ["tr", "row"], ["td", "cell"],
      ["thead th", "columnheader"], ["tbody th", "rowheader"]]) {
      const found = selector === "table" ? [table] : table.querySelectorAll(selector);
      for (const node of found) node.setAttribute("role", role);
    }
    for (const row of table.tBodies[0]?.rows ?? [])
      [...row.cells].forEach((cell, i) => i && heads[i] && (cell.dataset.column = heads[i].replace(/([^?:])$/, "$1:")));
  }

  const KINDS = [
    {
      selector: ".table-wrap, .pst-scrollable-table-container",
      steps: ["table-close", "table-small", "table-rows"].map((step) => (box) => {
        const table = box.querySelector("table");
        if (step === "table-rows") name(table);
        table.classList.add(step);
      }),
      reset: (box) => box.querySelector("table")?.classList.remove("table-close", "table-small", "table-rows"),
    },
    {
      selector: "div.highlight pre",
      steps: ["listing-small", "listing-wrapped"].map((step) => (box) => box.classList.add(step)),
      reset: (box) => box.classList.remove("listing-small", "listing-wrapped"),
    },
    {
      selector: ".figure-select select",
      steps: [(box) => box.classList.add("choice-cut")],
      reset: (box) => box.classList.remove("choice-cut"),
      fits(box) {
        const style = getComputedStyle(box), brush = document.createElement("canvas").getContext("2d");
        brush.font = style.font;
        return brush.measureText(box.selectedOptions[0]?.text ?? "").width + ARROW <= box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
      },
    },
    {
      selector: "mjx-container",
      steps: [
        (box) => box.classList.add("maths-small"),
        ...[0, 1, 2, 3].map((level) => (box) => fold(box, level)),
        (box) => box.classList.add("maths-smaller"),
        (box) => fold(box, 4),
      ],
      reset(box) {
        box.classList.remove("maths-small", "maths-smaller");
        unfold(box);
      },
      room: (box) => box.closest("div.math, p, li, td, th, dd, figcaption, div") ?? box.parentElement,
    },
  ];

  /** A formula in a cell widens the cell: it is folded only where the table's rows have become blocks. */
  const room = ({ box, kind }) => kind.room?.(box) ?? box;
  const waits = ({ box, kind }) => kind.room && box.closest("table:not(.table-rows)");
  function fits({ box, kind }) {
    if (kind.fits) return kind.fits(box) || box.classList.contains("choice-cut");
    if (!kind.room) return box.scrollWidth <= box.clientWidth + slack;
    const { left, right } = room({ box, kind }).getBoundingClientRect();
    return [box, ...box.querySelectorAll("mjx-math, mjx-table, mjx-mtd, .maths-run")].every((part) => {
      const own = part.getBoundingClientRect();
      return own.left >= left - slack && own.right <= right + slack;
    });
  }

  /** All together: each round asks the browser for one layout, not one for every box. */
  function refit(items) {
    for (const { box, kind } of items) {
      kind.reset(box);
      box.classList.remove("scrolls");
    }
    const [formulas, others] = [items.filter(({ kind }) => kind.room), items.filter(({ kind }) => !kind.room)];
    improve(others);
    improve(formulas.filter((item) => !waits(item)));
    improve(others.filter(({ kind }) => !kind.fits).map(({ box }) => ({ box, kind: { steps: [] } })));
  }
  function improve(items) {
    let left = items.filter(({ box }) => box.checkVisibility()); // the hidden are done when they are shown
    for (let step = 0; left.length; step += 1) {
      left = left.filter((item) => !fits(item));
      for (const { box, kind } of left) (kind.steps[step] ?? ((it) => it.classList.add("scrolls")))(box);
      left = left.filter(({ kind }) => step < kind.steps.length);
    }
  }

  let items = [];
  function start() {
    const article = document.querySelector(".bd-article");
    if (!article) return;
    const within = (place) => KINDS.flatMap((kind) => [...place.querySelectorAll(kind.selector)].map((box) => ({ box, kind })));
    items = within(article);
    let width = 0;
    new ResizeObserver(() => {
      if (width === (width = article.clientWidth)) return; // its height changes with what is done here
      refit(items);
      document.documentElement.dataset.fitted = width;
    }).observe(article);
    const shown = (event) => {
      const place = event.target.closest?.("details, .toggle, .cell, .admonition, .tab-set");
      if (place) setTimeout(() => refit(items.filter(({ box }) => place.contains(box))), 50);
    };
    article.addEventListener("drawn", ({ target }) => {
      const added = within(target);
      items.push(...added);
      refit(added);
    });
    article.addEventListener("change", ({ target }) => refit(items.filter(({ box }) => box === target)));
    article.addEventListener("toggle", shown, true);
    article.addEventListener("click", shown);
    addEventListener("beforeprint", () => refit(items));
  }

  document.addEventListener("DOMContentLoaded", () => Promise.resolve(window.MathJax?.startup?.promise).then(start));
})();
