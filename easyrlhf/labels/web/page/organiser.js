// The organiser's page: tables of what the server counts, and tasks to decide.

import { el, find } from "./dom.js";
import { newId } from "./outbox.js";
import { Ranking } from "./ranking.js";
import { attempt, post } from "./server.js";
import { LETTERS, answerOf, keyButton, turnsOf } from "./texts.js";

export function organise() {
  find("reload").addEventListener("click", look);
  document.addEventListener("keydown", (event) => event.key === "r" && !event.repeat && !event.ctrlKey && !event.metaKey && look());
  return look();
}

async function look() {
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
  const decided = el("p", { class: "decided", role: "status" });
  const send = async (path, body) => {
    const found = await attempt("organiser", () => post(path, body));
    if (found) decided.textContent = found.words;
  };
  const decide = (value) => send("/api/decide", { id: newId(), item: one.item, value, scale: one.scale });
  const badge = (i) => one.answers.length > 1 && el("h3", {}, el("span", { class: "badge", text: LETTERS[i] }));
  return el("article", { class: "dispute", "aria-label": `Task ${one.item}` },
    el("p", { class: "why" }, el("b", { text: `Task ${one.item}` }), ` ${one.why}`),
    el("details", {}, el("summary", { text: "Conversation" }), ...turnsOf(typeof one.prompt === "string"
      ? [{ role: "user", content: one.prompt }] : one.prompt)),
    el("div", { class: `answers n${one.answers.length}` }, ...one.answers.map((answer, i) =>
      el("div", { class: `answer l${i}` }, badge(i), ...answerOf(answer)))),
    el("ul", { class: "said-by" }, ...one.labels.map((text) => el("li", { text }))),
    el("p", { class: "muted", text: one.question }),
    el("div", { class: "row" }, ...(one.kind === "ranking" ? ordering(one.answers.length, decide)
      : one.choices.map((choice) => keyButton(choice.label, "", () => decide(choice.value)))),
      one.parked && keyButton("Back to the queue", "", () => send("/api/unpark", { item: one.item }))),
    decided);
}

/** Buttons by which answers are put in order, the best first, and the order so far. */
function ordering(count, decide) {
  const ranking = new Ranking(count);
  const letters = [...Array(count).keys()].map((place) =>
    keyButton(LETTERS[place], "", () => change(() => ranking.add(place)), { "aria-label": `${LETTERS[place]} next` }));
  const ties = keyButton("ties", "", () => change(() => ranking.tie()));
  const back = keyButton("Back", "", () => change(() => ranking.back()));
  const done = keyButton("Decide", "", () => decide(ranking.groups), { class: "main" });
  const order = el("span", { class: "order", "aria-live": "polite" });
  const change = (step) => {
    step();
    letters.forEach((letter, place) => { letter.disabled = !ranking.lacking.includes(place); });
    ties.setAttribute("aria-pressed", ranking.tied);
    done.disabled = ranking.lacking.length > 0;
    order.textContent = ranking.text;
  };
  change(() => {});
  return [...letters, ties, back, done, order];
}
