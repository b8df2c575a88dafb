// The page: reads what is packed in it, draws the charts, and lists the rollouts by filters.
const ROW = 46; // height of a row, as in style.css
const MARKS = { right: "✓ right", wrong: "✗ wrong", failed: "∅ format not followed" };
const by = (id) => document.getElementById(id);
// a hit: [run, index]
let report, runs = [], questions = [], hits = [], selected = 0, searched = "";

async function unpack(id) {
  const bytes = Uint8Array.from(atob(by(`data-${id}`).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

// Set these fields of the filters, by name, and apply all.
function narrow(fields) {
  const { elements } = by("filters");
  for (const name in fields) if (name in elements) elements[name].value = fields[name];
  applyFilters();
}

function applyFilters() {
  const f = {};
  for (const [name, value] of new FormData(by("filters"))) f[name] = value.trim();
  searched = f.text.toLowerCase();
  const passes = (c, i) => c.step[i] >= Number(f.from) && c.step[i] <= Number(f.to || Infinity)
    && (!f.split || c.train[i] === (f.split === "train"))
    && (!f.phase || (c.train[i] && String(c.phase[i]) === f.phase))
    && (!f.verdict || c.verdict[i] === f.verdict)
    && (!f.habit || (f.habit === "disagrees" ? c.agrees[i] === 0 : c[f.habit][i] === 1))
    && (!f.question || questions[c.question[i]].id === f.question)
    && (!searched || c.response[i].toLowerCase().includes(searched));
  hits = runs.flatMap((run, r) => (f.run && f.run !== String(r) ? []
    : [...run.step.keys()].filter((i) => passes(run, i)).map((i) => [r, i])));
  const [some, all] = [hits.length, runs.reduce((sum, run) => sum + run.step.length, 0)];
  by("count").textContent = `${some.toLocaleString("en")} of ${all.toLocaleString("en")} rollouts`;
  by("timeline").replaceChildren(...(f.question ? drawTimeline(f.question) : []));
  by("rows").style.height = `${hits.length * ROW}px`;
  by("list").scrollTop = 0;
  select(0);
}

function select(at) {
  selected = at;
  const list = by("list"), lowest = (at + 1) * ROW - list.clientHeight;
  list.scrollTop = Math.max(lowest, Math.min(at * ROW, list.scrollTop));
  drawRows();
  const shown = hits.length ? drawDetail(...hits[at]) : ["No rollout passes these filters."];
  by("detail").replaceChildren(...shown);
}

// Only the rows that are seen.
function drawRows() {
  const list = by("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const seen = hits.slice(first, first + Math.ceil(list.clientHeight / ROW) + 8);
  by("rows").replaceChildren(...seen.map(([r, i], place) => {
    const c = runs[r], at = first + place, state = at === selected ? "row on" : "row";
    const { id } = questions[c.question[i]], tokens = c.response_tokens[i] ?? "?";
    const row = html("div", { class: state, style: `top:${at * ROW}px`, "data-at": at },
      html("small", {}, html("span", { class: "dot", style: `--of:var(--p${c.phase[i]})` }),
        `${c.where}step ${c.step[i]} · ${id} · ${tokens} tokens · `, html("b", { class: c.verdict[i] }, MARKS[c.verdict[i]])),
      html("span", { class: "text" }, ...colour(c.pieces[i])));
    row.onclick = () => select(at);
    return row;
  }));
}

// Spans of a response: its parts coloured, and what was searched for marked.
function colour(pieces) {
  return pieces.map(([part, text]) => {
    const span = html("span", { class: part });
    let from = 0;
    for (let at; searched && (at = text.toLowerCase().indexOf(searched, from)) >= 0;) {
      span.append(text.slice(from, at), html("mark", {}, text.slice(at, at + searched.length)));
      from = at + searched.length;
    }
    span.append(text.slice(from));
    return span;
  });
}

function drawDetail(r, i) {
  const c = runs[r], { id, answer, prompt } = questions[c.question[i]];
  const follow = html("button", { id: "follow" }, "Follow this question");
  follow.onclick = () => {
    by("filters").reset();
    narrow({ question: id });
  };
  const phase = c.phase[i] ? `phase ${c.phase[i]}, ${report.names[c.phase[i]]}` : "no phase";
  const known = (key, text) => (c[key][i] == null ? "" : text(c[key][i]));
  const chips = [
    `reward ${c.reward[i].toFixed(2)}`,
    c.reason[i],
    known("response_tokens", (count) => `${count} tokens${c.truncated[i] ? ", cut" : ""}`),
    `${c.steps[i]} steps of reasoning`,
    `repetition ${percent(c.repetition[i])}`,
    known("overlap", (fraction) => `mentions ${percent(fraction)} of the question's terms`),
    known("first_statement", (words) => `states its choice after ${words} words`),
    c.leak[i] ? "answer before reasoning" : "",
    c.pre_think[i] ? "text before <think>" : "",
    ["reasoning names another choice", "reasoning agrees with the answer"][c.agrees[i]] ?? "",
  ];
  return [
    html("h3", {}, `${c.where}step ${c.step[i]}${c.train[i] ? "" : " (evaluation)"}, ${phase}`),
    html("div", { class: "soft" }, `${id}${answer ? `, right is ${answer}` : ""} `, follow),
    html("div", { class: "chips" }, html("span", { class: c.verdict[i] }, MARKS[c.verdict[i]]),
      ...chips.filter(Boolean).map((text) => html("span", {}, text))),
    html("pre", { class: "prompt" }, prompt || "(the question is not in the run folder)"),
    html("pre", {}, ...colour(c.pieces[i])),
  ];
}

// One question over training: a dot for each of its rollouts, by step and verdict.
function drawTimeline(id) {
  const [first, last] = report.range, lines = runs.map(() => html("div", { class: "line" }));
  hits.forEach(([r, i], at) => {
    const step = runs[r].step[i], verdict = runs[r].verdict[i];
    const style = `left:${(100 * (step - first + 0.5)) / (last - first + 1)}%`;
    const dot = html("button", { class: verdict, style, title: `step ${step}: ${MARKS[verdict]}` });
    dot.onclick = () => select(at);
    lines[r].append(dot);
  });
  const count = (line, wanted) => line.querySelectorAll(wanted).length;
  const said = lines.map((line, r) =>
    `${runs[r].where}right ${count(line, ".right")} of ${count(line, "button")}`).join("; ");
  return [html("div", { class: "soft" }, `${id} over training: ${said}`), ...lines];
}

function listen() {
  for (const bar of document.querySelectorAll(".ribbon button")) bar.onclick = () => {
    narrow(bar.dataset);
    by("browser").scrollIntoView({ behavior: "smooth" });
  };
  let timer = 0;
  by("filters").oninput = () => {
    clearTimeout(timer);
    timer = setTimeout(applyFilters, 200);
  };
  by("filters").onreset = () => setTimeout(applyFilters); // once it is done
  const list = by("list");
  list.onscroll = drawRows;
  list.onkeydown = (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (!move) return;
    event.preventDefault();
    select(Math.max(0, Math.min(hits.length - 1, selected + move)));
  };
  const dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement.style;
  const repaint = () => charts.forEach((chart) => chart.redraw(false));
  dark.onchange = repaint;
  by("theme").onclick = () => {
    const now = root.colorScheme || (dark.matches ? "dark" : "light");
    root.colorScheme = now === "dark" ? "light" : "dark";
    repaint();
  };
}

async function main() {
  report = await unpack("report");
  report.charts.forEach(drawChart);
  listen();
  ({ runs, questions } = await unpack("rollouts"));
  runs.forEach((run, r) => {
    run.response = run.pieces.map((pieces) => pieces.map(([, text]) => text).join(""));
    run.where = runs.length > 1 ? `${report.labels[r]} · ` : "";
  });
  applyFilters();
  document.body.dataset.drawn = "all";
}

main();
