"use strict";
// Sorts tables, finds records, follows links to them, and compares two. Uses no network and no library.
const data = JSON.parse(document.getElementById("data").textContent);

// ---- tables: a click on a heading sorts by it, a second click reverses the order
function sortKey(cell) {
  const value = cell.dataset.value;
  if (value === undefined) return cell.textContent.trim().toLowerCase();
  return value === "" ? NaN : Number(value);
}
function headings(table) {
  return table.tHead.rows[table.tHead.rows.length - 1].cells;
}
function sortTable(table, column, ascending) {
  const rows = [...table.tBodies[0].rows].map((row, index) => ({ row, index, key: sortKey(row.cells[column]) }));
  rows.sort((a, b) => {
    const missing = Number(Number.isNaN(a.key)) - Number(Number.isNaN(b.key));
    if (missing) return missing;
    const order = a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
    return (ascending ? order : -order) || a.index - b.index;
  });
  table.tBodies[0].append(...rows.map((entry) => entry.row));
  [...headings(table)].forEach((cell, i) => {
    if (i === column) cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  });
}
document.querySelectorAll("table.sortable").forEach((table) => {
  [...headings(table)].forEach((cell, column) => {
    cell.querySelector("button").addEventListener("click", () =>
      sortTable(table, column, cell.getAttribute("aria-sort") !== "ascending"));
  });
});

// ---- finding records: what belongs to none of those found is hidden
const filter = document.getElementById("filter");
function isFound(record) {
  return [...filter.querySelectorAll("[data-field]")].every((field) => {
    const wanted = field.value.trim(), own = record[field.dataset.field];
    if (field.dataset.field !== "words") return wanted === "" || wanted === own;
    return wanted.toLowerCase().split(/\s+/).every((word) => own.includes(word));
  });
}
function find() {
  const names = Object.keys(data.records);
  const found = new Set(names.filter((name) => isFound(data.records[name])));
  for (const element of document.querySelectorAll("[data-records]")) {
    const hidden = !element.dataset.records.split(" ").some((name) => found.has(name));
    element.hidden = hidden;
    if (element.tagName === "OPTION") element.disabled = hidden;
  }
  document.getElementById("filter-count").textContent = `${found.size} of ${names.length} records`;
  const viewed = document.getElementById("view-run");
  const next = viewed && [...viewed.options].find((option) => !option.hidden);
  if (next && viewed.selectedOptions[0].hidden) {
    next.selected = true;
    viewed.dispatchEvent(new Event("change"));
  }
}
if (filter) {
  filter.addEventListener("input", find);
  filter.addEventListener("reset", () => setTimeout(find));
  filter.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("keydown", (event) => {
    const words = filter.querySelector("[data-field=words]");
    if (event.key !== "/" || event.target.matches("input, select, textarea")) return;
    event.preventDefault();
    words.focus();
  });
  find();
}

// ---- a link to the details of a record opens them
function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.tagName === "DETAILS") target.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", openTarget);
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (link && link.hash === location.hash) openTarget(); // the address does not change
});
openTarget();

// ---- comparison of two records
const [first, second] = ["compare-a", "compare-b"].map((id) => document.getElementById(id));
function row(cells) {
  const line = document.createElement("tr");
  for (const text of cells) {
    const cell = document.createElement("td");
    cell.textContent = text;
    line.append(cell);
  }
  return line;
}
function compare() {
  const [a, b] = [data.runs[first.selectedIndex], data.runs[second.selectedIndex]];
  const differing = Object.keys({ ...a.settings, ...b.settings })
    .filter((name) => JSON.stringify(a.settings[name]) !== JSON.stringify(b.settings[name]))
    .map((name) => row([name, JSON.stringify(a.settings[name]) ?? "–", JSON.stringify(b.settings[name]) ?? "–"]));
  document.getElementById("compare-settings").replaceChildren(...differing);
  document.getElementById("compare-same").hidden = differing.length > 0;
  const number = (value) => (typeof value === "number" ? String(Number(value.toPrecision(5))) : "–");
  const results = Object.keys({ ...a.results, ...b.results }).map((name) => {
    const [left, right] = [a.results[name], b.results[name]];
    const change = typeof left === "number" && typeof right === "number" ? right - left : undefined;
    const line = row([name, number(left), number(right), change > 0 ? `+${number(change)}` : number(change)]);
    const better = data.better[name];
    if (change && better) line.lastChild.className = (change < 0) === (better === "lower") ? "better" : "worse";
    return line;
  });
  document.getElementById("compare-results").replaceChildren(...results);
}
if (first && second && data.runs.length > 1) {
  second.selectedIndex = 1;
  for (const chooser of [first, second]) chooser.addEventListener("change", compare);
  compare();
}
