"use strict";
/* Tables that are sorted by a click on a column's name; numbers by size, words by letters. */

const Tables = {
  start(main) {
    for (const table of main.querySelectorAll("table.sortable")) {
      table.querySelectorAll("thead button").forEach((button, column) => {
        button.addEventListener("click", () => this.sort(table, column));
      });
    }
  },

  value(row, column) {
    const text = row.cells[column].textContent;
    const number = Number(text.replaceAll(",", "").replaceAll("−", "-"));
    return text !== "" && Number.isFinite(number) ? number : text;
  },

  sort(table, column) {
    const heads = table.querySelectorAll("thead th");
    const falling = heads[column].getAttribute("aria-sort") !== "descending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", falling ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [this.value(row, column), row]);
    rows.sort(([a], [b]) => {
      const order = typeof a === "number" && typeof b === "number"
        ? a - b : String(a).localeCompare(String(b), "en");
      return falling ? -order : order;
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  },
};
