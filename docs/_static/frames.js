// An explorer on a static page: a slider over pictures that were drawn when the site was built.
document.addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll(".kx-frames")) {
    const slider = box.querySelector("input");
    const label = box.querySelector("output");
    const picture = box.querySelector("img");
    const values = JSON.parse(box.dataset.values);
    const source = (i) => `${box.dataset.folder}/${String(i).padStart(2, "0")}.png`;
    const show = () => {
      picture.src = source(slider.value);
      label.textContent = `${box.dataset.control} = ${values[slider.value]}`;
    };
    slider.addEventListener("input", show);
    // Fetch the others once the reader reaches for the slider, so that it moves without a gap.
    slider.addEventListener("pointerenter", () => values.forEach((_, i) => (new Image().src = source(i))), { once: true });
    show();
  }
});
