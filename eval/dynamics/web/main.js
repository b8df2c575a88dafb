"use strict";
// Reads the report, draws it, and listens. Everything is in this page: nothing is ever asked for.
let report = null;
const by = (id) => document.getElementById(id);

async function unpack(id) {
  const bytes = Uint8Array.from(atob(by(`data-${id}`).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

function listen() {
  for (const bar of document.querySelectorAll(".ribbon button")) bar.onclick = () => {
    narrow(bar.dataset);
    by("browser").scrollIntoView({ behavior: "smooth" });
  };
  let timer = 0;
  by("filters").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(applyFilters, 200);
  });
  by("filters").addEventListener("reset", () => setTimeout(applyFilters)); // once it is done
  const list = by("list");
  list.addEventListener("scroll", drawRows);
  list.addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) select(Number(row.dataset.at));
  });
  list.addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (!move) return;
    event.preventDefault();
    select(Math.max(0, Math.min(hits.length - 1, selected + move)));
  });
  const dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const repaint = () => charts.forEach((chart) => chart.redraw(false));
  dark.addEventListener("change", repaint);
  by("theme").onclick = () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    repaint();
  };
}

async function main() {
  report = await unpack("report");
  report.charts.forEach(drawChart);
  listen();
  await readRollouts();
  applyFilters();
  document.body.dataset.drawn = "all";
}

main();
