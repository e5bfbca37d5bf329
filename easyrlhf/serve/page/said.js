// What was said, as text alone, its thoughts folded.

import { el, visible } from "./dom.js";
import { running, thoughtsOf } from "./talk.js";

const unfolded = new Set(); // keys of the folds that are open

export const said = (text) => el("div", { class: "said", dir: "auto", text: visible(text) });

/** Something folded that stays open when the page is drawn anew. */
export function fold(key, look, label, inside) {
  const open = unfolded.has(key);
  const toggle = () => unfolded[node.open ? "add" : "delete"](key);
  const node = el(
    "details",
    { class: look, open, on: { toggle } },
    el("summary", { text: label, "data-key": key }),
    inside,
  );
  return node;
}

/** The text of an answer, its thoughts folded. */
export function fill(body, answer) {
  const { thoughts, rest } = thoughtsOf(answer.text);
  let [folded, text] = [body.querySelector(":scope > details"), body.querySelector(":scope > .said")];
  if (!text) body.append((text = said("")));
  if (thoughts !== null && !folded) {
    folded = fold(`thoughts-${answer.id}`, "thoughts", "Thoughts", said(""));
    body.prepend(folded);
  }
  if (folded) folded.querySelector(".said").textContent = visible(thoughts ?? "");
  const nothing = !answer.text && !running(answer) && answer.state !== "failed";
  text.textContent = nothing ? "(nothing)" : visible(rest);
  text.classList.toggle("nothing", nothing);
  body.classList.toggle("writing", running(answer));
}
