// The learning curve, the covering radius by round, and core-set against random, drawn by uPlot; the figures
// stand in tables beside them.

const $ = (id) => document.getElementById(id);
const shade = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
const percents = (_, values) => values.map((value) => `${Math.round(100 * value)} %`);
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
  const ends = rounds.flatMap((round) => [round.accuracy.low, round.accuracy.high]);
  const options = {
    scales: { x: { time: false }, y: { range: (_, low, high) => [Math.max(0, Math.min(low, ...ends) - 0.05), Math.min(1, Math.max(high, ...ends) + 0.02)] } },
    axes: [axis("Labelled images"), axis("Accuracy on the hold-out", percents)],
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

// ---------------------------------------------------------------- core-set against random

// Random is grey; what is compared with it has colours that stay apart.
const inks = (name, place) => name === "random" ? shade("soft") : [shade("accent"), "#d97706", "#0d9488", "#db2777"][place % 4];

function key(list, names) {
  $(list).replaceChildren(...names.map(([name, colour]) => {
    const item = document.createElement("li");
    item.innerHTML = `<svg viewBox="0 0 10 10" aria-hidden="true"><circle cx="5" cy="5" r="5" fill="${colour}"/></svg>`;
    item.append(name);
    return item;
  }));
}

function drawReplay({ replay }) {
  if (!$("replay-plot") || !replay) return;
  const colours = replay.lines.map(({ strategy }, place) => inks(strategy, place));
  const labels = [...new Set(replay.lines.flatMap(({ points }) => points.map((point) => point.labels)))].sort((a, b) => a - b);
  const column = (points, name) => labels.map((each) => points.find((point) => point.labels === each)?.[name] ?? null);
  const data = [labels, ...replay.lines.flatMap(({ points }) => ["high", "low", "value"].map((name) => column(points, name)))];
  const edge = { stroke: "transparent", spanGaps: true, points: { show: false } };
  const options = {
    scales: { x: { time: false }, y: { range: (_, low, high) => [Math.max(0, low - 0.02), Math.min(1, high + 0.02)] } },
    axes: [axis("Labelled images"), axis("Accuracy on the test images", percents)],
    series: [{}, ...colours.flatMap((colour) => [edge, edge, { stroke: colour, width: 2, spanGaps: true, points: { show: true, size: 7, fill: colour } }])],
    bands: colours.map((colour, place) => ({ series: [3 * place + 1, 3 * place + 2], fill: `${colour}2e` })),
  };
  drawn.push(plot($("replay-plot"), options, data));
  key("replay-keys", replay.lines.map(({ strategy, batch, seeds }, place) => [`${strategy}, batches of ${batch}, ${seeds} repetition${seeds > 1 ? "s" : ""}`, colours[place]]));
}

function drawSlice({ history }) {
  const rounds = history.filter(({ random_slice }) => random_slice?.pool_accuracy);
  if (!$("slice-plot") || !rounds.length) return;
  const sides = [["pool_accuracy", "sampled at random", shade("soft"), -0.08], ["picked_accuracy", "picked by the strategy", shade("accent"), 0.08]];
  const place = ({ number }, shift) => number + shift;
  const numbers = rounds.flatMap((round) => sides.map(([, , , shift]) => place(round, shift)));
  const data = sides.map(([name]) => rounds.flatMap((round) => sides.map(([side]) => side === name ? round.random_slice[name]?.value ?? null : null)));
  const spans = ([name, , , shift]) => rounds.filter(({ random_slice }) => random_slice[name]).map((round) => [place(round, shift), round.random_slice[name].low, round.random_slice[name].high]);
  const options = {
    scales: { x: { time: false, range: [numbers[0] - 0.5, numbers.at(-1) + 0.5] }, y: { range: [0, 1] } },
    axes: [axis("Round", (_, values) => values.map((value) => Number.isInteger(value) ? value : "")), axis("Accuracy of the predictions", percents)],
    series: [{}, ...sides.map(([, , colour]) => ({ stroke: colour, width: 0, points: { show: true, size: 9, fill: colour } }))],
    hooks: { draw: sides.map((side) => bars(spans(side), side[2], true)) },
  };
  drawn.push(plot($("slice-plot"), options, [numbers, ...data]));
  key("slice-keys", sides.map(([, words, colour]) => [words, colour]));
}

function draw() {
  drawn.forEach((remove) => remove());
  drawn = [];
  const view = JSON.parse($("view").textContent);
  drawLearning(view);
  drawRadius(view);
  drawReplay(view);
  drawSlice(view);
}

document.addEventListener("fresh", draw);
dark.addEventListener("change", draw);
draw();
