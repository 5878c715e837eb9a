// "What is verified": show the claims of some kinds of evidence only.
document.addEventListener("DOMContentLoaded", () => {
  const box = document.querySelector(".kx-filter");
  if (!box) return;
  const rows = [...document.querySelectorAll(".kx-ledger tbody tr")];
  const kinds = [...new Set(rows.map((row) => row.cells[1].textContent.trim()))];
  const shown = new Set(kinds);
  for (const kind of kinds) {
    const label = document.createElement("label");
    const tick = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    tick.addEventListener("change", () => {
      tick.checked ? shown.add(kind) : shown.delete(kind);
      for (const row of rows) row.hidden = !shown.has(row.cells[1].textContent.trim());
    });
    label.append(tick, ` ${kind}`);
    box.append(label);
  }
});
