"use strict";
// Lines over steps with the phases behind them; one step under the pointer is read off in every chart at once.
const NS = "http://www.w3.org/2000/svg", charts = [];

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(NS, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function html(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const FORMATS = {
  share: (v) => (100 * v).toFixed(Math.abs(v) < 0.1 && v !== 0 ? 1 : 0) + " %",
  number: (v) => String(Number(Math.abs(v) >= 100 ? v.toFixed(0) : Math.abs(v) >= 10 ? v.toFixed(1) : v.toFixed(2))),
  small: (v) => (v === 0 ? "0" : Math.abs(v) < 0.01 ? v.toExponential(1) : v.toFixed(3)),
};

// Round numbers that cover [low, high], about `most` of them.
function pickTicks(low, high, most = 4.5) {
  const span = high - low || 1, power = 10 ** Math.floor(Math.log10((span * 1.5) / most));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => span / s <= most);
  const ticks = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step) ticks.push(Math.abs(v) < step / 1e6 ? 0 : v);
  return ticks;
}

function smooth(values, radius) {
  return values.map((_, i) => {
    let sum = 0, count = 0;
    for (let j = Math.max(0, i - radius); j <= Math.min(values.length - 1, i + radius); j++)
      if (values[j] != null) { sum += values[j]; count++; }
    return count ? sum / count : null;
  });
}

function linePath(xs, ys) {
  let path = "", pen = false;
  xs.forEach((x, i) => {
    if (ys[i] == null) { pen = false; return; }
    path += `${pen ? "L" : "M"}${x.toFixed(1)},${ys[i].toFixed(1)}`;
    pen = true;
  });
  return path;
}

function areaPath(xs, low, high) {
  const kept = xs.map((_, i) => i).filter((i) => low[i] != null && high[i] != null);
  if (!kept.length) return "";
  const point = (ys) => (i) => `${xs[i].toFixed(1)},${ys[i].toFixed(1)}`;
  return `M${kept.map(point(high)).join("L")}L${kept.reverse().map(point(low)).join("L")}Z`;
}

// spec: {title, series: [{name, color, steps, values, low?, high?, dots?}], format, min?, max?, stacked?, height?}
// bands: [[first step, last step, phase], ...]; range: [first step, last step] of the axis.
function drawChart(spec, bands, range, onPick) {
  const width = spec.width || 380, height = spec.height || 150, left = 44, right = 8, top = 8, bottom = 22;
  const format = FORMATS[spec.format], x = (s) => left + ((s - range[0]) / Math.max(1, range[1] - range[0])) * (width - left - right);
  let stack = null;
  if (spec.stacked) {
    const base = spec.series[0].steps.map(() => 0);
    stack = spec.series.map((one) => one.values.map((v, i) => { const low = base[i]; base[i] += v || 0; return [low, base[i]]; }));
  }
  const all = spec.stacked ? stack.flat(2) : spec.series.flatMap((s) => [...s.values, ...(s.low || []), ...(s.high || [])]);
  const known = all.filter((v) => v != null && isFinite(v));
  let low = spec.min ?? Math.min(...minmax(known)), high = spec.max ?? Math.max(...minmax(known));
  if (!(high > low)) { // a flat line: room above it, and below where it may go there
    const room = Math.abs(low) || (spec.format === "share" ? 0.05 : 1);
    high = low + room;
    if (spec.min == null) low -= room;
  }
  else if (spec.max == null) high += (high - low) * 0.06;
  const y = (v) => top + (1 - (v - low) / (high - low)) * (height - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spec.title });
  for (const [first, last, phase] of bands)
    if (phase) root.append(svg("rect", { x: x(first - 0.5), y: top, width: Math.max(0.5, x(last + 0.5) - x(first - 0.5)),
      height: height - top - bottom, fill: `var(--p${phase})`, opacity: 0.09 }));
  for (const tick of pickTicks(low, high)) root.append(
    svg("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick), class: "grid-line" }),
    svg("text", { x: left - 6, y: y(tick) + 3.5, "text-anchor": "end" }, format(tick)));
  for (const tick of pickTicks(...range, width / 90)) if (Number.isInteger(tick)) root.append(
    svg("text", { x: x(tick), y: height - 6, "text-anchor": "middle" }, String(tick)));
  spec.series.forEach((one, index) => {
    const xs = one.steps.map(x);
    if (spec.stacked) {
      root.append(svg("path", { d: areaPath(xs, stack[index].map((v) => y(v[0])), stack[index].map((v) => y(v[1]))), fill: one.color, opacity: 0.85 }));
      return;
    }
    const place = (values) => values.map((v) => (v == null ? null : y(Math.max(low, Math.min(high, v)))));
    if (one.low && !one.dots) root.append(svg("path", { d: areaPath(xs, place(one.low), place(one.high)), fill: one.color, opacity: 0.16 }));
    if (one.dots) {
      xs.forEach((px, i) => root.append(
        svg("line", { x1: px, x2: px, y1: y(one.low[i]), y2: y(one.high[i]), stroke: one.color, "stroke-width": 1.6 }),
        svg("circle", { cx: px, cy: y(one.values[i]), r: 3.4, fill: one.color })));
      root.append(svg("path", { d: linePath(xs, place(one.values)), fill: "none", stroke: one.color, opacity: 0.5 }));
      return;
    }
    const radius = Math.round(Math.min(12, one.values.length / 50));
    if (radius) root.append(svg("path", { d: linePath(xs, place(one.values)), fill: "none", stroke: one.color, opacity: 0.28 }));
    root.append(svg("path", { d: linePath(xs, place(radius ? smooth(one.values, radius) : one.values)), fill: "none", stroke: one.color,
      "stroke-width": 2, "stroke-linejoin": "round", "stroke-dasharray": one.dash || "none" }));
  });
  const cross = svg("line", { y1: top, y2: height - bottom, class: "cross" });
  root.append(cross);
  const legend = html("div", { class: "legend" });
  const figure = html("figure", { class: "card", style: "margin:0" }, html("h3", {}, spec.title), legend, root);
  const show = (step) => {
    cross.setAttribute("x1", x(step ?? range[0]));
    cross.setAttribute("x2", x(step ?? range[0]));
    cross.style.opacity = step == null ? 0 : 0.45;
    legend.replaceChildren(...spec.series.map((one) => {
      const swatch = html("i", { style: `background:${one.color}` }), index = step == null ? -1 : one.steps.indexOf(step);
      const value = index >= 0 && one.values[index] != null ? html("b", {}, " " + format(one.values[index])) : "";
      return html("span", {}, swatch, one.name, value);
    }), ...(step == null ? [] : [html("span", {}, `step ${step}`)]));
  };
  const find = (event) => {
    const box = root.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * width;
    return Math.max(range[0], Math.min(range[1], Math.round(range[0] + ((at - left) / (width - left - right)) * (range[1] - range[0]))));
  };
  root.addEventListener("mousemove", (event) => charts.forEach((one) => one(find(event))));
  root.addEventListener("mouseleave", () => charts.forEach((one) => one(null)));
  root.addEventListener("click", (event) => onPick(find(event)));
  root.style.cursor = "pointer";
  charts.push(show);
  show(null);
  return figure;
}

function minmax(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
  return values.length ? [low, high] : [0, 1];
}

// One ribbon a run: the phases by colour, their names where there is room, pale where the bootstrap disagrees.
function drawRibbons(runs, range, names, onPick) {
  const width = 1180, left = 44, right = 8, high = 30, gap = runs.length > 1 ? 22 : 6;
  const x = (s) => left + ((s - range[0]) / Math.max(1, range[1] - range[0])) * (width - left - right);
  const root = svg("svg", { viewBox: `0 0 ${width} ${runs.length * (high + gap)}`, role: "img", "aria-label": "phases" });
  runs.forEach((run, line) => {
    const y = line * (high + gap) + (runs.length > 1 ? 16 : 0);
    if (runs.length > 1) root.append(svg("text", { x: left, y: y - 4, class: "ribbon-label" }, run.label));
    for (const [first, last, phase] of run.bands) {
      const from = x(first - 0.5), to = x(last + 0.5);
      const bar = svg("rect", { x: from, y, width: Math.max(0.5, to - from - 1), height: high, rx: 4, fill: `var(--p${phase})`, opacity: phase ? 1 : 0.45 });
      bar.append(svg("title", {}, `${phase ? `phase ${phase}, ` : ""}${names[phase]}: steps ${first} to ${last}`));
      bar.addEventListener("click", () => onPick(first, last, run));
      bar.style.cursor = "pointer";
      root.append(bar);
      const label = phase ? `${phase} ${names[phase]}` : "none";
      const shown = to - from > label.length * 6.6 + 10 ? label : to - from > 16 ? String(phase || "") : "";
      if (shown) root.append(svg("text", { x: (from + to) / 2, y: y + 19.5, "text-anchor": "middle", class: phase ? "name" : "", "pointer-events": "none" }, shown));
    }
    run.steps.forEach((step, i) => {
      if (run.confidence[i] < 0.95) root.append(svg("rect", { x: x(step - 0.5), y: y + high - 4, width: Math.max(0.5, x(step + 0.5) - x(step - 0.5)),
        height: 4, fill: "var(--card)", opacity: 1 - run.confidence[i] * 0.6, "pointer-events": "none" }));
    });
  });
  return root;
}
