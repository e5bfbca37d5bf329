// The keys of the labelling page: what each does now, and where that is printed.

import { el, find } from "./dom.js";
import { settings } from "./outbox.js";
import { LETTERS } from "./texts.js";
import * as tasks from "./task.js";

const ACTS = { u: tasks.undo, s: tasks.openSkip, n: tasks.openNote, e: tasks.openEditor, g: () => open("guidelines"),
  "?": () => open("help"), t: settings.chat && tasks.newTalk };

export function open(id) {
  find(id).showModal();
}

/** Whether a letter names an answer now, so that what it does otherwise needs Shift. */
const taken = (key) =>
  tasks.task?.kind === "ranking" && LETTERS.slice(0, tasks.task.answers.length).includes(key.toUpperCase());
export const keyShown = (key) => (taken(key) ? `⇧${key.toUpperCase()}` : key);
export const typing = (node) => node?.matches?.("input, textarea, select");

/** Print on each button the key that presses it now. */
export function drawKeys() {
  for (const node of document.querySelectorAll("[data-key]")) node.querySelector("kbd").textContent = keyShown(node.dataset.key);
  const rows = tasks.task?.kind === "ranking"
    ? [["A, B…", "the next best answer"], ["=", "the next letter ties with the last"], ["Backspace", "take the last letter back"],
      ["Enter", "done"]]
    : tasks.task ? tasks.task.choices.map((choice) => [choice.key, choice.label]) : [];
  const more = [["u", "take the last label back"], ["s", "skip"], ["n", "note"], ["e", "write a better answer"],
    ...settings.flags.map((flag) => [flag.key, `flag: ${flag.label}`]), ["g", "guidelines"], ["?", "this help"],
    ...(settings.chat ? [["t", "new conversation"]] : [])];
  const all = [...rows, ...more.map(([key, does]) => [keyShown(key), does])];
  find("key-list").replaceChildren(...all.flatMap(([key, does]) => [el("dt", {}, el("kbd", { text: key })), el("dd", { text: does })]));
}

export function onKey(event) {
  if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (find("skip").open) return onReason(event);
  if (document.querySelector("dialog[open]")) return;
  if (typing(event.target)) return onTyping(event);
  if (event.repeat) {
    if (event.target.closest("button")) event.preventDefault(); // which would be pressed again and again
    return; // a held key counts once
  }
  const act = actOf(event);
  if (!act) return;
  event.preventDefault();
  act();
}

/** What a key does now; null where it does nothing, or where the browser has its own use for it. */
function actOf(event) {
  const key = keyOf(event);
  if (tasks.task?.kind === "ranking" && !tasks.busy) {
    if (!event.shiftKey && taken(key) && key.length === 1) return () => tasks.rank(LETTERS.indexOf(key.toUpperCase()));
    if (key === "Enter" && event.target.closest("button")) return null; // which presses that button
    const act = { "=": tasks.tie, Backspace: tasks.unrank, Enter: tasks.ranked }[key];
    if (act) return act;
  }
  const digit = event.shiftKey ? null : /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1]; // whatever the keyboard's layout
  const choice = tasks.task?.choices.find((one) => one.key === key || one.key === digit);
  if (choice) return () => tasks.choose(choice);
  const flag = settings.flags.find((one) => one.key === key);
  if (flag) return () => tasks.toggle(flag.name);
  return ACTS[key] || null;
}

/** A key by its letter; by its place where the keyboard writes other letters than Latin ones. */
function keyOf(event) {
  if (event.key.length > 1) return event.key;
  const place = event.key > "\u007f" && /^Key([A-Z])$/.exec(event.code)?.[1];
  return (place || event.key).toLowerCase();
}

/** Keys inside a text box write; Esc leaves it. */
function onTyping(event) {
  if (event.key === "Escape") {
    if (event.target.id === "note") find("note-box").hidden = !find("note").value;
    if (event.target.id === "better") find("editor").hidden = !find("better").value;
    event.target.blur();
    find("work").focus({ preventScroll: true });
  } else if (event.target.id === "message" && event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    if (!event.repeat) tasks.say(event.target.value);
  }
}

function onReason(event) {
  const reason = settings.reasons[Number(event.key) - 1];
  if (!reason || event.repeat) return;
  event.preventDefault();
  tasks.skip(reason);
}
