// What the page holds: the conversation, the settings, what is being edited; kept in the browser, drawn, undone.

import { actions } from "./actions.js";
import { stopAll } from "./answers.js";
import { drawDock } from "./dock.js";
import { el, find } from "./dom.js";
import { drawRows, showSettings } from "./panels.js";
import { Store } from "./store.js";
import * as talks from "./talk.js";
import { drawLog } from "./view.js";

const UNDOS = 50;
export const store = new Store(storageTrouble);
export const app = { about: null, store, talk: talks.emptyTalk(), settings: {}, models: [null, null], editing: null };
const undos = []; // {what, talk, row, removed}: the conversation before a change, a row that was kept, rows removed

export function defaults() {
  return {
    top_p: 1,
    top_k: 0,
    repetition_penalty: 1,
    temperature: 1,
    max_tokens: 512,
    ...app.about.defaults,
    seed: null,
    stop: [],
    blind: false,
    keys: true,
  };
}

/** Take up what this browser kept, as far as this version and this server know it. */
export function restore(saved) {
  app.settings = { ...defaults(), ...keptSettings(saved) };
  if (talks.isTalk(saved.talk)) app.talk = talks.afterReload(saved.talk);
  else if (saved.talk) tell("The conversation that this browser kept is of another version; a new one begins.");
  const served = app.about.models.map((model) => model.id);
  const [first, second] = Array.isArray(saved.models) ? saved.models : [served[0], served[1] ?? null];
  app.models = [served.includes(first) ? first : served[0], served.includes(second) ? second : null];
  app.editing = app.talk.turns.some((turn) => turn.id === saved.editing?.id) ? saved.editing : null;
  find("message").value = saved.draft ?? "";
}

/** The settings that were changed; the others follow the server. */
function keptSettings(saved) {
  const kind = (value) => (Array.isArray(value) ? "list" : typeof (value ?? 0));
  const own = defaults();
  const entries = Object.entries(saved.settings ?? {}).filter(
    ([name, value]) => kind(value) === kind(own[name]) && value !== saved.defaults?.[name],
  );
  return Object.fromEntries(entries);
}

let saving = null;

export function save() {
  saving ??= setTimeout(saveNow, 300);
}

export function saveNow() {
  clearTimeout(saving);
  saving = null;
  const { talk, settings, models, editing } = app;
  store.write({ talk, settings, models, editing, defaults: app.about.defaults, draft: find("message").value });
}

function storageTrouble(reason) {
  const old = find("storage-trouble");
  const notice =
    reason &&
    el(
      "p",
      { class: "fault", role: "alert", id: "storage-trouble" },
      el("b", { text: `This browser does not keep what is new here: ${reason}.` }),
      " A reload loses it. Download the rows first, under Rows, and remove old ones.",
    );
  if (old) old.replaceWith(...(notice ? [notice] : []));
  else if (notice) find("notices").append(notice);
}

export function tell(text) {
  find("status").textContent = text;
}

export function drawAll() {
  const compares = app.models[1] !== null;
  find("first-letter").hidden = !compares;
  document.body.classList.toggle("compares", compares);
  find("undo").disabled = !undos.length;
  drawLog(app, actions);
  drawDock(app);
  drawRows(app, actions);
}

export function changed(text) {
  drawAll();
  save();
  if (text) tell(text);
}

/** Let undo come back to the conversation as it is; or to rows that are about to be removed, whatever is said by then. */
export function remember(what, { row = null, removed = null } = {}) {
  undos.push({ what, row, removed: removed ?? [], talk: removed ? null : structuredClone(app.talk) });
  if (undos.length > UNDOS) undos.shift();
}

export function undo() {
  const past = undos.pop();
  if (!past) return tell("There is nothing to undo.");
  const kept = past.row && store.rows.get(past.row);
  if (kept) store.drop(past.row);
  past.removed.forEach((entry) => store.put(entry));
  if (past.talk) comeBack(past);
  const note = kept?.exported ? " Its row is in a file that you have downloaded: take it out there." : "";
  changed(`Undone: ${past.what}.${note}`);
}

function comeBack(past) {
  stopAll();
  const typed = past.what === "message" ? app.talk.turns[past.talk.turns.length]?.text : null;
  if (typed && !find("message").value) find("message").value = typed;
  app.talk = talks.afterReload(past.talk);
  app.editing = null;
  showSettings(app);
}
