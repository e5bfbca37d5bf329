// What can be done with a conversation.

import { ask, reward, stopAll, write } from "./answers.js";
import { find } from "./dom.js";
import { openSheet, saveFile, showSettings } from "./panels.js";
import { app, changed, defaults, remember, save, store, tell } from "./state.js";
import * as talks from "./talk.js";
import { drawLog } from "./view.js";

export function send(text) {
  const turn = talks.last(app.talk);
  if (!text.trim()) return;
  if (turn && talks.isRunning(turn)) return tell("An answer is being written: stop it first, or wait.");
  if (talks.undecided(turn)) return tell("First say which answer is better; your message stays.");
  if (turn && !talks.contentOf(turn).trim())
    return tell("Your last message has no answer: try again, or edit it. This one stays.");
  remember("message");
  find("message").value = "";
  app.talk.turns.push(talks.userTurn(text.trim()));
  ask();
}

export function judge(winner, tie = false) {
  const turn = talks.last(app.talk);
  if (!talks.undecided(turn) || talks.isRunning(turn)) return;
  const [chosen, rejected] = [winner, 1 - winner].map((i) => talks.shownOf(turn.sides[i]));
  if (!chosen.text.trim()) return tell(`${talks.LETTERS[winner]} has no answer to go on with.`);
  const none = tie ? "a tie" : talks.noComparison(chosen, rejected);
  const id = none ? null : talks.newId();
  remember("choice", { row: id });
  if (id)
    store.put({
      id,
      kind: "comparison",
      at: Date.now(),
      exported: false,
      row: talks.comparisonRow(app.talk, turn, winner),
    });
  turn.verdict = {
    winner,
    tie,
    note: none ? `· no row: ${none}; the conversation goes on with ${talks.LETTERS[winner]}` : "· kept as a comparison",
  };
  changed(none ? `No row: ${none}.` : `${talks.LETTERS[winner]} is better: kept as a row.`);
  find("message").focus();
}

/** What the parts of the page call. */
export const actions = {
  edit(turn) {
    if (app.talk.turns.some(talks.isRunning)) return tell("An answer is being written: stop it first, or wait.");
    app.editing = { id: turn.id, text: talks.contentOf(turn) };
    changed();
    document.querySelector("[data-key=editor]").focus();
  },
  typeEdit(text) {
    app.editing.text = text;
    save();
  },
  cancelEdit() {
    const id = app.editing.id;
    app.editing = null;
    changed("Not changed.");
    document.querySelector(`[data-key="edit-${id}"]`)?.focus();
  },
  finishEdit(goOn = false) {
    const { id, text } = app.editing;
    const at = app.talk.turns.findIndex((turn) => turn.id === id);
    if (!text.trim()) return tell("A turn cannot be empty.");
    remember("edit");
    app.talk.turns.length = at + 1;
    const turn = app.talk.turns[at];
    app.editing = null;
    if (turn.role === "user") {
      turn.text = talks.wellFormed(text.trim());
      return ask();
    }
    rewrite(turn, talks.wellFormed(text));
    if (goOn) actions.goOn(turn, talks.winnerOf(turn));
    else find("message").focus();
  },
  regenerate(turn, i) {
    const side = turn.sides[i];
    if (talks.running(talks.shownOf(side))) return;
    const answer = talks.newAnswer(side.model, talks.seedFor(app.settings, i, side.variants.length));
    side.variants.push(answer);
    side.shown = side.variants.length - 1;
    write(turn, answer);
    changed(`The answer is drawn again, with seed ${answer.seed}.`);
  },
  retry(turn, i) {
    const answer = talks.shownOf(turn.sides[i]);
    if (answer.text && !answer.begun) return actions.regenerate(turn, i); // what came of it stays beside the new one
    write(turn, answer);
    changed("Trying again.");
  },
  goOn(turn, i) {
    remember("going on");
    write(turn, talks.shownOf(turn.sides[i]));
    changed("The answer goes on.");
  },
  page(turn, i, by) {
    turn.sides[i].shown += by;
    changed(`Variant ${turn.sides[i].shown + 1} of ${turn.sides[i].variants.length}.`);
  },
  openSystem() {
    openSheet("settings");
    find("system").focus();
  },
  settingsChanged() {
    drawLog(app, actions);
    save();
  },
  defaults() {
    app.settings = { ...defaults(), keys: app.settings.keys, blind: app.settings.blind };
    showSettings(app);
    changed("Settings as the server began.");
  },
  keep() {
    const row = talks.demonstrationRow(app.talk);
    if (!row) return tell("There is no answer to keep yet.");
    const same = store.of("demonstration").some((entry) => JSON.stringify(entry.row) === JSON.stringify(row));
    if (same) return tell("This conversation is kept already.");
    store.put({ id: talks.newId(), kind: "demonstration", at: Date.now(), exported: false, row });
    const cut = app.talk.turns.some((turn) => turn.sides && talks.unfinished(talks.answerOf(turn)));
    changed(
      `The conversation is kept as a demonstration.${cut ? " An answer in it is cut off: who learns from it learns to end there." : ""}`,
    );
  },
  download(entries, name) {
    saveFile(
      name,
      entries.map((entry) => entry.row),
    );
    for (const entry of entries) store.put({ ...entry, exported: true });
    changed(`${entries.length} ${entries.length === 1 ? "row" : "rows"} in ${name}.`);
  },
  remove(entries) {
    remember("removal", { removed: entries });
    entries.forEach((entry) => store.drop(entry.id));
    changed("Removed; Undo brings it back.");
  },
};

/** Put an edited answer beside the one that was drawn. */
function rewrite(turn, text) {
  const side = turn.sides[talks.winnerOf(turn)];
  const answer = { ...talks.newAnswer(side.model, null), text, state: "edited" };
  side.variants.push(answer);
  side.shown = side.variants.length - 1;
  reward(turn, answer);
  changed("Edited.");
}

export function newTalk() {
  stopAll();
  if (app.talk.turns.length) remember("new conversation");
  app.talk = talks.emptyTalk(app.talk.system);
  app.editing = null;
  changed("A new conversation; Undo brings the last one back.");
  find("message").focus();
}
