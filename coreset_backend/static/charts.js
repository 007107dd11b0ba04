// The learning curve and the covering radius by round, drawn by uPlot; the table of rounds has the same figures.

const $ = (id) => document.getElementById(id);
const shade = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
let drawn = [];

function axis(label, values) {
  return { label, labelSize: 24, labelFont: "12px system-ui", font: "12px system-ui", stroke: shade("soft"), grid: { stroke: shade("line"), width: 1 }, ticks: { stroke: shade("line"), width: 1 }, ...(values && { values }) };
}

// Vertical bars from low to high at each x, over the finished plot.
function bars(spans, colour, cap) {
  return (plot) => {
    const { ctx } = plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = colour;
    ctx.lineWidth = 2 * ratio;
    for (const [x, low, high] of spans) {
      const at = Math.round(plot.valToPos(x, "x", true));
      const [bottom, top] = [low, high].map((value) => Math.round(plot.valToPos(value, "y", true)));
      ctx.beginPath();
      ctx.moveTo(at, bottom);
      ctx.lineTo(at, top);
      for (const end of cap ? [bottom, top] : []) { ctx.moveTo(at - 4 * ratio, end); ctx.lineTo(at + 4 * ratio, end); }
      ctx.stroke();
    }
    ctx.restore();
  };
}

function plot(box, options, data) {
  const size = () => ({ width: box.clientWidth, height: 260 });
  const made = new uPlot({ ...size(), legend: { show: false }, cursor: { drag: { setScale: false } }, ...options }, data, box);
  const watch = new ResizeObserver(() => made.setSize(size()));
  watch.observe(box);
  box.dataset.ready = data[0].length;
  return () => { watch.disconnect(); made.destroy(); };
}

// Measured points and the forecast on one axis of labels; what a point lacks is null.
function learningData(rounds, curve) {
  const measured = new Map(rounds.map((round) => [round.labels, round.accuracy]));
  const forecast = new Map(curve.map((point) => [point.labels, point]));
  const labels = [...new Set([...measured.keys(), ...forecast.keys()])].sort((a, b) => a - b);
  const column = (from, name) => labels.map((each) => from.get(each)?.[name] ?? null);
  return [labels, column(forecast, "high"), column(forecast, "low"), column(forecast, "value"), column(measured, "value")];
}

function drawLearning({ history, advice }) {
  const rounds = history.filter((round) => round.accuracy);
  if (!$("learning-plot") || !rounds.length) return;
  const accent = shade("accent");
  const line = { spanGaps: true, points: { show: false } };
  const percent = (_, values) => values.map((value) => `${Math.round(100 * value)} %`);
  const options = {
    scales: { x: { time: false }, y: { range: (_, low, high) => [Math.max(0, low - 0.05), Math.min(1, Math.max(high, ...rounds.map((round) => round.accuracy.high)) + 0.02)] } },
    axes: [axis("Labelled images"), axis("Accuracy on the hold-out", percent)],
    series: [{}, { ...line, stroke: "transparent" }, { ...line, stroke: "transparent" }, { ...line, stroke: accent, width: 2, dash: [6, 4] },
      { stroke: accent, width: 2, spanGaps: true, points: { show: true, size: 9, fill: accent } }],
    bands: [{ series: [1, 2], fill: `${accent}2e` }],
    hooks: { draw: [bars(rounds.map((round) => [round.labels, round.accuracy.low, round.accuracy.high]), accent, true)] },
  };
  drawn.push(plot($("learning-plot"), options, learningData(rounds, advice?.curve || [])));
}

function drawRadius({ history }) {
  const rounds = history.filter((round) => round.radius_after != null);
  if (!$("radius-plot") || !rounds.length) return;
  const point = (colour) => ({ stroke: colour, width: 0, points: { show: true, size: 9, fill: colour } });
  const whole = (_, values) => values.map((value) => Number.isInteger(value) ? value : "");
  const numbers = rounds.map((round) => round.number);
  const spans = rounds.filter((round) => round.radius_before != null).map((round) => [round.number, round.radius_after, round.radius_before]);
  const options = {
    scales: { x: { time: false, range: [Math.min(...numbers) - 0.5, Math.max(...numbers) + 0.5] }, y: { range: (_, low, high) => [0, 1.08 * high] } },
    axes: [axis("Round", whole), axis("Covering radius")],
    series: [{}, point(shade("pool")), point(shade("labeled"))],
    hooks: { draw: [bars(spans, shade("pool"), false)] },
  };
  drawn.push(plot($("radius-plot"), options, [numbers, rounds.map((round) => round.radius_before), rounds.map((round) => round.radius_after)]));
}

function draw() {
  drawn.forEach((remove) => remove());
  drawn = [];
  const view = JSON.parse($("view").textContent);
  drawLearning(view);
  drawRadius(view);
}

document.addEventListener("fresh", draw);
dark.addEventListener("change", draw);
draw();
