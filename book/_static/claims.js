/* Lists of claims: show the rows that have the classes chosen above them and contain the words typed there; open the row that a
   link names, and all of them for a printer. */
document.addEventListener("DOMContentLoaded", () => {
  for (const filter of document.querySelectorAll(".claims-filter")) {
    const rows = [...document.querySelectorAll(filter.dataset.rows)];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const selects = [...filter.querySelectorAll("select")];
    const input = filter.querySelector("input"), all = filter.querySelector("button");
    function show() {
      const classes = selects.map((select) => select.value).filter(Boolean);
      const words = (input.value).toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, i) => {
        row.hidden = !(classes.every((name) => row.classList.contains(name)) && words.every((word) => texts[i].includes(word)));
        shown += !row.hidden;
      });
      filter.querySelector("output").textContent = `${shown} of ${rows.length}`;
      all.hidden = shown === rows.length;
    }
    all.addEventListener("click", () => {
      for (const control of [...selects, input]) control.value = "";
      show();
      input.focus();
    });
    for (const control of [...selects, input]) control.addEventListener("input", show);
    show();
  }
  const rows = document.querySelectorAll("details.claim-row");
  function open() {
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("details.claim-row");
    if (!row) return;
    row.open = true;
    row.scrollIntoView();
  }
  open();
  addEventListener("hashchange", open);
  const closed = new Set();
  addEventListener("beforeprint", () => rows.forEach((row) => row.open || (closed.add(row), (row.open = true))));
  addEventListener("afterprint", () => { closed.forEach((row) => { row.open = false; }); closed.clear(); });
});
