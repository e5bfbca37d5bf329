// The labelling page, the organiser's page, and the page without a link. Texts reach the page as text alone: nothing here
// parses markup.

const settings = JSON.parse(document.body.dataset.settings);
const LETTERS = "ABCDEFGHI";
const OUTBOX = `easyrlhf.labels.outbox.${settings.box}.`; // a key for each label that waits to be sent
const LARGEST = 64 * 1024; // bytes of a label with its texts
const RETRY = 3000; // milliseconds until what could not be sent is sent again
const RENEW = 60000; // milliseconds after which a task that is still looked at is asked for again
const LOOK = 15000; // milliseconds after which a page without a task looks for one

// -- elements ---------------------------------------------------------------------------------------------------------

const find = (id) => document.getElementById(id);

/** An element with attributes (`on`: listeners, `text`: its text) and children, of which false ones are left out. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, listen] of Object.entries(value)) node.addEventListener(event, listen);
    else if (name === "text") node.textContent = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child || child === 0));
  return node;
}

function button(label, key, act, attributes = {}) {
  return el("button", { type: "button", on: { click: act }, ...attributes }, label, key && el("kbd", { text: key }));
}

/** Control characters made visible, as in ␀; line breaks and tabs stay. */
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, (c) =>
    c === "\u007f" ? "␡" : String.fromCharCode(0x2400 + c.charCodeAt(0)),
  );
}

const said = (text) => el("div", { class: "said", dir: "auto", text: visible(text) });

/** What a conversation or a plain text says, turn by turn. */
function turnsOf(content) {
  if (typeof content === "string") return [said(content)];
  return content.map((turn) =>
    el("div", { class: `turn ${turn.role === "user" ? "user" : "other"}` },
      el("p", { class: "who", text: { user: "User", assistant: "Assistant", system: "System" }[turn.role] ?? turn.role }),
      said(turn.content)),
  );
}

/** An answer's text; its role goes without saying. */
function answerOf(content) {
  if (typeof content === "string") return [said(content)];
  return content.length === 1 ? [said(content[0].content)] : turnsOf(content);
}

function tell(text) {
  find("status").textContent = text;
}

// -- requests ---------------------------------------------------------------------------------------------------------

/** What went wrong; `lasting` when sending the same again would not help. */
class Fault extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
    this.lasting = status >= 400 && status < 500 && ![401, 408, 421, 425, 429].includes(status);
  }
}

async function post(path, body = {}) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST", credentials: "same-origin", cache: "no-store",
      headers: { "Content-Type": "application/json", "X-Easyrlhf": "1" }, body: JSON.stringify(body),
    });
  } catch {
    throw new Fault("The server does not answer. What you did is kept in this browser and sent again by itself.");
  }
  const found = await response.json().catch(() => ({}));
  if (response.ok) return found;
  const words = found.error?.message ?? `The server failed (${response.status}).`;
  throw new Fault(response.status === 401 ? "The server does not know this browser: open your link again." : words,
    response.status);
}

let troubles = new Map(); // what is wrong now, by where

function trouble(place, text) {
  if (text) troubles.set(place, text);
  else troubles.delete(place);
  const all = [...troubles.values()].join(" ");
  find("trouble").hidden = !all;
  if (find("trouble").textContent !== all) find("trouble").textContent = all;
}

/** Run `work`, and say in words what goes wrong; with `again` it is tried again by itself where that may help. */
async function attempt(place, work, again = true) {
  try {
    const found = await work();
    trouble(place, "");
    return found;
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    trouble(place, error.message);
    if (again && !error.lasting) setTimeout(() => attempt(place, work), RETRY);
    return null;
  }
}

// -- outbox: what is said is kept here until the server has it on disk ------------------------------------------------

const kept = new Map(); // what the browser's storage did not take

function keep(entry) {
  try {
    localStorage.setItem(OUTBOX + entry.body.id, JSON.stringify(entry));
  } catch {
    kept.set(entry.body.id, entry);
  }
}

function drop(id) {
  kept.delete(id);
  try {
    localStorage.removeItem(OUTBOX + id);
  } catch {
    // a storage that is forbidden holds nothing
  }
}

function waiting() {
  const found = [...kept.values()];
  try {
    for (const key of Object.keys(localStorage)) {
      if (key.startsWith(OUTBOX)) found.push(JSON.parse(localStorage.getItem(key)));
    }
  } catch {
    // as above
  }
  return found.filter((entry) => !entry.refused).sort((a, b) => a.at - b.at);
}

/** Send all that waits, oldest first; returns what the server said of the last. Raises Fault when it cannot be reached. */
async function flush() {
  let answer = null;
  for (const entry of waiting()) {
    try {
      answer = await post(entry.path, entry.body);
    } catch (error) {
      if (!error.lasting) throw error;
      keep({ ...entry, refused: error.message });
      trouble(entry.body.id, `A label was refused: ${error.message} It stays in this browser.`);
      continue;
    }
    drop(entry.body.id);
  }
  return answer;
}

/** Keep something, send it, and go on with what the server gives next. */
async function submit(path, body) {
  keep({ path, body: { id: newId(), ...body }, at: Date.now() });
  await attempt("send", async () => show((await flush()) ?? (await post("/api/next"))));
}

function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// -- the task ---------------------------------------------------------------------------------------------------------

let task = null; // what the server gave: {item, kind, prompt, answers, choices, question}
let busy = true; // nothing can be said of it now: it is being sent, or there is none
let groups = []; // ranking: places of answers, best first, equals together
let tied = false; // the next letter joins the last ones
let flags = new Set();
let seen = 0, since = null; // milliseconds that the task was visible, and from when it is now

function show(given) {
  task = given.task ?? null;
  busy = task === null;
  [groups, tied, flags] = [[], false, new Set(given.again?.flags ?? [])];
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
    return button(label, "", () => startFrom(answer));
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
    button("Look again", "", () => attempt("next", async () => show(await post("/api/next"))), { id: "again" }),
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
  return button(el("span", { class: "label", text: choice.label }), choice.key, press, {
    class: `choice ${choice.side}`, "data-choice": choice.key,
  });
}

function choose(choice) {
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

function renew() {
  if (!busy && document.visibilityState === "visible") attempt("renew", () => post("/api/renew", { item: task.item }));
}

/** Look for a task where there was none: somebody's time with one may be over. */
function look() {
  const idle = !task && find("again") && !waiting().length;
  if (idle && document.visibilityState === "visible") attempt("next", async () => {
    const given = await post("/api/next");
    if (given.task) show(given);
  }, false);
}

// -- ranking ----------------------------------------------------------------------------------------------------------

function rankingButtons() {
  const letters = task.answers.map((_, i) =>
    button(LETTERS[i], "", () => rank(i), { class: `choice letter l${i}`, "data-rank": i, "aria-label": `${LETTERS[i]} next` }));
  return [
    ...letters,
    button("ties", "=", () => tie(), { id: "tie" }),
    button("Back", "⌫", () => unrank(), { id: "unrank" }),
    button("Done", "Enter", () => ranked(), { id: "ranked", class: "main" }),
  ];
}

function rank(place) {
  if (busy || place >= task.answers.length || groups.flat().includes(place)) return;
  if (tied && groups.length) groups.at(-1).push(place);
  else groups.push([place]);
  tied = false;
  drawOrder();
}

function tie() {
  if (busy) return;
  tied = groups.length > 0 && groups.flat().length < task.answers.length && !tied;
  drawOrder();
}

function unrank() {
  if (busy) return;
  if (tied) tied = false;
  else {
    groups.at(-1)?.pop();
    groups = groups.filter((equals) => equals.length);
  }
  drawOrder();
}

function ranked() {
  if (busy) return;
  const lacking = task.answers.map((_, i) => i).filter((i) => !groups.flat().includes(i));
  if (lacking.length) tell(`Not ranked yet: ${lacking.map((i) => LETTERS[i]).join(", ")}.`);
  else give(groups);
}

function drawOrder() {
  const text = groups.map((equals) => equals.map((i) => LETTERS[i]).join(" = ")).join(" > ") + (tied ? " = …" : "");
  find("order").textContent = task?.kind === "ranking" ? text : "";
  if (task?.kind !== "ranking") return;
  task.answers.forEach((_, i) => {
    const before = groups.findIndex((equals) => equals.includes(i));
    const place = before < 0 ? 0 : 1 + groups.slice(0, before).flat().length;
    find(`place-${i}`).textContent = place ? `${place}.` : "";
    find("scale").querySelector(`[data-rank="${i}"]`).disabled = place > 0;
  });
  find("tie").setAttribute("aria-pressed", tied);
  find("ranked").disabled = groups.flat().length < task.answers.length;
}

// -- flags, note, better answer, skip, undo ---------------------------------------------------------------------------

function drawFlags() {
  find("flags").replaceChildren(...settings.flags.map((flag) =>
    button(flag.label, keyShown(flag.key), () => toggle(flag.name), {
      class: "flag", "data-flag": flag.name, "aria-pressed": String(flags.has(flag.name)),
    })));
}

function toggle(name) {
  if (busy) return;
  if (!flags.delete(name)) flags.add(name);
  find("flags").querySelector(`[data-flag="${CSS.escape(name)}"]`).setAttribute("aria-pressed", flags.has(name));
}

function openNote() {
  if (busy) return;
  find("note-box").hidden = false;
  find("note").focus();
}

function openEditor() {
  if (busy) return;
  find("editor").hidden = false;
  find("better").focus();
}

function startFrom(answer) {
  find("better").value = typeof answer === "string" ? answer : answer.at(-1).content;
  find("better").focus();
}

function openSkip() {
  if (!busy && task.kind !== "chat") find("skip").showModal(); // a turn of a conversation has no other taker
}

function skip(reason) {
  find("skip").close();
  if (busy) return;
  busy = true;
  submit("/api/skip", { item: task.item, reason });
}

async function undo() {
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

async function say(text) {
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

async function newTalk() {
  if (sending) return;
  const given = await attempt("say", () => post("/api/new_conversation"), false);
  if (given) show(given);
}

// -- keys -------------------------------------------------------------------------------------------------------------

const ACTS = { u: undo, s: openSkip, n: openNote, e: openEditor, g: () => open("guidelines"), "?": () => open("help"),
  t: settings.chat && newTalk };

function open(id) {
  find(id).showModal();
}

/** Whether a letter names an answer now, so that what it does otherwise needs Shift. */
const taken = (key) => task?.kind === "ranking" && LETTERS.slice(0, task.answers.length).includes(key.toUpperCase());
const keyShown = (key) => (taken(key) ? `⇧${key.toUpperCase()}` : key);
const typing = (node) => node?.matches?.("input, textarea, select");

/** Print on each button the key that presses it now. */
function drawKeys() {
  for (const node of document.querySelectorAll("[data-key]")) node.querySelector("kbd").textContent = keyShown(node.dataset.key);
  const rows = task?.kind === "ranking"
    ? [["A, B…", "the next best answer"], ["=", "the next letter ties with the last"], ["Backspace", "take the last letter back"],
      ["Enter", "done"]]
    : task ? task.choices.map((choice) => [choice.key, choice.label]) : [];
  const more = [["u", "take the last label back"], ["s", "skip"], ["n", "note"], ["e", "write a better answer"],
    ...settings.flags.map((flag) => [flag.key, `flag: ${flag.label}`]), ["g", "guidelines"], ["?", "this help"],
    ...(settings.chat ? [["t", "new conversation"]] : [])];
  const all = [...rows, ...more.map(([key, does]) => [keyShown(key), does])];
  find("key-list").replaceChildren(...all.flatMap(([key, does]) => [el("dt", {}, el("kbd", { text: key })), el("dd", { text: does })]));
}

function onKey(event) {
  if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (find("skip").open) return onReason(event);
  if (document.querySelector("dialog[open]")) return;
  if (typing(event.target)) return onTyping(event);
  if (event.repeat) {
    if (event.target.closest("button")) event.preventDefault(); // which would be pressed again and again
    return; // a held key counts once
  }
  const act = actOf(event);
  if (!act) return;
  event.preventDefault();
  act();
}

/** What a key does now; null where it does nothing, or where the browser has its own use for it. */
function actOf(event) {
  const key = keyOf(event);
  if (task?.kind === "ranking" && !busy) {
    if (!event.shiftKey && taken(key) && key.length === 1) return () => rank(LETTERS.indexOf(key.toUpperCase()));
    if (key === "Enter" && event.target.closest("button")) return null; // which presses that button
    const act = { "=": tie, Backspace: unrank, Enter: ranked }[key];
    if (act) return act;
  }
  const digit = event.shiftKey ? null : /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1]; // whatever the keyboard's layout
  const choice = task?.choices.find((one) => one.key === key || one.key === digit);
  if (choice) return () => choose(choice);
  const flag = settings.flags.find((one) => one.key === key);
  if (flag) return () => toggle(flag.name);
  return ACTS[key] || null;
}

/** A key by its letter; by its place where the keyboard writes other letters than Latin ones. */
function keyOf(event) {
  if (event.key.length > 1) return event.key;
  const place = event.key > "\u007f" && /^Key([A-Z])$/.exec(event.code)?.[1];
  return (place || event.key).toLowerCase();
}

/** Keys inside a text box write; Esc leaves it. */
function onTyping(event) {
  if (event.key === "Escape") {
    if (event.target.id === "note") find("note-box").hidden = !find("note").value;
    if (event.target.id === "better") find("editor").hidden = !find("better").value;
    event.target.blur();
    find("work").focus({ preventScroll: true });
  } else if (event.target.id === "message" && event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    if (!event.repeat) say(event.target.value);
  }
}

function onReason(event) {
  const reason = settings.reasons[Number(event.key) - 1];
  if (!reason || event.repeat) return;
  event.preventDefault();
  skip(reason);
}

// -- organiser --------------------------------------------------------------------------------------------------------

/** The organiser's page: tables of what the server counts, and tasks to decide. */
async function organise() {
  const found = await attempt("organiser", () => post("/api/overview"));
  if (!found) return;
  const parked = found.parked ? ` · ${found.parked.toLocaleString("en")} skipped by three` : "";
  find("progress").replaceChildren(
    el("b", { text: found.given.toLocaleString("en") }), ` of ${found.wanted.toLocaleString("en")} labels${parked}`);
  find("people").replaceChildren(table(found.people));
  find("agree").replaceChildren(
    el("p", { class: "said-first", text: found.agree.lead }),
    el("ul", { class: "said-by" }, ...found.agree.remarks.map((text) => el("li", { text }))),
    ...found.agree.tables.map((one) => el("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": one.head[0] }, table(one))),
  );
  const cards = found.disputes.map(dispute);
  find("disputes").replaceChildren(...(cards.length ? cards : [el("p", { class: "muted", text: "Nothing to decide." })]));
}

/** A table; columns of numbers stand to the right. */
function table({ head, rows, caption }) {
  const numbers = head.map((_, i) => rows.length && rows.every((row) => /^([\d–+.-]|$)/.test(row[i])));
  const cell = (tag) => (text, i) => el(tag, { text, class: numbers[i] ? "number" : null, scope: tag === "th" ? "col" : null });
  return el("table", {}, caption && el("caption", { text: caption }), el("thead", {}, el("tr", {}, ...head.map(cell("th")))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell("td"))))));
}

function dispute(one) {
  const decided = el("p", { class: "decided", role: "status", text: one.decision ?? "" });
  const send = async (path, body) => {
    const found = await attempt("organiser", () => post(path, body));
    if (found) decided.textContent = found.words;
  };
  const decide = (value) => send("/api/decide", { id: newId(), item: one.item, value, scale: one.scale });
  return el("article", { class: "dispute", "aria-label": `Task ${one.item}` },
    el("p", { class: "why" }, el("b", { text: `Task ${one.item}` }), ` ${one.why}`),
    el("details", {}, el("summary", { text: "Conversation" }), ...turnsOf(typeof one.prompt === "string"
      ? [{ role: "user", content: one.prompt }] : one.prompt)),
    el("div", { class: `answers n${one.answers.length}` }, ...one.answers.map((answer, i) =>
      el("div", { class: `answer l${i}` }, el("h3", {}, el("span", { class: "badge", text: LETTERS[i] })), ...answerOf(answer)))),
    el("ul", { class: "said-by" }, ...one.labels.map((text) => el("li", { text }))),
    el("div", { class: "row" }, ...one.choices.map((choice) => button(choice.label, "", () => decide(choice.value))),
      one.parked && button("Back to the queue", "", () => send("/api/unpark", { item: one.item }))),
    decided);
}

// -- the beginning ----------------------------------------------------------------------------------------------------

function prepare() {
  const click = (id, act) => find(id)?.addEventListener("click", act);
  click("undo", undo);
  click("open-note", openNote);
  click("open-editor", openEditor);
  click("open-skip", openSkip);
  click("open-new", newTalk);
  click("open-guidelines", () => open("guidelines"));
  click("open-help", () => open("help"));
  for (const node of document.querySelectorAll("dialog .close")) node.addEventListener("click", () => node.closest("dialog").close());
  find("reasons").replaceChildren(...settings.reasons.map((reason, i) => button(reason, String(i + 1), () => skip(reason))));
  find("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    say(find("message").value);
  });
  document.addEventListener("keydown", onKey);
  addEventListener("beforeunload", (event) => kept.size && event.preventDefault());
  setInterval(renew, RENEW);
  setInterval(look, LOOK);
  drawKeys();
}

async function begin() {
  if (document.body.dataset.page === "organiser") {
    find("reload").addEventListener("click", organise);
    document.addEventListener("keydown", (event) => event.key === "r" && !event.repeat && !event.ctrlKey && !event.metaKey && organise());
    return organise();
  }
  if (document.body.dataset.page === "gate") {
    // A browser that comes from another site's link sends its cookie from here on only.
    if ((await fetch("/api/me", { credentials: "same-origin" }).catch(() => null))?.ok) location.replace("/");
    return;
  }
  prepare();
  await attempt("next", async () => show((await flush()) ?? (await post("/api/next"))));
}

begin();
