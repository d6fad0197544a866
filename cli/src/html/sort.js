// A click on a heading sorts its table: numbers descending, names ascending; the next click reverses
// the order. Without scripts, rows stay in file order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const isNumber = head.classList.contains("number");
    const value = (row) => {
      const text = row.cells[column].textContent;
      return isNumber ? parseFloat(text.replaceAll(",", "")) || 0 : text;
    };
    button.addEventListener("click", () => {
      const last = head.getAttribute("aria-sort");
      const down = last ? last === "ascending" : isNumber;
      const rows = [...body.rows].map((row) => [value(row), row]);
      const order = (a, b) => (isNumber ? a - b : a.localeCompare(b, "en", { numeric: true }));
      rows.sort(([a], [b]) => (down ? order(b, a) : order(a, b)));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows.map(([, row]) => row));
    });
  });
}
