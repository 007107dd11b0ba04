// Keeps the page of a project live: progress while a round runs, the whole page when a new round is there.

const $ = (id) => document.getElementById(id);
const view = () => JSON.parse($("view").textContent);
const project = Number($("live").dataset.project);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

export function say(words, bad = false) {
  const line = element("p", { textContent: words, className: bad ? "bad" : "" });
  $("messages").append(line);
  setTimeout(() => line.remove(), 12000);
}

export async function ask(path, options) {
  const answer = await fetch(path, { ...options, headers: { Accept: "application/json", "Content-Type": "application/json" } });
  const body = await answer.json().catch(() => ({})); // a proxy in front may answer with a page of its own
  if (!answer.ok) throw new Error(body.error || `The backend answered ${answer.status}.`);
  return body;
}

// ---------------------------------------------------------------- live

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function showProgress(progress) {
  const running = progress.state === "running";
  const learning = !running && progress.pretraining?.state === "running";
  $("state").textContent = progress.state;
  $("state").className = `pill ${progress.state}`;
  $("sentence").textContent = progress.sentence;
  $("next-who").textContent = progress.next.who;
  $("next-does").textContent = progress.next.does;
  $("steps").hidden = !running;
  $("left").hidden = !running && !learning;
  for (const button of document.querySelectorAll('[data-action="start"]')) button.disabled = !progress.startable;
  for (const button of document.querySelectorAll('[data-action="cancel"]')) button.disabled = !running && progress.state !== "waiting";
  if (running) $("steps").replaceChildren(...progress.steps.map((step) => {
    const item = element("li", { className: step.status, textContent: step.name });
    if (step.status === "current") item.setAttribute("aria-current", "step");
    return item;
  }));
  if (learning) showMeter(progress.pretraining.seen, progress.pretraining.budget, null); // its sentence has the time
  else if (running) showMeter(progress.done, progress.total, progress.seconds_left);
}

function showMeter(done, total, seconds) {
  if (total) $("meter").value = done / total;
  else $("meter").removeAttribute("value");
  $("time-left").textContent = seconds == null ? "" : `about ${duration(seconds)} left`;
}

// What the keyboard is on, as a selector that finds its like on the new page.
function focused() {
  const { id, dataset = {} } = document.activeElement || {};
  const place = dataset.action ? ["action", "number"] : dataset.pick ? ["pick"] : [];
  return id ? `#${id}` : place.filter((name) => dataset[name]).map((name) => `[data-${name}="${dataset[name]}"]`).join("");
}

async function newPage() {
  const text = await (await fetch(location.pathname + location.search)).text();
  return new DOMParser().parseFromString(text, "text/html");
}

// The part of the page with that id, as it is now; the rest stays.
export async function showNewPart(id) {
  const [fresh, keyboard] = [(await newPage()).getElementById(id), focused()];
  if (!fresh || fresh.innerHTML === $(id)?.innerHTML) return;
  $(id).replaceWith(fresh);
  if (keyboard) document.querySelector(keyboard)?.focus({ preventScroll: true });
}

async function showNewPage() {
  const fresh = await newPage();
  const [place, keyboard] = [window.scrollY, focused()];
  $("live").replaceWith(fresh.getElementById("live"));
  $("view").textContent = fresh.getElementById("view").textContent;
  window.scrollTo(0, place);
  if (keyboard) document.querySelector(keyboard)?.focus({ preventScroll: true });
  document.dispatchEvent(new Event("fresh"));
}

// Ask how things stand, and show it; the whole page anew when another round speaks or it was published.
async function look() {
  try {
    const { progress, number, published_at } = await ask(`/api/projects/${project}/progress`);
    const { round, published } = $("live").dataset;
    if ((number !== Number(round) || (published_at || "") !== published) && progress.state !== "running") {
      await showNewPage();
      if (number > Number(round)) say(`Round ${number} is ready.`);
      else if (published_at) say(`The batch of round ${number} is published.`);
    }
    showProgress(progress);
    if ($("bulk-status")?.querySelector("[data-open]")) await showNewPart("bulk-status");
  } catch (error) {
    $("sentence").textContent = `The backend does not answer (${error.message}). Trying again.`;
  }
}

async function follow() {
  for (;;) {
    await pause(document.hidden ? 10000 : 1500);
    await look();
  }
}

// ---------------------------------------------------------------- actions

let question = new AbortController();

export function confirmed(words, yes) {
  question.abort(); // one that was left by Escape waits for no answer any more
  question = new AbortController();
  $("ask-words").textContent = words;
  $("ask-yes").textContent = yes;
  $("ask").showModal();
  const once = { once: true, signal: question.signal };
  return new Promise((resolve) => $("ask").addEventListener("submit", (event) => resolve(event.submitter.value === "yes"), once));
}

const DONE = {
  start: ({ status }) => status === "queued" ? "A round is queued." : "A round is already waiting.",
  cancel: ({ status }) => status === "cancelled" ? "Cancelled. Annotators keep the current batch." : "No round is running or waiting.",
  publish: ({ status }) => status === "queued" ? "The batch will be published in a moment." : "A job of the project is already waiting.",
  rollback: ({ round }) => `Rolled back to round ${round}. Its batch will be published in a moment.`,
};

// What a finish is asked for by the fields beside its buttons; each is shown before it is done.
const promised = (card) => ({ accuracy: Number($(`${card}-accuracy`).value) / 100, confidence: Number($(`${card}-confidence`).value) / 100, audits: Number($(`${card}-audits`).value) });
const WISHES = {
  finish: () => ({ ...promised("finish"), per_class: $("finish-per-class").checked }),
  copies: () => ({ ...promised("copies"), annotations: $("copies-annotations").checked }),
  "finish/accept": () => ({ annotations: $("finish-annotations").checked, rest: $("finish-rest").value }),
};

async function act({ dataset: { action, number, ask: words }, textContent }) {
  const path = `/api/projects/${project}/${action}`;
  const post = (fields) => ask(path, { method: "POST", body: fields && JSON.stringify(fields) });
  const fields = number ? { round: Number(number) } : WISHES[action]?.();
  try {
    const planned = WISHES[action] && await post({ ...fields, dry_run: true });
    const shown = planned ? `${planned.sentence} ${words}` : words;
    if (shown && !await confirmed(shown, textContent.trim())) return;
    const done = await post(fields);
    say(done.sentence || DONE[action](done));
    if (done.sentence) await showNewPage();
  } catch (error) {
    say(error.message, true);
  }
  await look();
}

// ---------------------------------------------------------------- why this one?

const thumbnail = (number, task) => `/projects/${project}/rounds/${number}/thumbnails/${task}.jpg`;

function figure(number, task, words) {
  const image = element("img", { src: thumbnail(number, task), alt: `Task ${task}`, className: "thumbnail", width: 192, height: 192 });
  return element("figure", {}, image, element("figcaption", { textContent: words }));
}

function why(pick, round) {
  const { labeled, earlier } = pick;
  if (!labeled && !earlier) return `The first pick from a pool without labels. ${round.choice}.`;
  const words = [`It was pick ${pick.rank} of round ${round.number}.`];
  if (labeled) words.push(`Its nearest labelled image, task ${labeled.task_id}${labeled.label ? ` (“${labeled.label}”)` : ""}, is ${labeled.distance.toFixed(2)} away.`);
  if (earlier) words.push(`The nearest image picked before it, task ${earlier.task_id}, is ${earlier.distance.toFixed(2)} away.`);
  return [...words, `${round.choice}.`].join(" ");
}

function explain(pick) {
  const { round, label_studio } = view();
  const figures = [figure(round.number, pick.task_id, `Pick ${pick.rank}: task ${pick.task_id}`)];
  if (pick.labeled) figures.push(figure(round.number, pick.labeled.task_id, `Nearest labelled: ${pick.labeled.label || "no class"}, ${pick.labeled.distance.toFixed(2)} away`));
  else if (pick.earlier) figures.push(figure(round.number, pick.earlier.task_id, `Nearest earlier pick, ${pick.earlier.distance.toFixed(2)} away`));
  $("why-pair").replaceChildren(...figures);
  $("why-words").textContent = why(pick, round);
  $("why-link").hidden = !label_studio;
  $("why-link").href = `${label_studio}?task=${pick.task_id}`;
  $("why").showModal();
}

document.addEventListener("click", (event) => {
  const pick = event.target.closest("[data-pick]");
  if (pick) explain(view().round.batch[Number(pick.dataset.pick)]);
  const button = event.target.closest("[data-action]");
  if (button) act(button);
});

showProgress(view().progress);
follow();
