// Pictures were drawn before; here their marks become places to go to, and tables can be sorted.

function buildFigures() {
  for (const figure of document.querySelectorAll(".weft-figure")) {
    const marks = [...figure.querySelectorAll("[data-key]")];
    marks.forEach((mark, at) => {
      mark.setAttribute("tabindex", at ? "-1" : "0");
      mark.setAttribute("role", "button");
      mark.setAttribute("aria-label", mark.querySelector("title").textContent.replaceAll("\n", ", "));
    });
    figure.addEventListener("click", (event) => followMark(event.target.closest("[data-key]")));
    figure.addEventListener("keydown", (event) => stepMarks(event, marks));
  }
  for (const table of document.querySelectorAll("table.sortable")) sortable(table);
  document.querySelectorAll("[data-kernel]").forEach((link) => link.addEventListener("click", () => goToKernel(link.dataset.kernel)));
}

function stepMarks(event, marks) {
  const now = marks.indexOf(event.target);
  if (now < 0) return;
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (step) {
    event.preventDefault();
    const next = marks[(now + step + marks.length) % marks.length];
    marks[now].setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    followMark(event.target);
  }
}

function followMark(mark) {
  if (!mark) return;
  const key = mark.dataset.key;
  if (key.startsWith("line-")) goToLine(Number(key.slice(5)));
  else if (key.startsWith("kernel-")) goToKernel(key.slice(7));
}

function sortable(table) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => {
    const button = el("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const order = (a, b) => String(value(a)).localeCompare(String(value(b)), "en", { numeric: true }) * (down ? -1 : 1);
      const numbers = (a, b) => (Number(value(a)) - Number(value(b))) * (down ? -1 : 1);
      const rows = [...body.rows];
      rows.sort(rows.every((row) => value(row) !== "" && !Number.isNaN(Number(value(row)))) ? numbers : order);
      body.append(...rows);
    });
  });
}
