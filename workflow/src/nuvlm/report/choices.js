// Figures per condition: a menu shows one condition at a time. Print and pages without scripts show all.

for (const group of document.querySelectorAll("[data-choice]")) {
  const key = `show.${group.dataset.choice}`;
  const panels = [...group.children];
  if (panels.length < 2) continue;
  const select = element(
    "select",
    { onchange: () => choice.change({ [key]: select.value === panels[0].dataset.name ? "" : select.value }) },
    ...panels.map((panel) => element("option", { value: panel.dataset.name }, panel.dataset.title)),
  );
  group.before(element("label", { class: "choice" }, "Shown: ", select));
  choice.follow(() => {
    const wanted = choice.get(key);
    const shown = panels.find((panel) => panel.dataset.name === wanted) ?? panels[0];
    select.value = shown.dataset.name;
    for (const panel of panels) panel.classList.toggle("away", panel !== shown);
  });
}
