"use strict";
// Tables: sort by a column, copy, save as CSV. The page can be read without this script.
const clean = cell => cell.textContent.replace(/\s+/g, " ").trim();
// A cell that begins with one of these would be a formula in a spreadsheet.
const guard = text => (/^[=+\-@\t]/.test(text) ? "'" + text : text);
const valueOf = cell => (cell.dataset.v !== undefined ? cell.dataset.v : guard(cell.dataset.t || clean(cell)));

function sort(table, place, button) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const down = heads[place].getAttribute("aria-sort") !== "descending";
  const key = row => (row.cells[place].dataset.v !== undefined ? Number(row.cells[place].dataset.v) : clean(row.cells[place]));
  const rows = [...body.rows].sort((a, b) => {
    const x = key(a), y = key(b), numbers = typeof x === "number" && typeof y === "number";
    const order = numbers ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
    return down ? -order : order;
  });
  heads.forEach(head => head.removeAttribute("aria-sort"));
  heads[place].setAttribute("aria-sort", down ? "descending" : "ascending");
  body.replaceChildren(...rows);
  button.focus();
}

function rowsOf(table) {
  return [...table.rows].map(row => [...row.cells].map(valueOf));
}

const csvOf = table =>
  rowsOf(table).map(row => row.map(text => (/[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text)).join(",")).join("\n") + "\n";

async function copy(text) {
  try { await navigator.clipboard.writeText(text); return; } catch { /* not allowed for a local file */ }
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

function button(text, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", () => action(made));
  return made;
}

for (const table of document.querySelectorAll("table.data")) {
  [...table.tHead.rows[0].cells].forEach((head, place) => {
    if (table.tBodies[0].rows.length < 2 || head.classList.contains("fixed")) return;
    const name = document.createElement("button");
    name.type = "button";
    name.className = "sort";
    name.append(...head.childNodes);
    name.addEventListener("click", () => sort(table, place, name));
    head.append(name);
  });
  const tools = document.createElement("p");
  tools.className = "tools";
  tools.append(
    button("Copy", async made => {
      await copy(rowsOf(table).map(row => row.join("\t")).join("\n"));
      made.textContent = "Copied";
      setTimeout(() => { made.textContent = "Copy"; }, 1500);
    }),
    button("Save CSV", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csvOf(table)], { type: "text/csv" }));
      link.download = (table.dataset.name || "table") + ".csv";
      link.click();
      URL.revokeObjectURL(link.href);
    }),
  );
  (table.closest(".wide") || table).after(tools);
}

// A table that is wider than its place scrolls, and the keyboard must reach it.
function reach(wide) {
  if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
  else wide.removeAttribute("tabindex");
}
const sized = "ResizeObserver" in window && new ResizeObserver(entries => entries.forEach(entry => reach(entry.target)));
for (const wide of document.querySelectorAll(".wide")) {
  reach(wide);
  if (sized) sized.observe(wide);
}

// A link of the contents opens what it leads to, and the section in view is marked.
const links = new Map([...document.querySelectorAll("nav a")].map(link => [link.hash.slice(1), link]));
function open() {
  const at = document.getElementById(location.hash.slice(1));
  const fold = at && at.querySelector(":scope > details");
  if (!fold || fold.open) return;
  fold.open = true;
  at.scrollIntoView();  // the page has grown, so what was its end may now reach the top
}
addEventListener("hashchange", open);
open();
if ("IntersectionObserver" in window) {
  const seen = new IntersectionObserver(entries => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach(link => link.removeAttribute("aria-current"));
      const link = links.get(entry.target.id);
      if (link) link.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  document.querySelectorAll("main section").forEach(section => seen.observe(section));
}
