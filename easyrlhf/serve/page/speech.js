// Answers for those who hear the page: one answer sentence by sentence as it is written, two one after the other.

import { el, find, visible } from "./dom.js";
import { LETTERS, shownOf, thoughtsOf } from "./talk.js";

const spoken = new WeakMap(); // answer -> how many characters of it were said

/** Forget what was said before a new round. */
export const hush = () => find("spoken").replaceChildren();

/** Say what is new of a single answer, up to the end of its last sentence; all of it at its end. */
export function speak(turn, answer, ended) {
  if (turn.sides.length > 1 && !ended) return;
  const text = thoughtsOf(answer.text).rest;
  const from = Math.min(spoken.get(answer) ?? 0, text.length);
  const until = ended ? text.length : from + (text.slice(from).match(/^[\s\S]*[.!?…:\n](?=\s)/)?.[0].length ?? 0);
  if (until <= from) return;
  spoken.set(answer, until);
  const side = turn.sides.findIndex((one) => shownOf(one) === answer);
  const name = turn.sides.length > 1 ? `Answer ${LETTERS[side]}: ` : "";
  find("spoken").append(el("p", { text: name + visible(text.slice(from, until)) }));
}
