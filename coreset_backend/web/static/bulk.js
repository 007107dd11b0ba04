// Lists the images that were chosen on the map, and labels many of them at once or marks them as examples.

import { ask, confirmed, say, showNewPart } from "./page.js";

const $ = (id) => document.getElementById(id);
const PAGE = 120;
const view = () => JSON.parse($("view").textContent);
const api = (path) => `/api/projects/${view().project}/${path}`;
const images = (count) => count === 1 ? "1 image" : `${count.toLocaleString("en")} images`;

// What is listed: rows of the map under a name, how many are shown, which are selected (by task), which the
// keyboard is at, and which was ticked last, where a range begins.
let list = { map: null, rows: [], name: "", shown: 0, selected: new Set(), at: 0, from: 0 };
let given = new Map(); // task -> the label that was just given

const tasks = () => list.rows.map((row) => list.map.task[row]);
const boxes = () => [...$("chosen-list").querySelectorAll("input")];

function show({ map, rows, name }) {
  $("chosen").hidden = !rows;
  list = { map, rows: rows || [], name, shown: 0, selected: new Set(), at: 0, from: 0 };
  if (!rows) return;
  $("chosen-list").replaceChildren();
  showMore();
  $("chosen-title").focus();
}

function showMore() {
  $("chosen-list").append(...list.rows.slice(list.shown, list.shown + PAGE).map(tile));
  list.shown = Math.min(list.shown + PAGE, list.rows.length);
  const left = list.rows.length - list.shown;
  $("chosen-title").textContent = `${list.name}: ${images(list.rows.length)}${left ? `, the first ${list.shown} shown` : ""}`;
  $("chosen-more").hidden = !left;
  moveTo(list.at, false);
  showSelected();
}

function tile(row) {
  const task = list.map.task[row], words = list.map.words(row);
  const box = Object.assign(document.createElement("input"), { type: "checkbox", tabIndex: -1, checked: list.selected.has(task) });
  box.dataset.task = task;
  box.setAttribute("aria-label", words);
  const image = Object.assign(document.createElement("img"), { src: list.map.thumbnail(row), alt: "", title: words, className: "thumbnail", loading: "lazy", width: 96, height: 96 });
  const label = Object.assign(document.createElement("label"), { className: "tile" });
  label.append(box, image);
  const caption = Object.assign(document.createElement(list.map.page.label_studio ? "a" : "span"), { className: "caption", tabIndex: -1, textContent: given.get(task) || task });
  if (list.map.page.label_studio) Object.assign(caption, { href: list.map.link(row), target: "_blank", rel: "noopener", title: `Open task ${task} in Label Studio` });
  const item = document.createElement("li");
  item.append(label, caption);
  return item;
}

// ---------------------------------------------------------------- selecting

function select(wanted, on) {
  for (const task of wanted) list.selected[on ? "add" : "delete"](task);
  for (const box of boxes()) box.checked = list.selected.has(Number(box.dataset.task));
  showSelected();
}

function showSelected() {
  const count = list.selected.size;
  $("bulk-count").textContent = `${images(count)} selected`;
  for (const button of document.querySelectorAll("[data-needs-selection]")) button.disabled = !count;
  $("bulk-all").disabled = count === list.rows.length;
  $("bulk-none").disabled = !count;
}

function moveTo(place, focus = true) {
  const all = boxes();
  list.at = Math.max(0, Math.min(place, all.length - 1));
  all.forEach((box, each) => { box.tabIndex = each === list.at ? 0 : -1; });
  if (focus) all[list.at]?.focus();
}

function columns() {
  const items = [...$("chosen-list").children];
  const next = items.findIndex((item) => item.offsetTop > items[0].offsetTop);
  return next < 0 ? items.length : next;
}

const between = (one, other) => tasks().slice(Math.min(one, other), Math.max(one, other) + 1);

function ticked(event) {
  const box = event.target.closest("#chosen-list input");
  if (!box) return;
  const place = boxes().indexOf(box);
  select(event.shiftKey ? between(list.from, place) : [Number(box.dataset.task)], box.checked);
  list.from = place;
}

function keyPressed(event) {
  if (event.target.closest("#chosen") && /^[1-9]$/.test(event.key) && !event.target.matches("input:not([type=checkbox])")) {
    const button = document.querySelector(`[data-digit="${event.key}"]:not(:disabled)`);
    if (button) button.click();
    return;
  }
  if (!event.target.closest("#chosen-list")) return;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns(), Home: -list.rows.length, End: list.rows.length };
  if (event.key in steps) {
    const from = list.at;
    moveTo(from + steps[event.key]);
    if (event.shiftKey) select(between(from, list.at), true);
  } else if (event.key === "a" && (event.ctrlKey || event.metaKey)) select(tasks(), true);
  else if (event.key === "Enter") $("chosen-list").children[list.at]?.querySelector("a")?.click();
  else return;
  event.preventDefault();
}

// ---------------------------------------------------------------- acting

async function write(label) {
  const chosen = [...list.selected];
  const body = { task_ids: chosen, label, correct: $("bulk-correct").checked };
  const planned = await ask(api("bulk"), { method: "POST", body: JSON.stringify({ ...body, dry_run: true }) });
  if (!await confirmed(planned.sentence, "Write")) return;
  const begun = await ask(api("bulk"), { method: "POST", body: JSON.stringify(body) });
  for (const task of chosen) given.set(task, label.join(", "));
  for (const box of boxes()) if (list.selected.has(Number(box.dataset.task))) box.closest("li").querySelector(".caption").textContent = label.join(", ");
  select(chosen, false);
  say(begun.sentence);
  await showNewPart("bulk-status");
}

// In single choice a press writes that class; in multiple choice it adds the class to the label.
function labelPressed(button) {
  if (!("multiple" in $("bulk-labels").dataset)) return write([button.dataset.label]);
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  const label = [...document.querySelectorAll('[data-label][aria-pressed="true"]')].map((each) => each.dataset.label);
  $("bulk-write").hidden = !label.length;
  $("bulk-write").textContent = `Write “${label.join(", ")}”`;
  $("bulk-write").dataset.classes = JSON.stringify(label);
}

async function mark(wanted, like) {
  const { examples } = await ask(api("examples"), { method: "POST", body: JSON.stringify({ task_ids: wanted, like }) });
  say(like === "neither" ? "The example is removed." : `${images(wanted.length)} marked. ${examples.length === 1 ? "1 example weighs" : `${examples.length} examples weigh`} from the next round on.`);
  await showNewPart("bulk-status");
}

async function undo(version) {
  if (!await confirmed("Undo these labels? Annotations that people have changed since stay.", "Undo")) return;
  const done = await ask(api("bulk/undo"), { method: "POST", body: JSON.stringify({ version }) });
  given = new Map();
  say(done.writes.find((each) => each.version === version).sentence);
  await showNewPart("bulk-status");
}

function listTasks(wanted, name) {
  const { map } = list;
  if (!map) return say("The map is not drawn yet. Try again in a moment.", true);
  const rows = new Map([...map.task].map((task, row) => [task, row]));
  map.choose(wanted.filter((task) => rows.has(task)).map((task) => rows.get(task)), name);
}

const PRESSES = {
  "bulk-all": () => select(tasks(), true),
  "bulk-none": () => select(tasks(), false),
  "bulk-more": () => mark([...list.selected], "more"),
  "bulk-fewer": () => mark([...list.selected], "fewer"),
  "bulk-write": (button) => write(JSON.parse(button.dataset.classes)),
  "bulk-suspects": () => listTasks(view().round.suspects.map(({ task_id }) => task_id), "Suspected label errors"),
  "chosen-more": showMore,
  "chosen-export": () => list.map.exportChosen(),
  "chosen-clear": () => list.map.choose(null),
};

async function pressed(event) {
  const button = event.target.closest("button");
  if (!button) return;
  const { label, undo: version, unmark } = button.dataset;
  try {
    if (PRESSES[button.id]) await PRESSES[button.id](button);
    else if (label !== undefined) await labelPressed(button);
    else if (version) await undo(version);
    else if (unmark) await mark([Number(unmark)], "neither");
  } catch (error) {
    say(error.message, true);
  }
}

// A new round brings a new map: the same images are listed again, with the same selection.
function mapReady({ detail: map }) {
  const before = { ...list, listed: list.map ? tasks() : [] };
  list = { ...list, map };
  if (!before.listed.length) return;
  const keyboard = document.activeElement;
  listTasks(before.listed, before.name);
  select(before.selected, true);
  keyboard?.focus();
}

document.addEventListener("click", ticked);
document.addEventListener("click", pressed);
document.addEventListener("keydown", keyPressed);
document.addEventListener("focusin", ({ target }) => { if (target.matches("#chosen-list input")) moveTo(boxes().indexOf(target), false); });
document.addEventListener("chosen", ({ detail }) => show(detail));
document.addEventListener("map", mapReady);
