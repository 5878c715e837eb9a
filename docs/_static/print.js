// On paper nothing can be unfolded: what is folded is printed open, and closed again afterwards.
const folded = [];
addEventListener("beforeprint", () => {
  for (const box of document.querySelectorAll("details:not([open])")) {
    box.open = true;
    folded.push(box);
  }
});
addEventListener("afterprint", () => {
  while (folded.length) folded.pop().open = false;
});
