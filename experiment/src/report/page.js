"use strict";

// Tables: a click on a column's title sorts by it, a second one turns the order round. Empty cells stay last.
const key = (row, column) => {
  const cell = row.cells[column];
  if (cell.classList.contains("none")) return null;
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
};
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number"
    ? a - b
    : String(a).localeCompare(String(b), "en", { numeric: true });
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return up ? compare(a, b) : compare(b, a);
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}

// Before and after: the unpruned image lies over the other one and is cut off at the slider.
const element = (id) => document.getElementById(id);
const viewer = element("viewer");
const stage = element("stage");
const share = element("share");
const cut = () => stage.style.setProperty("--at", share.value + "%");
share.addEventListener("input", cut);
for (const button of document.querySelectorAll("button.compare")) {
  button.addEventListener("click", () => {
    const [before, after] = [element(button.dataset.before), element(button.dataset.after)];
    element("before").src = before.src;
    element("before").alt = before.alt;
    element("after").src = after.src;
    element("after").alt = after.alt;
    element("viewer-title").textContent = button.dataset.name;
    stage.style.setProperty("--ratio", after.naturalWidth / after.naturalHeight);
    share.value = 50;
    cut();
    viewer.showModal();
    share.focus();
  });
}
const drag = (event) => {
  if (event.buttons !== 1) return;
  const box = stage.getBoundingClientRect();
  share.value = Math.round((100 * (event.clientX - box.left)) / box.width);
  cut();
};
stage.addEventListener("pointerdown", (event) => {
  stage.setPointerCapture(event.pointerId);
  drag(event);
});
stage.addEventListener("pointermove", drag);

// A link to a folded part opens it.
const unfold = () => {
  const target = location.hash && element(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
};
addEventListener("hashchange", unfold);
unfold();
