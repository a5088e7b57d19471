/* The errata page: show the rows of one verdict. */
document.addEventListener("DOMContentLoaded", () => {
  const select = document.getElementById("claims-filter");
  if (!select) return;
  const rows = [...document.querySelectorAll(".claim-row")];
  function show() {
    let shown = 0;
    for (const row of rows) {
      row.hidden = select.value !== "" && !row.classList.contains(`claim-row-${select.value}`);
      shown += !row.hidden;
    }
    select.parentElement.querySelector("output").textContent = `${shown} of ${rows.length}`;
  }
  select.addEventListener("change", show);
  show();
});
