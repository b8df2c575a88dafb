"use strict";
// The rollouts: filtered by their columns at once, searched by text chunk by chunk, drawn only where they are seen.
const FLAG = { correct: 1, format: 2, truncated: 4, train: 8, pre_think: 16, leak: 32, agrees: 64, named: 128 };
const TYPES = { u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, f32: Float32Array };
const ROW = 46, by = (id) => document.getElementById(id);
let hits = [], selected = -1, searching = 0;

async function readColumns(run, number) {
  const raw = await inflate(`columns${number}`);
  let place = 0;
  run.columns = {};
  for (const [name, type] of run.column_types) {
    const length = run.count * TYPES[type].BYTES_PER_ELEMENT;
    run.columns[name] = new TYPES[type](raw.slice(place, place + length).buffer);
    place += length;
  }
  const steps = run.columns.step, starts = new Uint32Array(minmax(steps)[1] + 2);
  for (const step of steps) starts[step + 1]++;
  for (let i = 1; i < starts.length; i++) starts[i] += starts[i - 1];
  run.order = new Uint32Array(run.count); // by step
  steps.forEach((step, i) => (run.order[starts[step]++] = i));
  run.phaseOf = new Map(run.steps.map((step, i) => [step, run.phases[i]]));
}

function readFilters() {
  const value = (id) => by(id).value, number = (id, other) => (value(id) === "" ? other : Number(value(id)));
  return { run: value("f-run"), from: number("f-from", 0), to: number("f-to", Infinity), phase: value("f-phase"), split: value("f-split"),
    verdict: value("f-verdict"), habit: value("f-habit"), question: value("f-question"), text: value("f-text").trim().toLowerCase() };
}

function passes(run, i, f) {
  const c = run.columns, flags = c.flags[i], step = c.step[i];
  if (step < f.from || step > f.to) return false;
  if (f.split && !!(flags & FLAG.train) !== (f.split === "train")) return false;
  if (f.phase !== "" && (!(flags & FLAG.train) || String(run.phaseOf.get(step)) !== f.phase)) return false;
  if (f.verdict === "right" && !(flags & FLAG.correct)) return false;
  if (f.verdict === "wrong" && (flags & FLAG.correct || !(flags & FLAG.format))) return false;
  if (f.verdict === "failed" && flags & FLAG.format) return false;
  if (f.habit === "disagrees") { if (!(flags & FLAG.named) || flags & FLAG.agrees) return false; }
  else if (f.habit && !(flags & FLAG[f.habit])) return false;
  return !f.question || report.questions[c.question[i]] === f.question;
}

async function applyFilters() {
  if (!report.runs.every((run) => run.order)) return; // main() comes back once they are unpacked
  const f = readFilters(), token = ++searching;
  hits = [];
  selected = -1;
  report.runs.forEach((run, r) => {
    if (f.run !== "" && String(r) !== f.run) return;
    for (const i of run.order) if (passes(run, i, f)) hits.push([r, i]);
  });
  drawTimeline(f);
  if (f.text) await searchTexts(f.text, token);
  if (token !== searching) return;
  showCount();
  drawList(true);
  if (hits.length) select(0, false); else by("detail").replaceChildren(html("p", { class: "soft" }, "No rollout passes these filters."));
}

// Chunk by chunk, so that the page stays alive; a later search ends an earlier one.
async function searchTexts(text, token) {
  const wanted = new Map();
  hits.forEach(([r, i]) => {
    const id = `r${r}c${Math.floor(i / report.chunk)}`;
    if (!wanted.has(id)) wanted.set(id, []);
    wanted.get(id).push([r, i]);
  });
  const found = new Set();
  let done = 0, without = 0;
  for (const [id, rows] of wanted) {
    const raw = cache.has(id) ? null : await inflate(id), texts = raw ? decodeTexts(raw) : await readChunk(id);
    if (token !== searching) return;
    if (!texts) without += rows.length;
    for (const [r, i] of texts ? rows : []) if (texts[i % report.chunk].toLowerCase().includes(text)) found.add(r * 2 ** 32 + i);
    if (++done % 8 === 0) {
      by("count").textContent = `searching, ${Math.round((100 * done) / wanted.size)} % · ${found.size.toLocaleString("en")} found`;
      await new Promise((resolve) => setTimeout(resolve));
      if (token !== searching) return;
    }
  }
  hits = hits.filter(([r, i]) => found.has(r * 2 ** 32 + i));
  by("f-text").dataset.without = without;
}

function showCount() {
  const total = report.runs.reduce((sum, run) => sum + run.count, 0), without = Number(by("f-text").dataset.without || 0);
  by("count").textContent = `${hits.length.toLocaleString("en")} of ${total.toLocaleString("en")} rollouts` +
    (readFilters().text && without ? ` (${without.toLocaleString("en")} texts are not on this page)` : "");
}

function drawList(reset) {
  const list = by("list");
  if (reset) { list.scrollTop = 0; list.replaceChildren(html("div", { style: `height:${hits.length * ROW}px` })); }
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4), last = Math.min(hits.length, first + Math.ceil(list.clientHeight / ROW) + 8);
  const kept = new Map([...list.querySelectorAll(".row")].map((row) => [Number(row.dataset.at), row]));
  for (const [at, row] of kept) if (at < first || at >= last) row.remove();
  for (let at = first; at < last; at++) if (!kept.has(at)) list.append(drawRow(at));
}

function nameVerdict(flags) { return flags & FLAG.correct ? "right" : flags & FLAG.format ? "wrong" : "failed"; }

function drawRow(at) {
  const [r, i] = hits[at], run = report.runs[r], c = run.columns, verdict = nameVerdict(c.flags[i]), phase = run.phaseOf.get(c.step[i]) || 0;
  const row = html("button", { class: "row" + (at === selected ? " on" : ""), style: `top:${at * ROW}px`, "data-at": at, tabindex: -1 });
  const where = report.runs.length > 1 ? `${run.label} · ` : "";
  row.append(html("small", {}, html("span", { class: "dot", style: `background:var(--p${phase})` }),
    `${where}step ${c.step[i]} · ${report.questions[c.question[i]]} · ${c.tokens[i]} tokens · `, html("b", { class: verdict }, MARKS[verdict])));
  const text = html("span", { class: "text" });
  row.append(text);
  row.onclick = () => select(at, false);
  readText(r, i).then((response) => text.append(...colour(response == null ? "(text not on this page)" : response.slice(0, 160).replace(/\s+/g, " "), "")));
  return row;
}

const MARKS = { right: "✓ right", wrong: "✗ wrong", failed: "∅ format not followed" };

async function readText(r, i) {
  const texts = await readChunk(`r${r}c${Math.floor(i / report.chunk)}`);
  return texts && texts[i % report.chunk];
}

// Spans of a response, its parts coloured and what was searched for marked.
function colour(response, searched) {
  return splitParts(response).map(([kind, text]) => {
    const span = html("span", { class: kind });
    let from = 0;
    for (let at; searched && (at = text.toLowerCase().indexOf(searched, from)) >= 0; from = at + searched.length)
      span.append(text.slice(from, at), html("mark", {}, text.slice(at, at + searched.length)));
    span.append(text.slice(from));
    return span;
  });
}

async function select(at, scroll) {
  if (at < 0 || at >= hits.length) return;
  selected = at;
  const list = by("list");
  if (scroll) {
    if (at * ROW < list.scrollTop) list.scrollTop = at * ROW;
    else if ((at + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (at + 1) * ROW - list.clientHeight;
    drawList(false);
  }
  for (const row of list.querySelectorAll(".row")) row.classList.toggle("on", Number(row.dataset.at) === at);
  const [r, i] = hits[at], run = report.runs[r], c = run.columns, flags = c.flags[i], verdict = nameVerdict(flags), id = c.question[i];
  const [response, prompt] = await Promise.all([readText(r, i), readChunk(`q${Math.floor(id / report.chunk)}`)]);
  if (selected !== at) return;
  const phase = run.phaseOf.get(c.step[i]) || 0, chip = (text) => html("span", {}, text), chips = html("div", { class: "chips" });
  chips.append(html("span", { class: verdict }, MARKS[verdict]), chip(`reward ${c.reward[i].toFixed(2)}`), chip(report.reasons[c.reason[i]] || "–"),
    chip(`${c.tokens[i]} tokens${flags & FLAG.truncated ? ", cut" : ""}`), chip(`${c.steps[i]} steps of reasoning`), chip(`repetition ${c.repetition[i]} %`));
  if (c.overlap[i] <= 100) chips.append(chip(`mentions ${c.overlap[i]} % of the question's terms`));
  if (c.stated[i] < 65535) chips.append(chip(`states its choice after ${c.stated[i]} words`));
  if (flags & FLAG.leak) chips.append(chip("answer before reasoning"));
  if (flags & FLAG.pre_think) chips.append(chip("text before <think>"));
  if (flags & FLAG.named) chips.append(chip(flags & FLAG.agrees ? "reasoning agrees with the answer" : "reasoning names another choice"));
  const follow = html("button", { id: "follow" }, "Follow this question");
  follow.onclick = () => { clearFilters(); by("f-question").value = report.questions[id]; applyFilters(); };
  const shown = prompt && prompt[id % report.chunk], body = html("pre", {});
  body.append(...(response == null ? [report.left_out] : colour(response, readFilters().text)));
  by("detail").replaceChildren(
    html("h3", {}, `${report.runs.length > 1 ? run.label + ", " : ""}step ${c.step[i]}${flags & FLAG.train ? "" : " (evaluation)"}, ${phase ? `phase ${phase}, ${report.names[phase]}` : "no phase"}`),
    html("div", { class: "soft" }, report.questions[id], report.gold[id] ? `, right is ${report.gold[id]} ` : " ", follow), chips,
    html("pre", { class: "prompt" }, shown || "(the question is not in the run folder)"), body);
}

// One question over training: a dot for each of its rollouts, by step and verdict.
function drawTimeline(f) {
  const place = by("timeline");
  place.replaceChildren();
  if (!f.question) return;
  const width = 1180, x = (s) => 44 + ((s - report.range[0]) / Math.max(1, report.range[1] - report.range[0])) * (width - 52);
  const root = svg("svg", { viewBox: `0 0 ${width} ${report.runs.length * 26 + 4}` }), rights = report.runs.map(() => [0, 0]);
  hits.forEach(([r, i], at) => {
    const c = report.runs[r].columns, verdict = nameVerdict(c.flags[i]), fill = { right: "var(--answer)", wrong: "var(--untagged)", failed: "var(--faint)" }[verdict];
    const dot = svg("circle", { cx: x(c.step[i]), cy: r * 26 + 15, r: 6, fill, opacity: 0.85, style: "cursor:pointer" });
    dot.append(svg("title", {}, `step ${c.step[i]}: ${MARKS[verdict]}`));
    dot.addEventListener("click", () => select(at, true));
    rights[r][0] += verdict === "right";
    rights[r][1]++;
    root.append(dot);
  });
  const said = rights.map(([right, n], r) => `${report.runs.length > 1 ? report.runs[r].label + ": " : ""}right ${right} of ${n}`).join("; ");
  place.append(html("div", { class: "soft" }, `${f.question} over training: ${said}`), root);
}

function clearFilters() { for (const field of by("filters").querySelectorAll("input, select")) field.value = ""; }
