"use strict";
// The rollouts: filtered by their columns and texts, drawn only where they are seen.
const ROW = 46; // height of a row, as in style.css
const MARKS = { right: "✓ right", wrong: "✗ wrong", failed: "∅ format not followed" };
let runs = [], questions = [], hits = [], selected = -1; // a hit: [run, index]

async function readRollouts() {
  const found = await unpack("rollouts");
  runs = found.runs;
  questions = found.questions.map((id, i) => ({ id, prompt: found.prompts[i], gold: found.gold[i] }));
  runs.forEach((run, r) => {
    const { steps, phases, label } = report.runs[r], of = new Map(steps.map((step, i) => [step, phases[i]]));
    run.phase = run.step.map((step) => of.get(step) || 0);
    run.where = runs.length > 1 ? `${label} · ` : "";
  });
}

function readFilters() {
  const f = {};
  for (const field of by("filters").querySelectorAll("input, select")) f[field.id.slice(2)] = field.value.trim();
  return { ...f, text: f.text.toLowerCase(), from: Number(f.from || 0), to: Number(f.to || Infinity) };
}

function passes(c, i, f) {
  return c.step[i] >= f.from && c.step[i] <= f.to
    && (!f.split || c.train[i] === (f.split === "train"))
    && (!f.phase || (c.train[i] && String(c.phase[i]) === f.phase))
    && (!f.verdict || c.verdict[i] === f.verdict)
    && (!f.habit || (f.habit === "disagrees" ? c.agrees[i] === 0 : c[f.habit][i] === 1))
    && (!f.question || questions[c.question[i]].id === f.question)
    && (!f.text || c.response[i].toLowerCase().includes(f.text));
}

function applyFilters() {
  const f = readFilters(), total = runs.reduce((sum, run) => sum + run.step.length, 0);
  hits = runs.flatMap((run, r) => (f.run && String(r) !== f.run ? [] :
    run.step.map((_, i) => [r, i]).filter(([, i]) => passes(run, i, f))));
  selected = -1;
  by("count").textContent = `${hits.length.toLocaleString("en")} of ${total.toLocaleString("en")} rollouts`;
  drawTimeline(f);
  drawList(true);
  if (hits.length) select(0, false);
  else by("detail").replaceChildren(html("p", { class: "soft" }, "No rollout passes these filters."));
}

function clearFilters() {
  for (const field of by("filters").querySelectorAll("input, select")) field.value = "";
}

function drawList(reset) {
  const list = by("list");
  if (reset) {
    list.scrollTop = 0;
    list.replaceChildren(html("div", { style: `height:${hits.length * ROW}px` }));
  }
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const last = Math.min(hits.length, first + Math.ceil(list.clientHeight / ROW) + 8);
  const kept = new Set();
  for (const row of list.querySelectorAll(".row")) {
    const at = Number(row.dataset.at);
    if (at < first || at >= last) row.remove();
    else kept.add(at);
  }
  for (let at = first; at < last; at++) if (!kept.has(at)) list.append(drawRow(at));
}

function drawRow(at) {
  const [r, i] = hits[at], c = runs[r], verdict = c.verdict[i];
  const says = `step ${c.step[i]} · ${questions[c.question[i]].id} · ${c.response_tokens[i] ?? "?"} tokens · `;
  const text = c.response[i].slice(0, 160).replace(/\s+/g, " ");
  const row = html("button", { class: "row", style: `top:${at * ROW}px`, "data-at": at, tabindex: -1 },
    html("small", {}, html("span", { class: "dot", style: `--of:var(--p${c.phase[i]})` }),
      c.where + says, html("b", { class: verdict }, MARKS[verdict])),
    html("span", { class: "text" }, ...colour(text, "")));
  row.classList.toggle("on", at === selected);
  row.onclick = () => select(at, false);
  return row;
}

// The parts of a response, cut at its tags as eval/dynamics/features.py does: [[class, text], ...].
function splitParts(response) {
  const end = response.match(/(?:<\|[a-z_]+\|>|<\/s>|<eos>|<pad>)+\s*$/);
  const pieces = response.slice(0, end?.index).split(/(<\/?(?:think|answer)>)/), opened = new Set();
  let place = pieces.includes("<think>") ? "before" : "untagged";
  const parts = [[place, pieces[0]]];
  for (let i = 1; i < pieces.length; i += 2) {
    const name = pieces[i].replace(/[<>/]/g, "");
    if (pieces[i][1] !== "/" && !opened.has(name)) {
      opened.add(name);
      place = name;
    } else if (place !== "untagged" || opened.has("answer")) place = "after";
    parts.push(["tag", pieces[i]], [place, pieces[i + 1]]);
  }
  return [...parts, ["tag", end ? end[0] : ""]].filter(([, text]) => text);
}

// Spans of a response: its parts coloured, and what was searched for marked.
function colour(response, searched) {
  return splitParts(response).map(([kind, text]) => {
    const span = html("span", { class: kind });
    let from = 0;
    for (let at; searched && (at = text.toLowerCase().indexOf(searched, from)) >= 0;) {
      span.append(text.slice(from, at), html("mark", {}, text.slice(at, at + searched.length)));
      from = at + searched.length;
    }
    span.append(text.slice(from));
    return span;
  });
}

function select(at, scroll) {
  selected = at;
  const list = by("list"), [r, i] = hits[at], c = runs[r], question = questions[c.question[i]];
  if (scroll) {
    const lowest = (at + 1) * ROW - list.clientHeight;
    list.scrollTop = Math.max(lowest, Math.min(at * ROW, list.scrollTop));
    drawList(false);
  }
  for (const row of list.querySelectorAll(".row")) row.classList.toggle("on", Number(row.dataset.at) === at);
  const follow = html("button", { id: "follow" }, "Follow this question");
  follow.onclick = () => { clearFilters(); by("f-question").value = question.id; applyFilters(); };
  const phase = c.phase[i] ? `phase ${c.phase[i]}, ${report.names[c.phase[i]]}` : "no phase";
  by("detail").replaceChildren(
    html("h3", {}, `${c.where}step ${c.step[i]}${c.train[i] ? "" : " (evaluation)"}, ${phase}`),
    html("div", { class: "soft" }, `${question.id}${question.gold ? `, right is ${question.gold}` : ""} `, follow),
    html("div", { class: "chips" }, html("span", { class: c.verdict[i] }, MARKS[c.verdict[i]]),
      ...listChips(c, i).map((text) => html("span", {}, text))),
    html("pre", { class: "prompt" }, question.prompt || "(the question is not in the run folder)"),
    html("pre", {}, ...colour(c.response[i], readFilters().text)));
}

function listChips(c, i) {
  return [
    `reward ${c.reward[i].toFixed(2)}`,
    c.reason[i],
    c.response_tokens[i] == null ? "" : `${c.response_tokens[i]} tokens${c.truncated[i] ? ", cut" : ""}`,
    `${c.steps[i]} steps of reasoning`,
    `repetition ${percent(c.repetition[i])}`,
    c.overlap[i] == null ? "" : `mentions ${percent(c.overlap[i])} of the question's terms`,
    c.first_statement[i] == null ? "" : `states its choice after ${c.first_statement[i]} words`,
    c.leak[i] ? "answer before reasoning" : "",
    c.pre_think[i] ? "text before <think>" : "",
    ["reasoning names another choice", "reasoning agrees with the answer"][c.agrees[i]] ?? "",
  ].filter(Boolean);
}

// One question over training: a dot for each of its rollouts, by step and verdict.
function drawTimeline(f) {
  const place = by("timeline"), [first, last] = report.range;
  place.replaceChildren();
  if (!f.question) return;
  const lines = runs.map(() => html("div", { class: "line" }));
  hits.forEach(([r, i], at) => {
    const left = (100 * (runs[r].step[i] - first + 0.5)) / (last - first + 1);
    const title = `step ${runs[r].step[i]}: ${MARKS[runs[r].verdict[i]]}`;
    const dot = html("button", { class: runs[r].verdict[i], style: `left:${left}%`, title });
    dot.onclick = () => select(at, true);
    lines[r].append(dot);
  });
  const said = runs.map((run, r) => {
    const of = hits.filter(([other]) => other === r);
    return `${run.where}right ${of.filter(([, i]) => run.verdict[i] === "right").length} of ${of.length}`;
  });
  place.append(html("div", { class: "soft" }, `${f.question} over training: ${said.join("; ")}`), ...lines);
}
