// A conversation and the rows made of it: plain data, without page and server.
//
// talk    {system, turns}
// turn    {id, role: "user", text}
//         {id, role: "assistant", system, blind, sides: [{model, variants: [answer], shown}], verdict}
//         one side, or two, of which the verdict {winner, tie, note} says which one the conversation goes on with
// answer  {id, model, seed, text, begun, state, fault, reward}
//         begun   how many characters it had when it was asked to go on
//         state   waiting, streaming; done, cut (at max tokens), stopped, broken, failed, edited
//         reward  {score, note}; {asking: true} while it is asked for; null

export const LETTERS = ["A", "B"];
const RUNNING = ["waiting", "streaming"];
const UNFINISHED = ["cut", "stopped", "broken"];

export function newId() {
  const [a, b] = crypto.getRandomValues(new Uint32Array(2)); // randomUUID is there on https and localhost alone
  return `${Date.now().toString(36)}-${a.toString(36)}${b.toString(36)}`;
}

export const emptyTalk = (system = "") => ({ system, turns: [] });
export const userTurn = (text) => ({ id: newId(), role: "user", text: wellFormed(text) });

/** Text without halves of characters, which no file can hold. */
export const wellFormed = (text) => (text.toWellFormed ? text.toWellFormed() : text);

export function newAnswer(model, seed) {
  return { id: newId(), model, seed, text: "", begun: 0, state: "waiting", fault: null, reward: null };
}

/** A round of answers: by one model, or by two. The same model twice has two seeds. */
export function newRound(talk, models, settings) {
  const order = settings.blind && models.length === 2 && Math.random() < 0.5 ? [...models].reverse() : models;
  const side = (model, i) => ({ model, shown: 0, variants: [newAnswer(model, seedFor(settings, i, 0))] });
  return {
    id: newId(),
    role: "assistant",
    system: talk.system,
    blind: settings.blind && models.length === 2,
    sides: order.map(side),
    verdict: null,
  };
}

/** The seed of a side's nth variant: drawn, or counted from the one that is set. */
export function seedFor(settings, side, variant) {
  if (settings.seed === null) return crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
  return (settings.seed + 2 * variant + side) % 2 ** 31;
}

export const shownOf = (side) => side.variants[side.shown];
export const running = (answer) => RUNNING.includes(answer.state);
export const unfinished = (answer) => UNFINISHED.includes(answer.state);
export const isRunning = (turn) => turn.role === "assistant" && turn.sides.some((side) => running(shownOf(side)));
export const undecided = (turn) => turn?.role === "assistant" && turn.sides.length === 2 && !turn.verdict;
export const hidden = (turn) => turn.blind && !turn.verdict;
export const winnerOf = (turn) => turn.verdict?.winner ?? 0;
export const answerOf = (turn) => shownOf(turn.sides[winnerOf(turn)]);
export const last = (talk) => talk.turns.at(-1);

/** What a turn says in the messages of later ones. */
export const contentOf = (turn) => (turn.role === "user" ? turn.text : answerOf(turn).text);

/** The messages that an answer of this round is drawn for. */
export function promptOf(talk, round) {
  const turns = talk.turns.slice(0, talk.turns.indexOf(round));
  return withSystem(round.system, turns);
}

function withSystem(system, turns) {
  const opening = system.trim() ? [{ role: "system", content: system }] : [];
  return [...opening, ...turns.map((turn) => ({ role: turn.role, content: contentOf(turn) }))];
}

/** Why two answers make no comparison, in words; null when they do. */
export function noComparison(chosen, rejected) {
  if (!chosen.text.trim() || !rejected.text.trim()) return "one of the answers is empty";
  if (chosen.text.trim() === rejected.text.trim()) return "both answers are the same";
  return null;
}

/** A comparison as the training commands read it; what is said beside it is what `easyrlhf generate` says. */
export function comparisonRow(talk, round, winner) {
  const [chosen, rejected] = [shownOf(round.sides[winner]), shownOf(round.sides[1 - winner])];
  const said = (answer) => [{ role: "assistant", content: answer.text }];
  const row = { prompt: promptOf(talk, round), chosen: said(chosen), rejected: said(rejected) };
  if (Number.isFinite(chosen.reward?.score) && Number.isFinite(rejected.reward?.score)) {
    Object.assign(row, { chosen_reward: chosen.reward.score, rejected_reward: rejected.reward.score });
  }
  Object.assign(row, { chosen_finished: !unfinished(chosen), rejected_finished: !unfinished(rejected) });
  return Object.assign(row, { chosen_model: chosen.model, rejected_model: rejected.model });
}

/** The conversation up to its last answer as a demonstration; null while it has none. */
export function demonstrationRow(talk) {
  const ends = talk.turns.findLastIndex(
    (turn) => turn.role === "assistant" && !undecided(turn) && contentOf(turn).trim(),
  );
  const turns = talk.turns.slice(0, ends + 1);
  return turns.length ? { messages: withSystem(talk.system, turns) } : null;
}

const isText = (value) => typeof value === "string";
const areTurns = (value) => Array.isArray(value) && value.length > 0 && value.every((turn) => isText(turn?.content));
const isAnswer = (answer) => isText(answer?.text) && isText(answer.state) && isText(answer.model);
const isSide = (side) => Array.isArray(side?.variants) && side.variants.every(isAnswer) && shownOf(side);

/** Whether it is a row, as this version keeps them. */
export const isRow = (row) => areTurns(row?.messages) || [row?.prompt, row?.chosen, row?.rejected].every(areTurns);

/** Whether it is a conversation, as this version keeps them. */
export function isTalk(talk) {
  const isTurn = (turn) =>
    turn?.role === "user" ? isText(turn.text) : turn?.sides?.length > 0 && turn.sides.every(isSide);
  return isText(talk?.system) && Array.isArray(talk.turns) && talk.turns.every(isTurn);
}

export const jsonLines = (rows) => rows.map((row) => JSON.stringify(row) + "\n").join("");

/** A talk as it is after a reload: what was being written broke off there. */
export function afterReload(talk) {
  for (const turn of talk.turns) {
    for (const answer of (turn.sides ?? []).flatMap((side) => side.variants)) {
      if (running(answer)) answer.state = answer.text ? "stopped" : "failed";
      if (answer.state === "failed" && !answer.fault)
        answer.fault = { title: "The page was left before this answer came.", advice: "" };
      if (answer.reward?.asking) answer.reward = null;
    }
  }
  return talk;
}

/** Thoughts and the rest of an answer; without an opening tag they begin where the answer does. */
export function thoughtsOf(text) {
  const opened = text.match(/^\s*<think>/);
  const end = text.indexOf("</think>");
  if (!opened && end < 0) return { thoughts: null, rest: text };
  const begin = opened ? opened[0].length : 0;
  if (end < 0) return { thoughts: text.slice(begin).trim(), rest: "" };
  return { thoughts: text.slice(begin, end).trim(), rest: text.slice(end + "</think>".length).trimStart() };
}
