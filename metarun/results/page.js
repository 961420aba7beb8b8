"use strict";

// Copy: where the browser forbids it, the text is selected, for the keyboard.
for (const button of document.querySelectorAll(".copy")) {
  const code = button.parentElement.querySelector("code"), name = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code);
      said = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
    }
    button.textContent = said;
    setTimeout(() => { button.textContent = name; }, 2000);
  });
}

// Sort: numbers where all cells of a column begin with one (or say that there is none), else words.
const NUMBER = /^[-+]?\d+(\.\d+)?(e[-+]?\d+)?(?= |$)/i;
const NONE = /^(not finite.*)?$/;

function sort(table, column, falling) {
  const body = table.tBodies[0], rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.cells[column].textContent.trim()]));
  const numbers = rows.every((row) => NUMBER.test(texts.get(row)) || NONE.test(texts.get(row)));
  const way = falling ? -1 : 1;
  rows.sort((one, other) => {
    const [a, b] = [texts.get(one), texts.get(other)];
    if (NONE.test(a) || NONE.test(b)) return NONE.test(a) - NONE.test(b); // last, either way
    return way * (numbers ? parseFloat(a) - parseFloat(b) : a.localeCompare(b, undefined, { numeric: true }));
  });
  body.append(...rows);
}

for (const table of document.querySelectorAll(".sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (head.textContent === "") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      sort(table, column, falling);
    });
  });
}

// Filter: a row stays where it has all the words.
for (const filter of document.querySelectorAll(".filter")) {
  const rows = [...document.querySelector(".sortable").tBodies[0].rows], input = filter.querySelector("input");
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    filter.querySelector("output").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  filter.hidden = false;
  input.addEventListener("input", show);
  show();
}
