// Lines over steps, by uPlot, with the phases behind them; all charts share one cursor.
const charts = [];
const TICKS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6];
const percent = (v) => `${(100 * v).toFixed(Math.abs(v) < 0.1 && v !== 0 ? 1 : 0)} %`;
const number = (v) => String(Number(v.toPrecision(3)));
const small = (v) => (v && Math.abs(v) < 0.01 ? v.toExponential(1) : number(v));
const FORMATS = { fraction: percent, number, small };

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

// spec: as eval/dynamics/figures.py makes it.
function drawChart(spec) {
  const format = FORMATS[spec.format], tables = [], areas = [];
  const series = [{ label: "\u00a0", value: (u, step) => (step == null ? "" : `step ${step}`) }];
  const add = (steps, values, options) => {
    tables.push([steps, values]);
    const hidden = { class: "aside", spanGaps: true, points: { show: false }, width: 0 };
    return series.push({ ...hidden, ...options }) - 1;
  };
  for (const { name, colour, steps, values, drawn, low, high, area, dots, dash } of spec.lines) {
    const stroke = () => paint(colour), fill = () => paint(colour, area ? 1 : 0.16);
    if (low) areas.push({ series: [add(steps, high), add(steps, low)], fill });
    const raw = add(steps, values, { width: area ? 0 : 1, stroke: () => paint(colour, 0.3) });
    const value = (u, v, s, i) => (u.data[raw][i] == null ? "" : format(u.data[raw][i]));
    const points = { show: !!dots, size: 7, fill: stroke };
    const bold = { label: name, marker: colour, width: area ? 0 : 2, class: null };
    add(steps, drawn || values, { ...bold, dash, stroke, points, value });
  }
  const title = html("h3", {}, spec.title), key = html("div", { class: "key" });
  const figure = html("figure", { class: "card" }, title, key);
  by(spec.height ? "words" : "panels").append(figure);
  const size = () => ({ width: figure.clientWidth - 32, height: spec.height || 150 });
  const [first, last] = report.range;
  // a flat line gets room above and below
  const reach = (u, low, high) => {
    const room = (high - low) * 0.06 || Math.abs(low) || 0.05;
    return [spec.low ?? low - room, spec.high ?? high + room];
  };
  const font = "11px system-ui, sans-serif", ticks = { show: false };
  const axis = { stroke: () => paint("soft"), font, ticks };
  const grid = { stroke: () => paint("line"), width: 1 };
  const chart = new uPlot({
    ...size(),
    series,
    bands: areas,
    padding: [8, 10, 0, 0],
    scales: { x: { time: false, range: [first - 0.5, last + 0.5] }, y: { range: reach } },
    axes: [
      { ...axis, size: 24, gap: 2, space: 60, incrs: TICKS, grid: { show: false } },
      { ...axis, size: 52, gap: 4, space: 30, grid, values: (u, all) => all.map(format) },
    ],
    legend: {
      mount: (u, table) => key.append(table),
      markers: { width: 0, fill: (u, i) => `var(--${u.series[i].marker})` },
    },
    // no drag, so no click ends one
    cursor: { sync: { key: "steps" }, y: false, drag: { x: false, click: () => {} } },
    hooks: { drawClear: [drawPhases] },
  }, uPlot.join(tables), figure);
  chart.over.addEventListener("click", () => {
    const step = Math.round(chart.posToVal(chart.cursor.left, "x"));
    narrow({ from: step, to: step });
  });
  new ResizeObserver(() => chart.setSize(size())).observe(figure);
  charts.push(chart);
}

function drawPhases(u) {
  for (const { first, last, phase } of report.bands) {
    const [left, right] = [first - 0.5, last + 0.5].map((step) => u.valToPos(step, "x", true));
    u.ctx.fillStyle = paint(`p${phase}`, phase ? 0.09 : 0);
    u.ctx.fillRect(left, u.bbox.top, right - left, u.bbox.height);
  }
}
