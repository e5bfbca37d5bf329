// The task on the page: what is shown of it, and what can be said of it.

import { el, find } from "./dom.js";
import { drawKeys, keyShown, typing } from "./keys.js";
import { flush, keep, newId, settings, waiting } from "./outbox.js";
import { Ranking } from "./ranking.js";
import { Fault, attempt, post } from "./server.js";
import { LETTERS, answerOf, keyButton, tell, turnsOf } from "./texts.js";

const LARGEST = 64 * 1024; // bytes of a label with its texts

export let task = null; // what the server gave: {item, kind, prompt, answers, choices, question}
export let busy = true; // nothing can be said of it now: it is being sent, or there is none
let ranking = new Ranking(0); // as far as it has come
let flags = new Set();
let seen = 0, since = null; // milliseconds that the task was visible, and from when it is now

export function show(given) {
  task = given.task ?? null;
  busy = task === null;
  [ranking, flags] = [new Ranking(task?.answers.length ?? 0), new Set(given.again?.flags ?? [])];
  [seen, since] = [0, document.visibilityState === "visible" ? performance.now() : null];
  find("note").value = given.again?.note ?? "";
  find("better").value = given.again?.edit ?? "";
  find("note-box").hidden = !find("note").value;
  find("editor").hidden = !find("better").value;
  drawProgress(given.progress);
  draw(given);
  tell([given.words ?? (given.status && "Stored."), given.revealed && revealed(given.revealed)].filter(Boolean).join(" "));
  if (!typing(document.activeElement)) find("work").focus({ preventScroll: true });
  scrollTo(0, 0);
  if (given.composing) find("message").focus();
}

function revealed(answers) {
  const names = answers.map((one, i) => `${LETTERS[i]}: ${one}`);
  return `Before: ${names.join(" · ")}`;
}

function drawProgress(progress) {
  if (!progress) return;
  const many = progress.left > 1000 ? "over 1,000" : progress.left; // it counts no further
  const left = progress.left === null ? "" : ` · ${many} left`;
  find("progress").replaceChildren(el("b", { text: progress.done.toLocaleString("en") }), ` labelled${left}`);
}

function draw(given) {
  find("dock").hidden = !task;
  find("answers").className = `answers n${task?.answers.length ?? 0}`;
  find("composer").hidden = !given.composing;
  if (!task) return drawNothing(given);
  find("prompt").replaceChildren(...(typeof task.prompt === "string" ? turnsOf([{ role: "user", content: task.prompt }])
    : turnsOf(task.prompt)));
  find("answers").replaceChildren(...task.answers.map(card));
  find("question").textContent = task.question;
  drawScale();
  const starts = task.answers.map((answer, i) => {
    const label = task.answers.length > 1 ? `Start from ${LETTERS[i]}` : "Start from the answer";
    return keyButton(label, "", () => startFrom(answer));
  });
  find("editor-starts").replaceChildren(...starts);
  find("open-skip").hidden = task.kind === "chat";
  drawFlags();
  drawKeys();
  drawOrder();
}

function drawNothing(given) {
  drawKeys();
  find("answers").replaceChildren();
  if (given.composing) {
    find("prompt").replaceChildren(...turnsOf(given.talk));
    if (!given.talk.length) find("prompt").append(el("p", { class: "lead", text: "Say something." }));
    return;
  }
  find("prompt").replaceChildren(
    el("p", { class: "lead", text: given.title ?? "Nothing is left for you to label." }),
    el("p", { class: "muted", text: given.advice ?? "Thank you. You can close this page, or look again later." }),
    keyButton("Look again", "", () => attempt("next", async () => show(await post("/api/next"))), { id: "again" }),
  );
}

/** The buttons; those of the task before stay where they are the same. */
function drawScale() {
  const buttons = JSON.stringify([task.kind, task.answers.length, task.choices]);
  if (buttons === drawn) return;
  drawn = buttons;
  find("scale").className = `scale k${task.choices.length}`;
  find("scale").replaceChildren(...(task.kind === "ranking" ? rankingButtons() : task.choices.map(choiceButton)));
}

let drawn = ""; // the buttons that are there

function card(answer, i) {
  const alone = task.answers.length === 1;
  return el("article", { class: `answer l${i}`, "aria-label": alone ? "Answer" : `Answer ${LETTERS[i]}` },
    el("h2", {}, el("span", { class: "badge", text: alone ? "✎" : LETTERS[i], hidden: alone }), alone ? "Answer" : "",
      el("span", { class: "place", id: `place-${i}` })),
    ...answerOf(answer));
}

function choiceButton(choice) {
  const press = (event) => event.detail > 1 || choose(choice); // the second click of two is not for the next task
  return keyButton(el("span", { class: "label", text: choice.label }), choice.key, press, {
    class: `choice ${choice.side}`, "data-choice": choice.key,
  });
}

export function choose(choice) {
  if (!busy) give(choice.value);
}

function give(value) {
  const body = {
    item: task.item, value, scale: task.scale, flags: [...flags], note: find("note").value.trim(),
    edit: find("better").value.trim(), seconds: looked(),
  };
  const bytes = new TextEncoder().encode(JSON.stringify(body)).length + 100; // its id
  if (bytes > LARGEST) return tell(`Note and better answer are too long together by ${(bytes - LARGEST).toLocaleString("en")} bytes.`);
  busy = true;
  tell("Storing…");
  submit("/api/label", body);
}

/** Keep something, send it, and go on with what the server gives next. */
async function submit(path, body) {
  keep({ path, body: { id: newId(), ...body }, at: Date.now() });
  await attempt("send", async () => show((await flush()) ?? (await post("/api/next"))));
}

function looked() {
  const now = since === null ? 0 : performance.now() - since;
  return Math.round(seen + now) / 1000;
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") since ??= performance.now();
  else if (since !== null) {
    seen += performance.now() - since;
    since = null;
  }
});

export function renew() {
  if (!busy && document.visibilityState === "visible") attempt("renew", () => post("/api/renew", { item: task.item }));
}

/** Look for a task where there was none: somebody's time with one may be over. */
export function look() {
  const idle = !task && find("again") && !waiting().length;
  if (idle && document.visibilityState === "visible") attempt("next", async () => {
    const given = await post("/api/next");
    if (given.task) show(given);
  }, false);
}

// -- ranking ----------------------------------------------------------------------------------------------------------

function rankingButtons() {
  const letters = task.answers.map((_, i) =>
    keyButton(LETTERS[i], "", () => rank(i), { class: `choice letter l${i}`, "data-rank": i, "aria-label": `${LETTERS[i]} next` }));
  return [
    ...letters,
    keyButton("ties", "=", () => tie(), { id: "tie" }),
    keyButton("Back", "⌫", () => unrank(), { id: "unrank" }),
    keyButton("Done", "Enter", () => ranked(), { id: "ranked", class: "main" }),
  ];
}

const changing = (change) => (...words) => {
  if (busy) return;
  change(...words);
  drawOrder();
};
export const rank = changing((place) => ranking.add(place));
export const tie = changing(() => ranking.tie());
export const unrank = changing(() => ranking.back());

export function ranked() {
  if (busy) return;
  if (ranking.lacking.length) tell(`Not ranked yet: ${ranking.lacking.map((i) => LETTERS[i]).join(", ")}.`);
  else give(ranking.groups);
}

function drawOrder() {
  find("order").textContent = ranking.text;
  if (task.kind !== "ranking") return;
  task.answers.forEach((_, i) => {
    find(`place-${i}`).textContent = ranking.rankOf(i) ? `${ranking.rankOf(i)}.` : "";
    find("scale").querySelector(`[data-rank="${i}"]`).disabled = ranking.rankOf(i) > 0;
  });
  find("tie").setAttribute("aria-pressed", ranking.tied);
  find("ranked").disabled = ranking.lacking.length > 0;
}

// -- flags, note, better answer, skip, undo ---------------------------------------------------------------------------

function drawFlags() {
  find("flags").replaceChildren(...settings.flags.map((flag) =>
    keyButton(flag.label, keyShown(flag.key), () => toggle(flag.name), {
      class: "flag", "data-flag": flag.name, "aria-pressed": String(flags.has(flag.name)),
    })));
}

export function toggle(name) {
  if (busy) return;
  if (!flags.delete(name)) flags.add(name);
  find("flags").querySelector(`[data-flag="${CSS.escape(name)}"]`).setAttribute("aria-pressed", flags.has(name));
}

export function openNote() {
  if (busy) return;
  find("note-box").hidden = false;
  find("note").focus();
}

export function openEditor() {
  if (busy) return;
  find("editor").hidden = false;
  find("better").focus();
}

function startFrom(answer) {
  find("better").value = typeof answer === "string" ? answer : answer.at(-1).content;
  find("better").focus();
}

export function openSkip() {
  if (!busy && task.kind !== "chat") find("skip").showModal(); // a turn of a conversation has no other taker
}

export function skip(reason) {
  find("skip").close();
  if (busy) return;
  busy = true;
  submit("/api/skip", { item: task.item, reason });
}

export async function undo() {
  if (sending || waiting().length) return tell("A label is still on its way; undo it when it has arrived.");
  sending = true;
  try {
    const given = await post("/api/undo");
    show(given);
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    tell(error.message);
  } finally {
    sending = false;
  }
}

let sending = false; // an undo or a message is on its way

// -- live conversation ------------------------------------------------------------------------------------------------

export async function say(text) {
  if (sending || !text.trim()) return;
  sending = true;
  find("send").disabled = true;
  find("writing").hidden = false;
  tell("Two answers are being written…");
  const given = await attempt("say", () => post("/api/say", { text }), false);
  sending = find("send").disabled = false;
  find("writing").hidden = true;
  if (!given) return tell("");
  find("message").value = "";
  show(given);
}

export async function newTalk() {
  if (sending) return;
  const given = await attempt("say", () => post("/api/new_conversation"), false);
  if (given) show(given);
}
