// On paper nothing can be unfolded: what is folded is printed open, but for the plumbing in code.
const folded = [];
addEventListener("beforeprint", () => {
  for (const box of document.querySelectorAll("details:not([open]):not(.hide)")) {
    box.open = true;
    folded.push(box);
  }
});
addEventListener("afterprint", () => {
  while (folded.length) folded.pop().open = false;
});
