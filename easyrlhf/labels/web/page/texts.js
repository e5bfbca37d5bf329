// What is said, as elements: texts of items and answers, and buttons with their keys.

import { el, find, visible } from "./dom.js";

export const LETTERS = "ABCDEFGHI"; // of the answers to one prompt

/** A button on which the key stands that presses it. */
export function keyButton(label, key, act, attributes = {}) {
  return el("button", { type: "button", on: { click: act }, ...attributes }, label, key && el("kbd", { text: key }));
}

const said = (text) => el("div", { class: "said", dir: "auto", text: visible(text) });

/** What a conversation or a plain text says, turn by turn. */
export function turnsOf(content) {
  if (typeof content === "string") return [said(content)];
  return content.map((turn) =>
    el("div", { class: `turn ${turn.role === "user" ? "user" : "other"}` },
      el("p", { class: "who", text: { user: "User", assistant: "Assistant", system: "System" }[turn.role] ?? turn.role }),
      said(turn.content)),
  );
}

/** An answer's text; its role goes without saying. */
export function answerOf(content) {
  if (typeof content === "string") return [said(content)];
  return content.length === 1 ? [said(content[0].content)] : turnsOf(content);
}

export function tell(text) {
  find("status").textContent = text;
}
