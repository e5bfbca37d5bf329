// The foot of the page: the choice between two answers, and the box for a message.

import { find } from "./dom.js";
import { LETTERS, isRunning, last, noComparison, shownOf, undecided } from "./talk.js";

/** The part at the foot of the page: the choice between two answers, or the box for a message. */
export function drawDock(app) {
  const turn = last(app.talk);
  const asks = undecided(turn);
  const writing = Boolean(turn && isRunning(turn));
  find("verdict").hidden = !asks;
  find("stop").hidden = !writing;
  find("send").hidden = writing;
  if (!asks) return;
  const answers = turn.sides.map(shownOf);
  const without = writing ? null : noComparison(...answers);
  const none = !writing && answers.every((answer) => !answer.text.trim());
  const why = none ? "No answer came: try again, or edit your message." : `No comparison: ${without}.`;
  find("question").textContent = without ? why : "Which answer is better?";
  answers.forEach((answer, i) => {
    const choice = find(`better-${i}`);
    choice.disabled = writing || !answer.text.trim();
    choice.firstChild.textContent = without ? `Go on with ${LETTERS[i]}` : `${LETTERS[i]} is better`;
  });
  find("tie").disabled = writing || Boolean(without);
}
