// Filters of the gallery; without JavaScript every event is shown.
const filters = document.querySelector(".filters");
if (filters) {
  filters.hidden = false;
  filters.addEventListener("click", (click) => {
    const button = click.target.closest("button");
    if (!button) return;
    for (const other of filters.querySelectorAll("button")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    for (const event of document.querySelectorAll(".event")) {
      event.hidden = button.dataset.outcome !== "" && event.dataset.outcome !== button.dataset.outcome;
    }
  });
}
