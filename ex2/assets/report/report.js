// Finds texts in the section "All texts"; without it the section can still be read, class by class.
"use strict";
const finder = document.getElementById("finder");
if (finder) {
  const classes = [...document.querySelectorAll("#texts details.class")];
  const found = finder.querySelector("output");
  const find = () => {
    const { words, category, system } = finder.elements;
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const asked = wanted.length > 0 || category.value !== "" || system.value !== "";
    let count = 0;
    for (const one of classes) {
      const name = one.dataset.name.toLowerCase();
      let shown = 0;
      for (const item of one.querySelectorAll("li")) {
        const text = `${name} ${item.textContent.toLowerCase()}`;
        const fits = wanted.every((word) => text.includes(word))
          && (category.value === "" || item.dataset.category === category.value)
          && (system.value === "" || item.dataset.system === system.value);
        item.hidden = !fits;
        shown += fits;
      }
      one.hidden = shown === 0;
      one.open = asked && shown > 0;
      count += shown;
    }
    found.textContent = asked ? `${count} texts` : "";
  };
  finder.hidden = false;
  finder.addEventListener("input", find);
  finder.addEventListener("submit", (event) => event.preventDefault());
  finder.addEventListener("reset", () => setTimeout(find));
}
