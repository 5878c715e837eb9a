// What a search shows of a page has no LaTeX: a formula becomes a gap.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const text = Search.htmlToText;
  Search.htmlToText = (...page) => text(...page).replace(/\\\(.*?\\\)|\\\[[^]*?\\\]/g, "…");
});
