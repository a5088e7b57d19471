/* Fingers cannot hover: the first tap on a word that explains itself shows its meaning, a second one follows its link. */
document.addEventListener("click", (event) => {
  const hint = matchMedia("(hover: none)").matches ? event.target.closest("a.hint") : null;
  if (hint && !hint.classList.contains("shown")) event.preventDefault();
  for (const other of document.querySelectorAll("a.hint.shown")) if (other !== hint) other.classList.remove("shown");
  hint?.classList.add("shown");
});
