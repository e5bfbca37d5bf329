// Answers: drawn from the server piece by piece, stopped, scored.

import { find } from "./dom.js";
import { Fault, draw, score } from "./server.js";
import { hush, speak } from "./speech.js";
import { app, changed, drawAll, save, tell } from "./state.js";
import * as talks from "./talk.js";
import { drawText, signed, toTheEnd } from "./view.js";

export const drawing = new Map(); // answer -> AbortController

/** Begin a round of answers to the conversation as it is. */
export function ask() {
  const turn = talks.newRound(app.talk, app.models.filter(Boolean), app.settings);
  app.talk.turns.push(turn);
  app.editing = null;
  hush();
  turn.sides.forEach((side) => write(turn, talks.shownOf(side)));
  changed("The answer is being written.");
  toTheEnd();
  if (turn.sides.length === 2) find(`turn-${turn.id}`).focus({ preventScroll: true });
}

export async function write(turn, answer) {
  const abort = new AbortController();
  drawing.set(answer, abort);
  const begun = answer.text;
  const was = answer.state;
  Object.assign(answer, { state: "waiting", fault: null, reward: null, begun: begun.length });
  try {
    const finish = await draw(request(turn, answer, begun), abort.signal, (piece) => grow(turn, answer, piece));
    answer.state = finish === "length" ? "cut" : "done";
  } catch (error) {
    const unchanged = begun && answer.text === begun;
    if (error.name === "AbortError") answer.state = unchanged ? was : "stopped";
    else {
      const { title, advice } = inWords(error);
      Object.assign(answer, { state: unchanged ? was : answer.text ? "broken" : "failed", fault: { title, advice } });
    }
  }
  answer.text = talks.wellFormed(answer.text);
  drawing.delete(answer);
  if (!holds(turn)) return;
  speak(turn, answer, true);
  if (answer.text && answer.state !== "broken") reward(turn, answer);
  changed();
  if (!talks.isRunning(turn)) tell(summary(turn));
}

function grow(turn, answer, piece) {
  const first = answer.state === "waiting";
  answer.state = "streaming";
  answer.text += piece;
  if (first) drawAll();
  else drawText(answer);
  speak(turn, answer, false);
  save();
}

function request(turn, answer, begun) {
  const { temperature, top_p, top_k, repetition_penalty, max_tokens, stop } = app.settings;
  const messages = talks.promptOf(app.talk, turn);
  const body = { model: answer.model, messages, temperature, top_p, top_k, repetition_penalty, seed: answer.seed };
  if (max_tokens !== app.about.defaults.max_tokens) body.max_tokens = max_tokens; // its own it fits to the room left
  if (stop.length) body.stop = stop;
  if (begun) {
    messages.push({ role: "assistant", content: begun });
    body.continue_final_message = true;
  }
  return body;
}

const holds = (turn) => app.talk.turns.includes(turn);

/** Ask what the reward model makes of an answer. */
export async function reward(turn, answer) {
  if (!app.about.reward_model) return;
  const text = answer.text;
  answer.reward = { asking: true };
  let found;
  try {
    const messages = [...talks.promptOf(app.talk, turn), { role: "assistant", content: text }];
    found = await score(messages, !talks.unfinished(answer));
  } catch (error) {
    found = { score: null, note: inWords(error).title };
  }
  if (answer.text !== text || talks.running(answer) || !holds(turn)) return;
  answer.reward = found;
  changed();
  if (!talks.isRunning(turn)) tell(summary(turn));
}

/** What a finished round comes to, for those who hear the page. */
function summary(turn) {
  const of = (side, i) => {
    const found = talks.shownOf(side).reward?.score;
    const name = turn.sides.length === 2 ? `${talks.LETTERS[i]}` : "The answer";
    return Number.isFinite(found) && !talks.hidden(turn) ? `${name}: reward ${signed(found)}.` : "";
  };
  const ended = turn.sides.length === 2 ? "Both answers are there." : "The answer is there.";
  const fault = turn.sides.map((side) => talks.shownOf(side).fault).find(Boolean);
  return fault ? `${fault.title} ${fault.advice}` : [ended, ...turn.sides.map(of)].filter(Boolean).join(" ");
}

export function stopAll() {
  for (const abort of drawing.values()) abort.abort();
}

export function inWords(error) {
  return error instanceof Fault
    ? error
    : new Fault("The page itself failed.", `${error.message}. Reload it: what is here stays.`);
}
