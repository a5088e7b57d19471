/* Lists of claims: show the rows that have the classes chosen above them and contain the words typed there. */
document.addEventListener("DOMContentLoaded", () => {
  for (const filter of document.querySelectorAll(".claims-filter")) {
    const rows = [...document.querySelectorAll(filter.dataset.rows)];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const selects = [...filter.querySelectorAll("select")];
    const input = filter.querySelector("input");
    function show() {
      const classes = selects.map((select) => select.value).filter(Boolean);
      const words = (input?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, i) => {
        row.hidden = !(classes.every((name) => row.classList.contains(name)) && words.every((word) => texts[i].includes(word)));
        shown += !row.hidden;
      });
      filter.querySelector("output").textContent = `${shown} of ${rows.length}`;
    }
    for (const control of [...selects, input]) control?.addEventListener("input", show);
    show();
  }
});
