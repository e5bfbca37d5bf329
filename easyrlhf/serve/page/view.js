// The conversation on the page. Structure is drawn anew when it changes; while an answer is written only its text is.

import { button, el, find, keepingFocus } from "./dom.js";
import { fill, fold, said } from "./said.js";
import { LETTERS, hidden, last, running, shownOf, winnerOf } from "./talk.js";

const NEAR = 120; // pixels from the end within which the page follows what is written
const ENDS = {
  cut: "cut off at the longest answer",
  stopped: "stopped",
  broken: "broke off",
  edited: "edited by you",
  waiting: "waiting…",
  streaming: "writing…",
};
const bodies = new Map(); // answer id -> the element that holds its text

export function drawLog(app, actions) {
  const follow = atTheEnd();
  bodies.clear();
  const turns = app.talk.turns.map((turn) =>
    turn.role === "user" ? userTurn(app, turn, actions) : round(app, turn, actions),
  );
  const system = app.talk.system.trim() && app.talk.turns.length ? systemTurn(app, actions) : null;
  keepingFocus(() =>
    find("log").replaceChildren(...(turns.length ? [system, ...turns].filter(Boolean) : [greeting(app)])),
  );
  if (follow) toTheEnd();
}

/** Show what an answer says by now. */
export function drawText(answer) {
  const follow = atTheEnd();
  const body = bodies.get(answer.id);
  if (body) fill(body, answer);
  if (follow) toTheEnd();
}

function atTheEnd() {
  const page = document.scrollingElement;
  return page.scrollHeight - page.scrollTop - page.clientHeight < NEAR;
}

export function toTheEnd() {
  document.scrollingElement.scrollTop = document.scrollingElement.scrollHeight;
}

function greeting(app) {
  const [first, second] = app.models;
  const models = second ? `${first} and ${second}` : first;
  const tips = [
    second
      ? "Every message gets two answers: say which is better, and the choice becomes a row for training."
      : "Choose a second model above, or the same one twice, to compare two answers to every message.",
    app.about.reward_model ? `The reward model ${app.about.reward_model} scores every answer.` : null,
    "Any turn can be edited later, yours and the model's. Rows holds what you have chosen, ready to download.",
  ];
  return el(
    "div",
    { class: "greeting" },
    el("p", { class: "over", text: second ? "Two models" : "One model" }),
    el("p", { class: "lead", text: `Say something to ${models}.` }),
    el("ul", {}, ...tips.filter(Boolean).map((text) => el("li", { text }))),
  );
}

/** The path that a model was given by. */
const titleOf = (app, id) => app.about.models.find((model) => model.id === id)?.title ?? id;

function systemTurn(app, actions) {
  return el(
    "article",
    { class: "turn system", "aria-label": "System text" },
    el("h2", { class: "who", text: "System" }),
    said(app.talk.system),
    el(
      "div",
      { class: "tools" },
      button("Edit", "edit-system", actions.openSystem, { "aria-label": "Edit the system text" }),
    ),
  );
}

function userTurn(app, turn, actions) {
  const inside =
    app.editing?.id === turn.id
      ? [editor(app, actions, "Your message", [["Send again", () => actions.finishEdit()]])]
      : [
          said(turn.text),
          el(
            "div",
            { class: "tools" },
            button("Edit", `edit-${turn.id}`, () => actions.edit(turn), { "aria-label": "Edit your message" }),
          ),
        ];
  return el("article", { class: "turn user", "aria-label": "You" }, el("h2", { class: "who", text: "You" }), ...inside);
}

function round(app, turn, actions) {
  const two = turn.sides.length === 2;
  if (!two || !turn.verdict) {
    const cards = turn.sides.map((side, i) => card(app, turn, i, actions));
    return el(
      "article",
      {
        class: two ? "turn assistant open" : "turn assistant",
        "aria-label": two ? "Two answers" : "Answer",
        id: `turn-${turn.id}`,
        tabindex: -1,
      },
      el("div", { class: two ? "answers two" : "answers" }, ...cards),
    );
  }
  const winner = winnerOf(turn);
  const other = fold(
    `other-${turn.id}`,
    "other",
    `The other answer, ${LETTERS[1 - winner]}`,
    card(app, turn, 1 - winner, actions),
  );
  return el(
    "article",
    { class: "turn assistant", "aria-label": "Answer", id: `turn-${turn.id}`, tabindex: -1 },
    el("div", { class: "answers" }, card(app, turn, winner, actions)),
    el(
      "p",
      { class: "verdict-note" },
      el("b", { text: turn.verdict.tie ? "Tie" : `${LETTERS[winner]} preferred` }),
      ` ${turn.verdict.note}`,
    ),
    other,
  );
}

function card(app, turn, i, actions) {
  const side = turn.sides[i];
  const answer = shownOf(side);
  const two = turn.sides.length === 2;
  const inHistory = !two || (turn.verdict && winnerOf(turn) === i);
  const label = two ? `Answer ${LETTERS[i]}` : "Answer";
  const body = el("div", { class: "body" });
  bodies.set(answer.id, body);
  fill(body, answer);
  const editing = inHistory && app.editing?.id === turn.id;
  return el(
    "div",
    { role: "group", class: `answer ${two ? LETTERS[i].toLowerCase() : ""}`, "aria-label": label },
    head(app, turn, i),
    editing
      ? editor(app, actions, label, [
          ["Keep", () => actions.finishEdit()],
          ["Keep, and go on writing", () => actions.finishEdit(true)],
        ])
      : body,
    answer.fault && faultOf(answer.fault, () => actions.retry(turn, i), `retry-${answer.id}`),
    el("div", { class: "foot" }, marks(turn, i), !editing && tools(app, turn, i, inHistory, actions)),
  );
}

function head(app, turn, i) {
  const side = turn.sides[i];
  const { seed, model } = shownOf(side);
  const name = hidden(turn)
    ? { class: "name", text: "hidden until you choose" }
    : { class: "name", text: model, title: titleOf(app, model) };
  return el(
    "h2",
    { class: "who" },
    turn.sides.length === 2 && el("span", { class: "badge", text: LETTERS[i] }),
    el("span", name),
    !hidden(turn) && seed !== null && el("span", { class: "seed", text: `seed ${seed}` }),
  );
}

function marks(turn, i) {
  const answer = shownOf(turn.sides[i]);
  const parts = [ENDS[answer.state]].filter(Boolean).map((text) => el("span", { class: "state", text }));
  const { reward } = answer;
  if (reward && !hidden(turn)) {
    if (reward.asking) parts.push(el("span", { class: "reward", text: "reward …" }));
    else if (Number.isFinite(reward.score))
      parts.push(el("span", { class: "reward" }, "reward ", el("b", { text: signed(reward.score) })), higher(turn, i));
    else parts.push(el("span", { class: "reward", text: `no reward: ${reward.note ?? "the reward model gave none"}` }));
  }
  return el("p", { class: "marks" }, ...parts.filter(Boolean).flatMap((part) => [part, " "]));
}

/** By how much this side's reward is the higher one. */
function higher(turn, i) {
  if (turn.sides.length < 2) return null;
  const [mine, other] = [i, 1 - i].map((k) => shownOf(turn.sides[k]).reward?.score);
  if (!Number.isFinite(other) || mine < other) return null;
  if (mine === other) return el("span", { text: "both equal" });
  return el("span", { class: "higher", text: `▲ higher by ${(mine - other).toFixed(3)}` });
}

export const signed = (number) => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(3);

function tools(app, turn, i, inHistory, actions) {
  const side = turn.sides[i];
  const answer = shownOf(side);
  const suffix = turn.sides.length === 2 ? ` ${LETTERS[i]}` : "";
  const key = `${turn.id}-${i}`;
  const open = turn === last(app.talk) && !turn.verdict && !running(answer);
  const again = open && answer.state !== "failed"; // beside a fault it is called Try again
  const unfinished =
    ["cut", "stopped", "broken", "edited"].includes(answer.state) &&
    answer.text &&
    turn === last(app.talk) &&
    (inHistory || open);
  return el(
    "div",
    { class: "tools" },
    open && side.variants.length > 1 && pager(turn, i, actions),
    again &&
      button("Again", `again-${key}`, () => actions.regenerate(turn, i), {
        "aria-label": `Draw the answer${suffix} again, with a new seed`,
      }),
    unfinished &&
      button("Go on", `go-on-${key}`, () => actions.goOn(turn, i), { "aria-label": `Let the answer${suffix} go on` }),
    inHistory &&
      !running(answer) &&
      button("Edit", `edit-${turn.id}`, () => actions.edit(turn), { "aria-label": `Edit the answer${suffix}` }),
  );
}

function pager(turn, i, actions) {
  const { shown, variants } = turn.sides[i];
  const go = (by, text, label) =>
    button(text, `page${by}-${turn.id}-${i}`, () => actions.page(turn, i, by), {
      "aria-label": label,
      disabled: !variants[shown + by],
    });
  return el(
    "span",
    { class: "pager", role: "group", "aria-label": "Variants" },
    go(-1, "‹", "Earlier variant"),
    el("span", { text: `${shown + 1}/${variants.length}` }),
    go(1, "›", "Later variant"),
  );
}

function editor(app, actions, label, ways) {
  const area = el("textarea", {
    dir: "auto",
    "aria-label": label,
    "data-key": "editor",
    rows: 3,
    on: {
      input: () => actions.typeEdit(area.value),
      keydown: (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) actions.finishEdit();
        else if (event.key === "Escape") actions.cancelEdit();
        else return;
        event.preventDefault();
        event.stopPropagation();
      },
    },
  });
  area.value = app.editing.text;
  return el(
    "div",
    { class: "editor" },
    area,
    el(
      "div",
      { class: "row" },
      ...ways.map(([text, act], i) => button(text, `edit-${i}`, act, i ? {} : { class: "main" })),
      button("Cancel", "edit-cancel", actions.cancelEdit),
      el("small", { text: "What comes after this turn goes; Undo brings it back." }),
    ),
  );
}

/** A fault in words, with a way to try again. */
export function faultOf(fault, retry, key) {
  return el(
    "div",
    { class: "fault" },
    el("p", {}, el("b", { text: fault.title }), ` ${fault.advice}`),
    retry && button("Try again", key, retry),
  );
}
