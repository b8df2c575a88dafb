"use strict";
// Reads the report, draws it, and listens. Everything is in this page: nothing is ever asked for.
let report = null;
const by = (id) => document.getElementById(id);

async function unpack(id) {
  const bytes = Uint8Array.from(atob(by(`data-${id}`).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

// title, format, bounds of the axis, then [key, name, colour] of each line
const FRACTION = { format: "fraction", low: 0, high: 1 };
const PANELS = [
  ["Reward", { format: "number" }, ["rollout/reward_mean", "mean reward", "think"]],
  ["Accuracy and format", FRACTION, ["accuracy", "accuracy", "answer"],
    ["format_rate", "follows the format", "think"]],
  ["Response length: tokens", { format: "number", low: 0 }, ["response_length", "tokens", "think"]],
  ["Response length: characters", { format: "number", low: 0 },
    ["characters", "characters", "think"]],
  ["Exploits", FRACTION, ["leak", "answer before reasoning", "p4"],
    ["pre_think", "text before <think>", "before"]],
  ["Does the reasoning count?", FRACTION, ["agrees", "agrees with the answer", "answer"],
    ["overlap", "terms mentioned", "think"], ["leak_position", "first statement", "p4"]],
  ["Steps of reasoning", { format: "number", low: 0 }, ["steps", "sentences", "think"]],
  ["Repetition and truncation", { format: "fraction", low: 0 },
    ["repetition", "repeated four-word runs", "before"], ["truncated", "truncated", "untagged"]],
  ["KL to the base model", { format: "small" }, ["kl", "nats a token", "think"]],
  ["Rollouts against training (vllm_kl)", { format: "small" }, ["vllm_kl", "nats a token", "think"]],
  ["Entropy", { format: "small" }, ["entropy_loss", "nats a token", "think"]],
  ["Gradient norm", { format: "number", low: 0 }, ["actor_grad_norm", "actor", "think"]],
];
const PARTS = [["words_before", "before <think>", "before"], ["words_think", "inside <think>", "think"],
  ["words_answer", "answer", "answer"], ["words_after", "after", "after"],
  ["words_untagged", "no <think>", "untagged"]];

// Runs of a group become one line with a band from the least to the greatest of its seeds.
function collectLines(key) {
  return report.groups.flatMap((group, index) => {
    const runs = report.runs.filter((run) => run.group === group && run.series[key]);
    const [one] = runs, line = { name: group, color: `g${index % 6}` };
    if (!one) return [];
    if (runs.length === 1) {
      const [low, high] = one.bounds[key] || [];
      return { ...line, steps: one.steps, values: one.series[key], low, high };
    }
    const [steps, ...columns] = uPlot.join(runs.map((run) => [run.steps, run.series[key]]));
    const known = steps.map((_, i) => columns.map((column) => column[i]).filter((v) => v != null));
    const each = (take) => known.map((values) => (values.length ? take(values) : null));
    return { ...line, steps, values: each((v) => v.reduce((a, b) => a + b) / v.length),
      low: each((v) => Math.min(...v)), high: each((v) => Math.max(...v)) };
  });
}

// Signals that the hook logs and no panel names, each in a panel of its own. The others of the table
// are in PANELS, or elsewhere on the page: format as the run's format_rate, words by part.
function listSignals() {
  const known = ["format", "think_words", "pre_think_words", ...PANELS.flatMap((panel) =>
    panel.slice(2).map(([key]) => key))];
  return report.signals.filter(([name]) => !known.includes(name)).map(([name, unit, shows]) =>
    [name, /0 or 1|fraction/.test(unit) ? FRACTION : { format: "number" }, [name, shows, "think"]]);
}

function drawPanels() {
  const single = report.runs.length === 1, bands = single ? report.runs[0].bands : [];
  const pick = (step) => { by("f-from").value = by("f-to").value = step; applyFilters(); };
  const draw = (title, bounds, lines, of, place = by("panels")) => {
    const values = report.overlay?.series[of], { steps } = report.overlay || {};
    if (values) lines.push({ name: "the paper", color: "soft", dash: [4, 4], steps, values });
    if (lines.length) drawChart(place, { title, ...bounds, lines }, bands, report.range, pick);
  };
  for (const run of report.runs) {
    const lines = PARTS.map(([key, name, color]) => ({ name, color, steps: run.steps,
      values: run.series[key] }));
    const title = "Mean words of a response, by part" + (single ? "" : `: ${run.label}`);
    const bounds = { format: "number", low: 0, stacked: true, height: single ? 230 : 160 };
    draw(title, bounds, lines, null, by("words"));
  }
  for (const name of new Set(report.runs.flatMap((run) => run.evals.map((one) => one.name)))) {
    const lines = report.runs.map((run) => {
      const rows = run.evals.filter((one) => one.name === name);
      const take = (key) => rows.map((one) => one[key]);
      return { name: single ? `n = ${rows[0].n}, 95 % interval` : run.label, dots: true,
        color: single ? "answer" : `g${report.groups.indexOf(run.group) % 6}`,
        steps: take("step"), values: take("value"), low: take("low"), high: take("high") };
    }).filter((line) => line.steps.length);
    draw(`Accuracy of the checkpoints on ${name}`, { format: "fraction" }, lines, "accuracy");
  }
  for (const [title, bounds, ...keys] of [...PANELS, ...listSignals()]) {
    const lines = keys.map(([key, name, color]) => [key, name, color, collectLines(key)]);
    if (single) draw(title, bounds, lines.flatMap(([, name, color, found]) =>
      found.map((line) => ({ ...line, name, color }))), keys[0][0]);
    else for (const [key, name, , found] of lines)
      draw(keys.length > 1 ? name[0].toUpperCase() + name.slice(1) : title, bounds, found, key);
  }
}

function listen() {
  for (const bar of document.querySelectorAll(".ribbon button")) bar.onclick = () => {
    for (const field of ["run", "from", "to"]) by(`f-${field}`).value = bar.dataset[field];
    applyFilters();
    by("browser").scrollIntoView({ behavior: "smooth" });
  };
  let timer = 0;
  by("filters").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(applyFilters, 200);
  });
  by("clear").onclick = () => { clearFilters(); applyFilters(); };
  by("list").addEventListener("scroll", () => drawList(false));
  by("list").addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (!move) return;
    event.preventDefault();
    select(Math.max(0, Math.min(hits.length - 1, selected + move)), true);
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
  report.groups = [...new Set(report.runs.map((run) => run.group))];
  drawPanels();
  listen();
  document.body.dataset.drawn = "charts";
  await readRollouts();
  applyFilters();
  document.body.dataset.drawn = "all";
}

main();
