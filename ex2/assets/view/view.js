// Fetches the state of the run every few seconds; keeps the chosen rollout, what is unfolded, and where the reader is.
"use strict";
const state = document.getElementById("state");
const news = document.getElementById("news");
let chosen = null;  // a rollout; null: the latest, whichever that is
let shown = "";
const show = async () => {
  try {
    const answer = await fetch(`/state${chosen === null ? "" : `?rollout=${chosen}`}`);
    if (!answer.ok) throw new Error(answer.statusText);
    const text = await answer.text();
    const marked = document.getSelection();  // text that is being copied stays
    if (text !== shown && (marked.isCollapsed || !state.contains(marked.anchorNode))) {
      const open = [...state.querySelectorAll("details")].map((one) => one.open);
      const focused = document.activeElement && document.activeElement.id;
      state.innerHTML = text;
      state.querySelectorAll("details").forEach((one, i) => { one.open = open[i] ?? false; });
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
      shown = text;
    }
    news.textContent = `Up to date at ${new Date().toLocaleTimeString()}; this page renews itself.`;
  } catch (error) {
    news.textContent = "ex2 view has ended, or does not answer; what is shown is the last that it said.";
  }
};
state.addEventListener("input", (event) => {
  if (event.target.id !== "rollout") return;
  chosen = event.target.value === event.target.dataset.latest ? null : Number(event.target.value);
  show();
});
setInterval(show, 5000);
