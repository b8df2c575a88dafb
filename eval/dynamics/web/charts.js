"use strict";
// Lines over steps, by uPlot, with the phases behind them; all charts share one cursor.
const charts = [];

function html(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// A canvas knows no CSS variables: read the colour that one has in the theme of this moment.
function paint(name, alpha = 1) {
  const probe = document.body.appendChild(html("i", { style: `color:var(--${name})` }));
  const [red, green, blue] = getComputedStyle(probe).color.match(/\d+/g);
  probe.remove();
  return `rgb(${red} ${green} ${blue} / ${alpha})`;
}

const percent = (v) => `${(100 * v).toFixed(Math.abs(v) < 0.1 && v !== 0 ? 1 : 0)} %`;
const number = (v) => String(Number(v.toPrecision(3)));
const FORMATS = { fraction: percent, number, small: (v) => (v && Math.abs(v) < 0.01 ? v.toExponential(1) : number(v)) };

function smooth(values) {
  const radius = Math.round(Math.min(12, values.length / 50));
  if (!radius) return values;
  return values.map((_, i) => {
    const near = values.slice(Math.max(0, i - radius), i + radius + 1).filter((v) => v != null);
    return near.length ? near.reduce((a, b) => a + b) / near.length : null;
  });
}

// spec: {title, format, low?, high?, stacked?, height?, lines}; a line: {name, color, steps, values,
// low?, high?, dots?, dash?}. bands: [[first step, last step, phase], ...] to draw behind.
function drawChart(place, spec, bands, range, pick) {
  const format = FORMATS[spec.format], tables = [], fills = [], whiskers = [];
  const series = [{ label: "\u00a0", value: (u, step) => (step == null ? "" : `step ${step}`) }];
  const add = (steps, values, options) => {
    tables.push([steps, values]);
    return series.push({ spanGaps: true, points: { show: false }, width: 0, ...options }) - 1;
  };
  const top = {}; // of a stack: the sum of the lines below, by step
  for (const line of spec.lines) {
    const stroke = () => paint(line.color), { steps, values } = line;
    const shown = { label: line.name, width: 2, stroke, marker: line.color, dash: line.dash };
    if (spec.stacked) {
      const sums = values.map((v, i) => (top[steps[i]] = (top[steps[i]] || 0) + (v || 0)));
      const value = (u, v, s, i) => (i == null ? "" : format(values[i] || 0));
      add(steps, sums, { ...shown, width: 0, fill: () => paint(line.color, 0.9), value });
      continue;
    }
    if (line.low) {
      const low = add(steps, line.low, { class: "aside" });
      const high = add(steps, line.high, { class: "aside" });
      if (line.dots) whiskers.push([low, high, line.color]);
      else fills.push({ series: [high, low], fill: () => paint(line.color, 0.16) });
    }
    const raw = add(steps, values, { class: "aside", width: 1, stroke: () => paint(line.color, 0.3) });
    const value = (u, v, s, i) => (i == null || u.data[raw][i] == null ? "" : format(u.data[raw][i]));
    add(steps, line.dots || line.dash ? values : smooth(values), { ...shown, value,
      points: { show: !!line.dots, size: 7, fill: stroke } });
  }
  if (spec.stacked) { // the tallest sum first, so that the lower ones are painted over it
    series.splice(1, series.length, ...series.slice(1).reverse());
    tables.reverse();
  }
  const axis = { stroke: () => paint("soft"), font: "11px system-ui, sans-serif", ticks: { show: false } };
  const figure = place.appendChild(html("figure", { class: "card" }, html("h3", {}, spec.title)));
  const legend = figure.appendChild(html("div", { class: spec.stacked ? "key stacked" : "key" }));
  const size = () => ({ width: figure.clientWidth - 32, height: spec.height || 150 });
  const chart = new uPlot({
    ...size(),
    series,
    bands: fills,
    padding: [8, 10, 0, 0],
    scales: { x: { time: false, range: [range[0] - 0.5, range[1] + 0.5] },
      y: { range: (u, low, high) => stretch(spec, low, high) } },
    axes: [
      { ...axis, size: 24, gap: 2, grid: { show: false }, space: 60, incrs: STEPS },
      { ...axis, size: 52, gap: 4, space: 30, values: (u, ticks) => ticks.map(format),
        grid: { stroke: () => paint("line"), width: 1 } },
    ],
    legend: { mount: (u, table) => legend.append(table),
      markers: { width: 0, fill: (u, i) => `var(--${u.series[i].marker})` } },
    cursor: { sync: { key: "steps" }, y: false, // no drag, so no click ends one
      drag: { x: false, click: () => {} } },
    hooks: {
      drawClear: [(u) => bands.forEach(([first, last, phase]) => {
        const left = u.valToPos(first - 0.5, "x", true), right = u.valToPos(last + 0.5, "x", true);
        u.ctx.fillStyle = paint(`p${phase}`, phase ? 0.09 : 0);
        u.ctx.fillRect(left, u.bbox.top, right - left, u.bbox.height);
      })],
      draw: [(u) => whiskers.forEach(([low, high, color]) => u.data[0].forEach((step, i) => {
        if (u.data[low][i] == null) return;
        const [x, from, to] = [u.valToPos(step, "x", true),
          u.valToPos(u.data[low][i], "y", true), u.valToPos(u.data[high][i], "y", true)];
        u.ctx.fillStyle = paint(color);
        u.ctx.fillRect(x - 1, to, 2, from - to);
      }))],
    },
  }, uPlot.join(tables), figure);
  chart.over.addEventListener("click", () => pick(Math.round(chart.posToVal(chart.cursor.left, "x"))));
  new ResizeObserver(() => chart.setSize(size())).observe(figure);
  charts.push(chart);
}

const STEPS = [1, 2, 5].flatMap((n) => [n, n * 10, n * 100, n * 1e3, n * 1e4, n * 1e5, n * 1e6])
  .sort((a, b) => a - b);

// The range of an axis: as given, else that of the values; a flat line gets room above and below.
function stretch(spec, low, high) {
  if (low == null) return [0, 1];
  const room = (high - low) * 0.06 || Math.abs(low) || 0.05;
  return [spec.low ?? (high > low ? low - room : low - room), spec.high ?? high + room];
}
