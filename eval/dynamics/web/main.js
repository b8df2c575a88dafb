"use strict";
// Reads the report, draws it, and listens. Everything is in this page: nothing is ever asked for.
let report = null;

// Runs of a group become one line with a band from the least to the greatest of its seeds.
function collectSeries(key) {
  const groups = new Map();
  report.runs.forEach((run) => groups.set(run.group, [...(groups.get(run.group) || []), run]));
  return [...groups].map(([name, runs], index) => {
    const color = `var(--g${index % 6})`, steps = [...new Set(runs.flatMap((run) => run.steps))].sort((a, b) => a - b);
    const at = runs.map((run) => new Map(run.steps.map((step, i) => [step, run.series[key]?.[i]])));
    const columns = steps.map((step) => at.map((map) => map.get(step)).filter((v) => v != null));
    const mean = (v) => (v.length ? v.reduce((a, b) => a + b) / v.length : null);
    const one = { name, color, steps, values: columns.map(mean) };
    if (runs.length > 1) { one.low = columns.map((v) => (v.length ? Math.min(...v) : null)); one.high = columns.map((v) => (v.length ? Math.max(...v) : null)); }
    else if (runs[0].bands_of[key]) [one.low, one.high] = runs[0].bands_of[key];
    return one;
  }).filter((one) => one.values.some((v) => v != null));
}

function drawPanels() {
  const single = report.runs.length === 1, bands = report.runs[0].bands, place = by("panels");
  const pick = (step) => { by("f-from").value = by("f-to").value = step; applyFilters(); };
  for (const panel of report.panels) {
    const keys = panel.keys.filter(([key]) => report.runs.some((run) => run.series[key]));
    if (single && keys.length) {
      const series = keys.map(([key, name, color]) => ({ ...collectSeries(key)[0], name, color: `var(--${color})` })).filter((one) => one.values);
      place.append(drawChart({ ...panel, series }, bands, report.range, pick));
    } else for (const [key, name] of keys) {
      const title = keys.length > 1 ? name[0].toUpperCase() + name.slice(1) : panel.title;
      place.append(drawChart({ ...panel, title, series: collectSeries(key) }, [], report.range, pick));
    }
  }
  const names = [...new Set(report.runs.flatMap((run) => run.evals.map((one) => one.name)))];
  for (const name of names) {
    const series = report.runs.map((run, r) => {
      const rows = run.evals.filter((one) => one.name === name), take = (key) => rows.map((one) => one[key]);
      return { name: single ? `n = ${rows[0]?.n}, 95 % interval` : run.label, color: single ? "var(--answer)" : `var(--g${report.groups.indexOf(run.group) % 6})`,
        steps: take("step"), values: take("value"), low: take("low"), high: take("high"), dots: true };
    }).filter((one) => one.steps.length);
    place.prepend(drawChart({ title: `Accuracy of the checkpoints on ${name}`, format: "share", series }, single ? bands : [], report.range, pick));
  }
  for (const run of report.runs) {
    const parts = ["words_before", "words_think", "words_answer", "words_after", "words_untagged"], labels = ["before <think>", "inside <think>", "answer", "after", "no <think>"];
    const colors = ["before", "think", "answer", "after", "untagged"];
    const series = parts.map((key, i) => ({ name: labels[i], color: `var(--${colors[i]})`, steps: run.steps, values: run.series[key] }));
    const title = single ? "Where the words stand: mean words of a response, by part" : `Where the words stand: ${run.label}`;
    by("words").append(drawChart({ title, format: "number", stacked: true, min: 0, series, width: 1180, height: single ? 250 : 170 }, [], report.range, pick));
  }
}

function drawMonitors() {
  const rows = report.runs.flatMap((run) => run.spans.map((span) => {
    const where = span.first === span.last ? `step ${span.first}` : `steps ${span.first} to ${span.last}`;
    return html("tr", {}, ...(report.runs.length > 1 ? [html("td", {}, run.label)] : []), html("td", {}, html("b", {}, span.monitor)), html("td", {}, where),
      html("td", {}, span.says), html("td", {}, `${span.advice} (docs/dynamics.md#${span.monitor})`));
  }));
  const head = [...(report.runs.length > 1 ? ["run"] : []), "monitor", "tripped", "at its strongest", "what to do"];
  by("monitors").replaceChildren(rows.length ? html("table", {}, html("tr", {}, ...head.map((h) => html("th", {}, h))), ...rows) :
    html("p", { class: "soft" }, `None of the ${report.monitors} monitors tripped.`));
}

function fillFilters() {
  const option = (value, text) => html("option", { value }, text);
  by("f-run").append(option("", "all runs"), ...report.runs.map((run, r) => option(r, run.label)));
  if (report.runs.length === 1) by("f-run").style.display = "none";
  by("f-phase").append(option("", "any phase"), ...Object.entries(report.names).map(([n, name]) => option(n, n === "0" ? "no phase" : `${n} ${name}`)));
  let timer = 0;
  by("filters").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(applyFilters, 200); });
  by("clear").onclick = () => { clearFilters(); applyFilters(); };
  by("list").addEventListener("scroll", () => drawList(false));
  by("list").addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (move) { event.preventDefault(); select(Math.max(0, Math.min(hits.length - 1, selected + move)), true); }
  });
}

async function main() {
  report = await inflateJson("report");
  report.groups = [...new Set(report.runs.map((run) => run.group))];
  by("ribbons").append(drawRibbons(report.runs, report.range, report.names, (first, last, run) => {
    by("f-from").value = first;
    by("f-to").value = last;
    by("f-run").value = report.runs.length > 1 ? String(report.runs.indexOf(run)) : "";
    applyFilters();
    by("browser").scrollIntoView({ behavior: "smooth" });
  }));
  drawPanels();
  drawMonitors();
  fillFilters();
  by("theme").onclick = () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
      (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  };
  document.body.dataset.drawn = "charts";
  vocabulary = await inflateJson("vocabulary");
  await Promise.all(report.runs.map(readColumns));
  await applyFilters();
  document.body.dataset.drawn = "all";
}

main();
