// Click on a heading sorts a table; a button copies it as tab-separated text.

for (const table of document.querySelectorAll("main table:not(.answers)")) {
  if (!table.tHead) continue;
  const headings = table.tHead.rows[table.tHead.rows.length - 1].cells;
  for (const heading of headings) {
    if (!heading.textContent.trim()) continue;
    const button = element("button", { type: "button", class: "sort", onclick: () => sortTable(table, heading) });
    button.append(...heading.childNodes);
    heading.append(button);
  }
  const copy = element("button", { type: "button", class: "copy", onclick: () => copyTable(table, copy) }, "Copy table");
  table.after(copy);
}

function sortTable(table, heading) {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  table.classList.add("sorted");
  const column = heading.cellIndex;
  // The rows of one tbody (a model and its published values) stay together.
  const grouped = table.tBodies.length > 1;
  const items = grouped ? [...table.tBodies] : [...table.tBodies[0].rows];
  const value = (item) => cellValue((grouped ? item.rows[0] : item).cells[column]);
  const keyed = items.map((item) => [value(item), item]);
  keyed.sort(([a], [b]) => compareValues(a, b, descending));
  (grouped ? table : table.tBodies[0]).append(...keyed.map(([, item]) => item));
}

/** The first number in a cell, or its text; null if the value is unknown. */
function cellValue(cell) {
  const text = (cell?.dataset.value ?? cell?.textContent ?? "").trim().replaceAll("−", "-").replaceAll(",", "");
  if (!text || text === "–") return null;
  const number = /^\D{0,4}?(-?\d+(\.\d+)?(e-?\d+)?)/.exec(text);
  return cell.tagName !== "TH" && number ? Number(number[1]) : text;
}

/** Numbers before text; unknown values last in both directions. */
function compareValues(a, b, descending) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  const order = typeof a === "number" ? a - b : a.localeCompare(b);
  return descending ? -order : order;
}

function tableText(table) {
  const words = (cell) => [cell.innerText.trim().replaceAll(/\s+/g, " "), ...Array(cell.colSpan - 1).fill("")];
  return [...table.rows].map((row) => [...row.cells].flatMap(words).join("\t")).join("\n");
}

async function copyTable(table, button) {
  try {
    await navigator.clipboard.writeText(tableText(table));
    button.textContent = "Copied";
  } catch {
    // Some browsers deny file:// pages the clipboard: select the table for copying by hand.
    getSelection().selectAllChildren(table);
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => (button.textContent = "Copy table"), 2500);
}
