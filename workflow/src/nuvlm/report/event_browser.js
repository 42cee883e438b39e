// Event browser: filters and order are kept in the URL; the list renders only visible rows; one event is drawn.

const ROW = 32; // height of a row of the list, px, as in page.css

function startBrowser(root, data) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const drawing = { frame: data.frame, scale: data.scale, colours: data.scale.colours.map(rgb) };
  const events = data.events.map((event, rank) => ({ ...event, rank, key: `${event.shard}/${event.id}` }));
  const modelIndex = new Map(data.models.map(({ name }, i) => [name, i]));
  const known = events.some(({ truth }) => truth !== null);
  const list = part("list");
  let shown = [];
  let current = null;
  let valueAt = () => "";
  let drawn = "";

  // ---- filters and order

  const select = (key, label, options) => {
    const made = element("select", { id: `filter-${key}`, "data-key": key, onchange: () => choice.change({ [key]: made.value }) });
    for (const [name, choices] of options) {
      const into = name ? made.appendChild(element("optgroup", { label: name })) : made;
      into.append(...choices.map(([value, text]) => element("option", { value }, text)));
    }
    return element("label", {}, element("span", {}, label), made);
  };
  const energy = (key, label) => {
    const attributes = { type: "number", min: 0, step: "any", inputmode: "decimal", "data-key": key, placeholder: label };
    const made = element("input", { ...attributes, "aria-label": `energy, ${label}, GeV`, onchange: () => choice.change({ [key]: made.value }) });
    return made;
  };
  const classes = data.classes.map(({ name, plain }) => [name, plain]);
  const pairs = data.models.flatMap((a, i) => data.models.slice(i + 1).map((b) => [`${a.name}~${b.name}`, `${a.title} – ${b.title}`]));
  const answers = [
    [null, [["", "any"]]],
    ...(known ? [[null, [["right", "right"], ["wrong", "wrong"]]]] : []),
    ["answers", classes],
    ...(known ? [["wrong answers", classes.map(([name, plain]) => [`wrong-${name}`, `${plain} (wrong)`])]] : []),
  ];
  const orders = [["worst", known ? "worst mistakes" : "least confident"], ["energy", "energy"], ["differ", "disagreement"]];
  const confidences = data.models.map(({ name, title }) => [`confidence.${name}`, `confidence, ${title}`]);
  part("filters").prepend(
    ...(known ? [select("truth", "Truth", [[null, [["", "any"], ...classes]]])] : []),
    ...data.models.map(({ name, title }) => select(`model.${name}`, title, answers)),
    ...(pairs.length ? [select("differ", "Disagree", [[null, [["", "any"], ["some", "any two"], ...pairs]]])] : []),
    ...(events.some((event) => event.energy !== null)
      ? [element("span", { class: "range" }, element("span", {}, "Eν (GeV)"), energy("from", "from"), energy("to", "to"))]
      : []),
    ...(events.some((event) => event.explanations.length) && events.some((event) => !event.explanations.length)
      ? [select("explained", "Rationale", [[null, [["", "any"], ["1", "with rationale"]]]])]
      : []),
    select("sort", "Order", [[null, orders.map(([value, text], i) => [i ? value : "", text])], ["by model", confidences]]),
    select("way", "Direction", [[null, [["", "highest first"], ["last", "lowest first"]]]]),
  );
  part("reset").addEventListener("click", () => {
    const controls = [...root.querySelectorAll("[data-key]")];
    choice.change(Object.fromEntries(controls.map((control) => [control.dataset.key, ""])));
  });

  const differs = (event, a, b) => event.answers[a] !== event.answers[b];
  const distance = (event, a, b) => event.p[a].reduce((sum, p, k) => sum + Math.abs(p - event.p[b][k]), 0) / 2;
  function chosenPairs(value) {
    const named = value.split("~").map((name) => modelIndex.get(name));
    if (named.length === 2 && named.every((index) => index !== undefined)) return [named];
    return data.models.flatMap((_, a) => data.models.slice(a + 1).map((_, b) => [a, a + 1 + b]));
  }

  function selectEvents() {
    const truth = data.classes.findIndex(({ name }) => name === choice.get("truth"));
    const [from, to] = ["from", "to"].map((key) => (choice.get(key) === "" ? null : Number(choice.get(key))));
    const wanted = data.models.map(({ name }) => choice.get(`model.${name}`));
    const answered = wanted.map((value) => data.classes.findIndex(({ name }) => name === value.replace("wrong-", "")));
    const differ = choice.get("differ");
    const compared = chosenPairs(differ);
    const agrees = (event, value, i) => {
      const right = event.answers[i] === event.truth;
      if (value === "right") return right;
      if (value === "wrong") return event.truth !== null && !right;
      if (answered[i] >= 0 && event.answers[i] !== answered[i]) return false;
      return !value.startsWith("wrong-") || (event.truth !== null && !right);
    };
    const found = events.filter(
      (event) =>
        (truth < 0 || event.truth === truth) &&
        (from === null || (event.energy !== null && event.energy >= from)) &&
        (to === null || (event.energy !== null && event.energy <= to)) &&
        (!differ || compared.some(([a, b]) => differs(event, a, b))) &&
        (!choice.get("explained") || event.explanations.length) &&
        wanted.every((value, i) => agrees(event, value, i)),
    );
    const sort = choice.get("sort");
    const model = modelIndex.get(sort.replace("confidence.", ""));
    const value =
      sort === "energy"
        ? (event) => event.energy ?? -1
        : sort === "differ"
          ? (event) => Math.max(...compared.map(([a, b]) => distance(event, a, b)))
          : sort.startsWith("confidence.") && model !== undefined
            ? (event) => Math.max(...event.p[model])
            : (event) => -event.rank;
    const order = choice.get("way") === "last" ? 1 : -1;
    const keyed = found.map((event) => [value(event), event]);
    keyed.sort(([a, x], [b, y]) => order * (a - b) || x.rank - y.rank);
    return keyed.map(([, event]) => event);
  }

  // ---- the list: only visible rows are elements

  const mark = (event, i) => {
    const { plain } = data.classes[event.answers[i]];
    const short = plain.split(" ")[0];
    if (event.truth === null) return element("span", {}, classLabel(`${short} `));
    return event.answers[i] === event.truth ? element("span", { class: "right" }, "✓") : element("span", { class: "wrong" }, classLabel(`${short} `));
  };
  const energyText = (event) => (event.energy === null ? "" : `${event.energy.toFixed(2)} GeV`);
  const name = (event) => (event.truth === null ? "unknown" : data.classes[event.truth].plain);

  function rowOf(event, at) {
    const answersText = data.models.map(({ title }, i) => `${title}: ${data.classes[event.answers[i]].plain}`).join(", ");
    const attributes = {
      id: `event-${at}`,
      role: "option",
      class: "row-of-list",
      "aria-selected": String(event === current),
      "aria-posinset": at + 1,
      "aria-setsize": shown.length,
      "aria-label": `true ${name(event)}, ${energyText(event)}; ${answersText}`,
      style: `top: ${at * ROW}px`,
      onclick: () => choose(event),
    };
    const truth = event.truth === null ? element("span", {}, `event ${event.id}`) : classLabel(name(event));
    truth.className = `truth-of ${event.truth === null ? "" : data.classes[event.truth].name}`;
    return element("div", attributes, truth, element("span", { class: "energy-of" }, energyText(event)), ...data.models.map((_, i) => mark(event, i)));
  }

  function fillList() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
    const rows = [];
    for (let at = first; at < last; at++) rows.push(rowOf(shown[at], at));
    const space = element("div", { role: "presentation", style: `height: ${shown.length * ROW}px` });
    list.replaceChildren(space, ...rows);
    const at = shown.indexOf(current);
    if (at >= first && at < last) list.setAttribute("aria-activedescendant", `event-${at}`);
    else list.removeAttribute("aria-activedescendant");
  }

  function scrollToCurrent() {
    const at = shown.indexOf(current) * ROW;
    if (at < list.scrollTop) list.scrollTop = at;
    else if (at + ROW > list.scrollTop + list.clientHeight) list.scrollTop = at + ROW - list.clientHeight;
  }

  let waiting = false;
  list.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      fillList();
    });
  });

  function choose(event, replace = false) {
    if (event) choice.change({ event: event.key }, replace);
  }

  function step(by, replace = false) {
    const at = Math.min(Math.max(shown.indexOf(current) + by, 0), shown.length - 1);
    choose(shown[at], replace);
  }

  list.addEventListener("keydown", (press) => {
    const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(press.key in steps) || press.altKey || press.ctrlKey || press.metaKey) return;
    press.preventDefault();
    step(steps[press.key], true); // the "back" button leaves the list instead of undoing one step
  });
  part("previous").addEventListener("click", () => step(-1));
  part("next").addEventListener("click", () => step(1));

  // ---- one event

  const saliencyModels = data.models.filter(({ name }) => events.some(({ saliency }) => name in saliency));
  const saliencySelect = part("saliency");
  saliencySelect.append(element("option", { value: "" }, "none"), ...saliencyModels.map(({ name, title }) => element("option", { value: name }, title)));
  saliencySelect.closest("label").hidden = !saliencyModels.length;
  saliencySelect.addEventListener("change", () => choice.change({ saliency: saliencySelect.value }));
  const opacity = part("opacity");
  opacity.addEventListener("input", () => {
    for (const image of part("display").querySelectorAll(".saliency")) image.setAttribute("opacity", opacity.value);
  });
  opacity.addEventListener("change", () => choice.change({ opacity: opacity.value === opacity.defaultValue ? "" : opacity.value }, true));
  const whole = part("whole");
  whole.addEventListener("change", () => choice.change({ whole: whole.checked ? "1" : "" }));

  function drawCurrent() {
    const place = part("display");
    const width = Math.round(Math.max(280, Math.min(place.clientWidth || 640, 700)));
    const saliency = saliencyModels.some(({ name }) => name === choice.get("saliency")) ? choice.get("saliency") : "";
    const wanted = [current.key, width, saliency, whole.checked, opacity.value].join("\n");
    if (wanted === drawn) return;
    drawn = wanted;
    const made = drawEvent(current, drawing, { width, whole: whole.checked, saliency: current.saliency[saliency], opacity: opacity.value });
    valueAt = made.valueAt;
    place.replaceChildren(made.drawing);
    part("under").textContent = saliency && !current.saliency[saliency] ? "No saliency map: this event was not explained." : data.scale.note;
  }

  part("display").addEventListener("pointermove", (move) => {
    const picture = part("display").firstElementChild;
    if (!picture) return;
    const box = picture.getBoundingClientRect();
    const scale = picture.viewBox.baseVal.width / box.width;
    part("under").textContent = valueAt((move.clientX - box.left) * scale, (move.clientY - box.top) * scale) || data.scale.note;
  });

  function describe(event) {
    const title = part("title");
    const truth = event.truth === null ? element("span", {}, "unknown") : element("span", {}, "true ", classLabel(name(event)));
    const outcome = element("span", { class: `badge ${event.outcome.replaceAll(" ", "-")}` }, event.outcome);
    title.replaceChildren(truth, element("small", {}, `event ${event.id}, shard ${event.shard}`), outcome);
    part("facts").replaceChildren(
      ...event.facts.map(([key, value]) => element("span", {}, key === "Eν" ? element("span", {}, "E", element("sub", {}, "ν")) : key, ` ${value}`)),
    );
    const row = ({ title }, i) => {
      const right = event.truth === null ? null : event.answers[i] === event.truth;
      const cells = event.p[i].map((p, k) =>
        element(
          "td",
          { class: k === event.answers[i] ? "predicted" : null },
          element("i", { class: `p ${data.classes[k].name}`, style: `width: ${(100 * p).toFixed(1)}%` }),
          element("span", {}, p.toFixed(2)),
        ),
      );
      return element("tr", {}, element("th", { scope: "row" }, title, " ", verdict(right)), ...cells);
    };
    const heading = element("tr", {}, element("td"), ...data.classes.map(({ plain }) => element("th", { scope: "col" }, classLabel(plain))));
    part("answers").replaceChildren(element("thead", {}, heading), element("tbody", {}, ...data.models.map(row)));
    part("explained").replaceChildren(...event.explanations.map(rationaleGroup));
  }

  const verdict = (right) =>
    right === null ? null : element("span", { class: right ? "right" : "wrong", role: "img", "aria-label": right ? "right" : "wrong" }, right ? "✓" : "✗");

  function rationaleGroup({ model, rationales }) {
    const [first, ...others] = rationales;
    const folded = others.map((rationale) => element("details", {}, element("summary", {}, `With ${rationale.picture}`), ...rationaleElements(rationale)));
    return element("div", { class: "rationale", role: "group", "aria-label": `Rationale of ${model}` }, element("h4", {}, `Rationale of ${model}`), ...rationaleElements(first), ...folded);
  }

  function rationaleElements({ text, claims }) {
    const quote = element("blockquote", {}, text);
    if (!claims.length) return [quote, element("p", { class: "note" }, "It contains no claim that can be read.")];
    const items = claims.map(([claimed, right, truth]) =>
      element("li", {}, verdict(right), claimed, truth === null ? null : element("span", { class: "true" }, ` (true: ${truth})`)),
    );
    return [quote, element("ul", { class: "claims", "aria-label": "What it states" }, ...items)];
  }

  // ---- update from the URL

  function show() {
    shown = selectEvents();
    for (const control of root.querySelectorAll("[data-key]")) control.value = choice.get(control.dataset.key);
    saliencySelect.value = saliencyModels.some(({ name }) => name === choice.get("saliency")) ? choice.get("saliency") : "";
    opacity.value = choice.get("opacity", opacity.defaultValue);
    opacity.closest("label").hidden = !saliencySelect.value;
    whole.checked = choice.get("whole") === "1";
    const before = current;
    current = shown.find(({ key }) => key === choice.get("event")) ?? shown[0] ?? null;
    part("count").textContent = `${shown.length} of ${events.length} events`;
    part("none").hidden = shown.length > 0;
    part("found").hidden = !shown.length;
    if (!current) return;
    const at = shown.indexOf(current);
    part("place").textContent = `${at + 1} of ${shown.length}`;
    part("previous").disabled = at === 0;
    part("next").disabled = at === shown.length - 1;
    scrollToCurrent();
    fillList();
    if (current !== before) describe(current);
    drawCurrent();
  }

  part("head").append(
    ...data.models.map(({ title }) => element("span", {}, element("span", {}, title))),
  );
  root.hidden = false;
  choice.follow(show);
  new ResizeObserver(() => current && (fillList(), drawCurrent())).observe(part("found"));
  if (choice.get("event")) document.getElementById("events").scrollIntoView();
  document.addEventListener("click", (click) => {
    if (click.target.closest("[data-deep]")) document.getElementById("events").scrollIntoView();
  });
}

const browser = document.getElementById("browser");
if (browser) startBrowser(browser, JSON.parse(document.getElementById("events-data").textContent));
