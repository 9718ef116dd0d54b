"use strict";
// Sorting and filtering of the leaderboard. Rows are there without it, in the order of the score.
(() => {
  const sections = [...document.querySelectorAll("section.months")];
  const shown = document.getElementById("shown");
  const months = document.getElementById("months");
  const words = document.getElementById("words");

  const value = (row, column, numeric) => {
    const text = row.cells[column].textContent.trim();
    if (!numeric) return text.toLowerCase();
    return text === "" ? null : Number(text);
  };

  // What has no value stands last in either direction; equal rows keep their order.
  const sort = (table, column, descending) => {
    const numeric = table.tHead.rows[0].cells[column].classList.contains("number");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [value(row, column, numeric), row]);
    rows.sort(([a], [b]) => {
      const missing = (x) => x === null || x === "";
      if (missing(a) || missing(b)) return Number(missing(a)) - Number(missing(b));
      const order = numeric ? a - b : a < b ? -1 : a > b ? 1 : 0;
      return descending ? -order : order;
    });
    body.append(...rows.map(([, row]) => row));
  };

  for (const table of document.querySelectorAll("table.board")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const descending = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(table, column, descending);
        const name = head.textContent.trim();
        shown.textContent = `sorted by ${name}, ${descending ? "descending" : "ascending"}`;
      });
    });
  }

  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const section of sections) {
      let here = 0;
      for (const row of section.querySelectorAll("tbody tr")) {
        const text = row.textContent.toLowerCase();
        // Lines to compare with stay beside whatever is left.
        const line = row.classList.contains("reference") || row.classList.contains("limit");
        const match = line || wanted.every((word) => text.includes(word));
        row.hidden = !match;
        here += match && !line ? 1 : 0;
      }
      section.hidden = (months.value !== "" && months.value !== section.id) || (wanted.length > 0 && here === 0);
      count += section.hidden ? 0 : here;
    }
    // What is asked for shall be seen, wherever it is folded away.
    for (const fold of document.querySelectorAll("details.others")) {
      const some = fold.querySelector("section.months:not([hidden])") !== null;
      fold.hidden = !some;
      if (some && (months.value !== "" || wanted.length > 0)) fold.open = true;
    }
    shown.textContent = `${count} ${count === 1 ? "row" : "rows"} shown`;
  };

  if (months) {
    months.addEventListener("change", filter);
    words.addEventListener("input", filter);
    months.form.addEventListener("submit", (event) => event.preventDefault());
    // A browser that comes back to the page fills in what stood there.
    if (months.value !== "" || words.value !== "") filter();
  }
})();
