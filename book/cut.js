/* () => what of the open page is cut, as [kind, pixels, words]; [] when nothing is. For tests/book and book/look.py. */
() => {
  const article = document.querySelector(".bd-article"), found = [];
  const words = (node) => {
    const copy = node.cloneNode(true);
    copy.querySelectorAll("mjx-assistive-mml, script").forEach((inner) => inner.remove());
    return `${node.tagName.toLowerCase()}.${node.getAttribute("class") ?? ""}: ${copy.textContent.trim().replace(/\s+/g, " ").slice(0, 80)}`;
  };
  const report = (kind, pixels, node) => pixels > 1.5 && found.push([kind, Math.round(pixels), words(node)]);

  report("the page scrolls sideways", document.scrollingElement.scrollWidth - innerWidth, article.querySelector("h1"));
  // for screen readers alone, or shown by plotly, whose own texts are looked at below
  const unseen = "mjx-assistive-mml, mjx-ext, .figure-alt, .table-rows thead, noscript, script, .figure-plot, .visually-hidden";
  for (const node of article.querySelectorAll("*")) {
    if (node.closest(unseen) || !node.checkVisibility()) continue;
    const style = getComputedStyle(node), box = node.getBoundingClientRect();
    if (!box.width) continue;
    if (style.overflowX !== "visible" && style.display !== "inline") report("hidden or to be scrolled to", node.scrollWidth - node.clientWidth, node);
    if (style.overflowY !== "visible" && style.display !== "inline" && !node.matches("mjx-container, mjx-container *, textarea"))
      report("hidden below", node.scrollHeight - node.clientHeight, node);
    if (node.textContent.trim()) report("outside the window", Math.max(-box.left, box.right - innerWidth), node);
    const column = node.matches("mjx-container, .maths-run, td, th") && node.closest(".table-wrap, .pst-scrollable-table-container, div.math, p, li, dd");
    if (column) {
      const { left, right } = column.getBoundingClientRect();
      report("beyond its column", Math.max(left - box.left, box.right - right), node);
    }
    if (node.matches("select")) {
      const brush = document.createElement("canvas").getContext("2d");
      brush.font = style.font;
      const room = node.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 16; // the arrow
      const needed = brush.measureText(node.selectedOptions[0]?.text ?? "").width;
      const repeated = node.parentElement.querySelector(".figure-choice")?.checkVisibility();
      if (!repeated) report("a choice whose words are cut", needed - room, node);
    }
  }
  for (const plot of article.querySelectorAll(".figure-plot")) {
    const { left, right, top, bottom } = plot.getBoundingClientRect();
    for (const text of plot.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (!box.width || !text.textContent.trim() || getComputedStyle(text).opacity === "0") continue;
      report("a label that leaves its figure", Math.max(left - box.left, box.right - right, top - box.top, box.bottom - bottom), text);
    }
    for (const bar of plot.querySelectorAll(".legend .scrollbar")) report("a legend that must be scrolled", Number(bar.getAttribute("height")), bar.parentElement);
  }
  return found;
}
