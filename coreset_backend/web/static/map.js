// The embedding map: up to 50,000 points drawn by WebGL, of larger pools a sample; with hover, lasso, list and export.

const $ = (id) => document.getElementById(id);
const STATES = ["labeled", "selected", "reserve", "pool", "skipped", "unreadable", "duplicate", "model", "copy"];
const STATE_NAMES = ["Labelled", "Selected", "Reserve", "Pool", "Skipped", "Unreadable", "Duplicate", "By the model", "Copy"];
const STATE_COLOURS = ["#22c55e", "#fbbf24", "#c08a1e", "#5b6a99", "#9aa2b8", "#f87171", "#c084fc", "#2dd4bf", "#7dd3fc"];
// Twelve that stay apart on a dark ground, then round again.
const CLASS_COLOURS = ["#38bdf8", "#fb923c", "#4ade80", "#f472b6", "#a78bfa", "#facc15", "#2dd4bf", "#f87171", "#a3e635", "#818cf8", "#fda4af", "#d6d3d1"];
const NONE_COLOUR = "#414a72";
const SELECTED = 1;
const NO_CLUSTER = 255;
const SHADERS = {
  vertex: `attribute vec2 place; attribute vec3 colour; attribute float size; uniform vec4 view; varying vec3 shown;
    void main() { gl_Position = vec4((place - view.xy) * view.zw, 0.0, 1.0); gl_PointSize = size; shown = colour; }`,
  fragment: `precision mediump float; varying vec3 shown;
    void main() { float far = length(gl_PointCoord - 0.5); if (far > 0.5) discard; gl_FragColor = vec4(shown, 1.0) * smoothstep(0.5, 0.38, far); }`,
};

const COLOURINGS = ["state", "label", "predicted", "cluster"];

// What the backend's map_bytes packs: the points, and of a sample (version 3) how many images of all have each value.
function readPoints(buffer) {
  const [n, version] = new Uint32Array(buffer, 0, 2);
  const isSample = version === 3;
  let at = isSample ? 16 : 8;
  const take = (Kind, count) => {
    const values = new Kind(buffer, at, count);
    at += values.byteLength;
    return values;
  };
  const points = { n, task: take(Float64Array, n), place: take(Uint16Array, 2 * n), label: take(Int16Array, n), predicted: take(Int16Array, n), state: take(Uint8Array, n), cluster: take(Uint8Array, n) };
  if (!isSample) return { ...points, total: n, counts: null };
  const view = new DataView(buffer);
  const counts = {};
  for (const colouring of COLOURINGS) {
    counts[colouring] = new Map();
    const many = view.getUint32(at, true);
    for (let pair = 0, from = at + 4; pair < many; pair++, from += 8) counts[colouring].set(view.getInt32(from, true), view.getUint32(from + 4, true));
    at += 4 + 8 * many;
  }
  return { ...points, total: view.getUint32(8, true), counts };
}

function program(gl) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, SHADERS.vertex], [gl.FRAGMENT_SHADER, SHADERS.fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  gl.useProgram(made);
  return made;
}

const rgb = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));

class EmbeddingMap {
  constructor(points, view) {
    Object.assign(this, points);
    this.page = view;
    this.classes = view.round.classes.map(({ name }) => name);
    this.box = $("map");
    this.canvas = $("map-points");
    this.over = $("map-over").getContext("2d");
    this.centre = [0.5, 0.5];
    this.zoom = 1;
    this.chosen = null;
    this.rank = new Map(view.round.batch.map((pick) => [pick.task_id, pick.rank]));
    this.order = this.drawingOrder();
    this.extent = [0, 1].map((axis) => {
      let low = 65535, high = 0;
      for (let at = axis; at < 2 * this.n; at += 2) [low, high] = [Math.min(low, this.place[at]), Math.max(high, this.place[at])];
      return Math.max(high - low, 655) / 65535;
    });
    $("map-colour").querySelector('[value="cluster"]').hidden = !this.n || this.cluster[0] === NO_CLUSTER;
    this.startDrawing();
    this.listen();
    this.colourBy("state");
    new ResizeObserver(() => this.resize()).observe(this.box);
    const all = this.total.toLocaleString("en");
    $("map-count").textContent = this.counts ? `${all} images; ${this.n.toLocaleString("en")} of them are drawn, with the whole batch` : `${all} images`;
    this.box.embeddingMap = this;
    this.box.dataset.ready = this.n;
    document.dispatchEvent(new CustomEvent("map", { detail: this }));
  }

  // The pool first, what a lead looks for on top of it.
  drawingOrder() {
    const height = [3, 4, 2, 0, 1, 1, 1, 1, 1];
    const order = new Uint32Array(this.n);
    let at = 0;
    for (let level = 0; level <= 4; level++) for (let row = 0; row < this.n; row++) if (height[this.state[row]] === level) order[at++] = row;
    return order;
  }

  startDrawing() {
    const gl = this.gl = this.canvas.getContext("webgl", { antialias: true, preserveDrawingBuffer: true });
    if (!gl) throw new Error("This browser has no WebGL, which the map needs.");
    const made = program(gl);
    this.viewAt = gl.getUniformLocation(made, "view");
    const places = new Uint16Array(2 * this.n);
    this.order.forEach((row, at) => { places[2 * at] = this.place[2 * row]; places[2 * at + 1] = this.place[2 * row + 1]; });
    this.fill(made, "place", places, 2, gl.UNSIGNED_SHORT, true);
    this.made = made;
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.clearColor(0, 0, 0, 0);
  }

  fill(made, name, values, width, kind, normalized) {
    const gl = this.gl;
    const buffer = (this.buffers ||= {})[name] ||= gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    const at = gl.getAttribLocation(made, name);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, width, kind, normalized, 0, 0);
  }

  // ---------------------------------------------------------------- colours

  groups() {
    if (this.by === "state") return STATES.map((_, code) => ({ code, name: STATE_NAMES[code], colour: STATE_COLOURS[code] }));
    if (this.by === "cluster") return Array.from({ length: this.cluster.reduce((most, code) => Math.max(most, code), 0) + 1 }, (_, code) => ({ code, name: `Cluster ${code + 1}`, colour: CLASS_COLOURS[code % CLASS_COLOURS.length] }));
    const classes = this.classes.map((name, code) => ({ code, name, colour: CLASS_COLOURS[code % CLASS_COLOURS.length] }));
    return [...classes, { code: -1, name: this.by === "label" ? "No label" : "No answer", colour: NONE_COLOUR }];
  }

  colourBy(by) {
    this.by = by;
    this.codes = { state: this.state, label: this.label, predicted: this.predicted, cluster: this.cluster }[by];
    const groups = this.groups();
    const colours = new Map(groups.map(({ code, colour }) => [code, rgb(colour)]));
    const shown = new Uint8Array(3 * this.n);
    const usual = this.n > 20000 ? 3 : this.n > 2000 ? 5 : 8;
    const sizes = new Float32Array(this.n);
    const ratio = window.devicePixelRatio || 1;
    this.order.forEach((row, at) => {
      shown.set(colours.get(this.codes[row]) || rgb(NONE_COLOUR), 3 * at);
      const inside = this.chosen?.has(row);
      sizes[at] = ratio * (this.state[row] === SELECTED ? usual + 6 : this.state[row] === 0 ? usual + 2 : usual) * (this.chosen && !inside ? 0.6 : 1);
    });
    this.fill(this.made, "colour", shown, 3, this.gl.UNSIGNED_BYTE, true);
    this.fill(this.made, "size", sizes, 1, this.gl.FLOAT, false);
    this.showLegend(groups);
    this.draw();
  }

  showLegend(groups) {
    const counts = this.counts?.[this.by] || new Map();
    if (!this.counts) for (const code of this.codes) counts.set(code, (counts.get(code) || 0) + 1);
    $("map-legend").replaceChildren(...groups.filter(({ code }) => counts.get(code)).map(({ code, name, colour }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.innerHTML = `<svg viewBox="0 0 10 10" aria-hidden="true"><circle cx="5" cy="5" r="5" fill="${colour}"/></svg>`;
      button.append(`${name} ${counts.get(code).toLocaleString("en")}`);
      button.addEventListener("click", () => this.choose(this.rowsWhere((row) => this.codes[row] === code), this.ofThoseDrawn(name)));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }));
  }

  ofThoseDrawn(name) {
    return this.counts ? `${name}, of those drawn` : name;
  }

  rowsWhere(test) {
    const rows = [];
    for (let row = 0; row < this.n; row++) if (test(row)) rows.push(row);
    return rows;
  }

  // ---------------------------------------------------------------- drawing

  resize() {
    const ratio = window.devicePixelRatio || 1;
    for (const canvas of [this.canvas, this.over.canvas]) {
      canvas.width = Math.round(this.box.clientWidth * ratio);
      canvas.height = Math.round(this.box.clientHeight * ratio);
    }
    this.draw();
  }

  // Pixels of the box per unit of the map, the same for both axes.
  scale() {
    return this.zoom * 0.92 * Math.min(this.box.clientWidth / this.extent[0], this.box.clientHeight / this.extent[1]);
  }

  draw() {
    const gl = this.gl;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const scale = this.scale();
    gl.uniform4f(this.viewAt, ...this.centre, 2 * scale / this.box.clientWidth, -2 * scale / this.box.clientHeight);
    gl.drawArrays(gl.POINTS, 0, this.n);
    this.drawOver();
  }

  drawOver() {
    const ratio = window.devicePixelRatio || 1;
    const over = this.over;
    over.setTransform(ratio, 0, 0, ratio, 0, 0);
    over.clearRect(0, 0, this.box.clientWidth, this.box.clientHeight);
    if (this.hovered != null) this.ring(this.hovered, "#fff", 9);
    if (this.n <= 20000) for (const row of this.batchRows ||= this.rowsWhere((each) => this.rank.has(this.task[each]))) this.ring(row, "#fff8", this.n > 2000 ? 7 : 9);
    if (!this.trail?.length) return;
    over.beginPath();
    this.trail.forEach(([x, y]) => over.lineTo(x, y));
    over.closePath();
    Object.assign(over, { strokeStyle: "#fff", fillStyle: "#ffffff22", lineWidth: 1.5 });
    over.fill();
    over.stroke();
  }

  ring(row, colour, radius) {
    const [x, y] = this.toScreen(row);
    this.over.beginPath();
    this.over.arc(x, y, radius, 0, 7);
    Object.assign(this.over, { strokeStyle: colour, lineWidth: 1.5 });
    this.over.stroke();
  }

  toScreen(row) {
    const scale = this.scale();
    return [
      (this.place[2 * row] / 65535 - this.centre[0]) * scale + this.box.clientWidth / 2,
      (this.place[2 * row + 1] / 65535 - this.centre[1]) * scale + this.box.clientHeight / 2,
    ];
  }

  toMap(x, y) {
    const scale = this.scale();
    return [(x - this.box.clientWidth / 2) / scale + this.centre[0], (y - this.box.clientHeight / 2) / scale + this.centre[1]];
  }

  zoomBy(factor, x = this.box.clientWidth / 2, y = this.box.clientHeight / 2) {
    const before = this.toMap(x, y);
    this.zoom = Math.min(200, Math.max(0.5, this.zoom * factor));
    const after = this.toMap(x, y);
    this.centre = this.centre.map((value, axis) => value + before[axis] - after[axis]);
    this.draw();
  }

  moveBy(x, y) {
    this.centre = [this.centre[0] - x / this.scale(), this.centre[1] - y / this.scale()];
    this.draw();
  }

  // ---------------------------------------------------------------- what people do

  listen() {
    const at = (event) => {
      const box = this.box.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.grip = { from: at(event), moved: false };
      if (this.lassoing) this.trail = [at(event)];
    });
    this.canvas.addEventListener("pointermove", (event) => this.pointerMoved(at(event)));
    this.canvas.addEventListener("pointerup", () => this.pointerLeft());
    this.canvas.addEventListener("pointerleave", () => this.hover(null));
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 400), ...at(event));
    }, { passive: false });
    this.canvas.addEventListener("keydown", (event) => this.keyPressed(event));
    $("map-colour").addEventListener("change", (event) => this.colourBy(event.target.value));
    $("map-lasso").addEventListener("click", () => this.useLasso(!this.lassoing));
    $("map-closer").addEventListener("click", () => this.zoomBy(1.5));
    $("map-wider").addEventListener("click", () => this.zoomBy(1 / 1.5));
    $("map-whole").addEventListener("click", () => { this.zoom = 1; this.centre = [0.5, 0.5]; this.draw(); });
  }

  useLasso(on) {
    this.lassoing = on;
    this.trail = null;
    $("map-lasso").setAttribute("aria-pressed", String(on));
    this.box.classList.toggle("lasso", on);
    this.drawOver();
  }

  keyPressed(event) {
    const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (moves[event.key]) this.moveBy(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.3);
    else if (event.key === "-") this.zoomBy(1 / 1.3);
    else if (event.key === "0") $("map-whole").click();
    else return;
    event.preventDefault();
  }

  pointerMoved([x, y]) {
    if (!this.grip) return this.hover(this.nearest(x, y), x, y);
    const [fromX, fromY] = this.grip.from;
    if (Math.hypot(x - fromX, y - fromY) > 3) this.grip.moved = true;
    if (this.trail) {
      this.trail.push([x, y]);
      this.drawOver();
    } else if (this.grip.moved) {
      this.moveBy(x - fromX, y - fromY);
      this.grip.from = [x, y];
      this.hover(null);
    }
  }

  pointerLeft() {
    const { moved } = this.grip || {};
    this.grip = null;
    if (this.trail) {
      const trail = this.trail.map(([x, y]) => this.toMap(x, y));
      this.useLasso(false);
      if (trail.length > 2) this.choose(this.rowsWhere((row) => inside(trail, this.place[2 * row] / 65535, this.place[2 * row + 1] / 65535)), this.ofThoseDrawn("Inside the lasso"));
    } else if (!moved && this.hovered != null && this.page.label_studio) {
      window.open(this.link(this.hovered), "_blank", "noopener");
    }
  }

  nearest(x, y) {
    const [mapX, mapY] = this.toMap(x, y).map((value) => value * 65535);
    let best = null, least = (12 / this.scale() * 65535) ** 2;
    for (let row = 0; row < this.n; row++) {
      const far = (this.place[2 * row] - mapX) ** 2 + (this.place[2 * row + 1] - mapY) ** 2;
      if (far < least) [best, least] = [row, far];
    }
    return best;
  }

  hover(row, x, y) {
    if (row === this.hovered) return;
    this.hovered = row;
    this.canvas.style.cursor = row == null || this.lassoing ? "" : "pointer";
    $("map-tip").hidden = row == null;
    if (row != null) {
      $("map-tip").querySelector("img").src = this.thumbnail(row);
      $("map-tip").querySelector("p").textContent = this.words(row);
      $("map-tip").style.left = `${Math.min(x + 16, this.box.clientWidth - 160)}px`;
      $("map-tip").style.top = `${Math.max(8, Math.min(y - 60, this.box.clientHeight - 230))}px`;
    }
    this.drawOver();
  }

  words(row) {
    const rank = this.rank.get(this.task[row]);
    const words = [`Task ${this.task[row]}: ${STATE_NAMES[this.state[row]].toLowerCase()}${rank ? `, pick ${rank}` : ""}`];
    if (this.label[row] >= 0) words.push(`labelled “${this.classes[this.label[row]]}”`);
    if (this.predicted[row] >= 0) words.push(`predicted “${this.classes[this.predicted[row]]}”`);
    return words.join("; ");
  }

  thumbnail(row) {
    return `/projects/${this.page.project}/rounds/${this.page.round.number}/thumbnails/${this.task[row]}.jpg`;
  }

  link(row) {
    return `${this.page.label_studio}?task=${this.task[row]}`;
  }

  // ---------------------------------------------------------------- the chosen ones

  // Marks the rows and has them listed (bulk.js); null marks and lists none.
  choose(rows, name) {
    this.chosen = rows && new Set(rows);
    document.dispatchEvent(new CustomEvent("chosen", { detail: { map: this, rows, name } }));
    this.colourBy(this.by);
  }

  exportChosen() {
    const quoted = (text) => `"${fitCell(String(text)).replaceAll('"', '""')}"`;
    const name = (code) => code < 0 ? "" : quoted(this.classes[code]);
    const lines = [...this.chosen].map((row) => [this.task[row], STATES[this.state[row]], name(this.label[row]), name(this.predicted[row]), this.rank.get(this.task[row]) || "", quoted(this.page.label_studio ? this.link(row) : "")].join(","));
    const file = new Blob([["task_id,state,label,predicted,pick,link", ...lines].join("\n") + "\n"], { type: "text/csv" });
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: `project-${this.page.project}-round-${this.page.round.number}.csv` });
    link.click();
    URL.revokeObjectURL(link.href);
  }
}

// The text with an apostrophe in front of what a spreadsheet could take for a formula, also where it splits cells at
// semicolons, tabs or bars instead of commas.
function fitCell(text) {
  return text.replace(/(^|[;,|\t\r\n])(?=[\s\u200b\ufeff\0]*[=+\-@\uff0b\uff0d\uff1d\uff20]|[\t\r\n])/g, "$1'");
}

// Whether the point lies inside the closed trail: a ray to the right crosses it an odd number of times.
function inside(trail, x, y) {
  let odd = false;
  for (let each = 0, last = trail.length - 1; each < trail.length; last = each++) {
    const [x1, y1] = trail[each], [x2, y2] = trail[last];
    if ((y1 > y) !== (y2 > y) && x < (x2 - x1) * (y - y1) / (y2 - y1) + x1) odd = !odd;
  }
  return odd;
}

let asked = 0;

async function showMap() {
  if (!$("map")) return;
  const mine = ++asked;
  const view = JSON.parse($("view").textContent);
  try {
    const answer = await fetch(`/projects/${view.project}/rounds/${view.round.number}/map`);
    if (!answer.ok) throw new Error(`the backend answered ${answer.status}`);
    const points = readPoints(await answer.arrayBuffer());
    if (mine === asked) new EmbeddingMap(points, view); // else the page was replaced meanwhile, and asked again
  } catch (error) {
    $("map-count").textContent = `The map cannot be shown: ${error.message}`;
  }
}

document.addEventListener("fresh", showMap);
if (document.readyState === "complete") showMap();
else addEventListener("load", showMap); // the page first: starting WebGL can stop it for a second
