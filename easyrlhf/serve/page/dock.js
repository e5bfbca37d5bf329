// The foot of the page: the choice between two answers, and the box for a message.

import { find } from "./dom.js";
import { isRunning, last, noComparison, shownOf, undecided } from "./talk.js";

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
  answers.forEach((answer, i) => (find(`better-${i}`).disabled = writing || !answer.text.trim()));
  find("tie").disabled = writing || !answers[0].text.trim();
  const without = !writing && noComparison(...answers);
  find("question").textContent = without ? `No comparison: ${without}. Go on with:` : "Which answer is better?";
}
