// The page begins here: what the server has, what this browser kept, and the keys and buttons.

import { actions, judge, newTalk, send } from "./actions.js";
import { drawing, inWords, stopAll } from "./answers.js";
import { el, find } from "./dom.js";
import { drawRows, openSheet, prepareSheets } from "./panels.js";
import { Fault, about } from "./server.js";
import { app, drawAll, restore, save, saveNow, store, tell, undo } from "./state.js";
import * as talks from "./talk.js";
import { faultOf, toTheEnd } from "./view.js";

const KEYS = {
  a: () => judge(0),
  b: () => judge(1),
  t: () => judge(0, true),
  r: again,
  e: editLast,
  u: undo,
  k: actions.keep,
  m: () => find("message").focus(),
  s: () => openSheet("settings"),
  x: () => openSheet("rows"),
  n: newTalk,
  "?": () => openSheet("help"),
};

function again() {
  const turn = talks.last(app.talk);
  if (turn?.role !== "assistant" || turn.verdict) return tell("There is no open answer to draw again.");
  turn.sides.forEach((side, i) => actions.regenerate(turn, i));
}

function editLast() {
  const turn = app.talk.turns.findLast((one) => one.role === "user");
  if (turn) actions.edit(turn);
}

function listen() {
  const click = (id, act) => find(id).addEventListener("click", act);
  click("better-0", () => judge(0));
  click("better-1", () => judge(1));
  click("tie", () => judge(0, true));
  click("stop", stopAll);
  click("undo", undo);
  click("new", newTalk);
  for (const id of ["settings", "rows", "help"]) click(`open-${id}`, () => openSheet(id));
  find("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send(find("message").value);
  });
  find("message").addEventListener("input", () => {
    grow(find("message"));
    save();
  });
  find("message").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send(find("message").value);
  });
  document.addEventListener("keydown", onKey);
  addEventListener("pagehide", saveNow);
  addEventListener("beforeunload", (event) => store.leaking && event.preventDefault());
}

/** Where the browser does not fit a box to its text, as many lines as the text has. */
function grow(area) {
  if (!CSS.supports("field-sizing", "content")) area.rows = Math.min(area.value.split("\n").length, 8);
}

function onKey(event) {
  if (
    event.repeat ||
    event.isComposing ||
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    document.querySelector("dialog[open]")
  )
    return;
  const typing = event.target.closest?.("input, textarea, select");
  if (event.key === "Escape") {
    if (drawing.size) stopAll();
    else typing?.blur();
  } else if (!typing && app.settings.keys && Object.hasOwn(KEYS, event.key.toLowerCase())) {
    event.preventDefault();
    KEYS[event.key.toLowerCase()]();
  }
}

async function begin() {
  try {
    app.about = await about();
    if (!app.about.models.length)
      throw new Fault("The server has no model.", "Start it with one: easyrlhf serve MODEL.");
  } catch (error) {
    find("notices").replaceChildren(
      faultOf(
        inWords(error),
        () => {
          find("notices").replaceChildren();
          begin();
        },
        "begin",
      ),
    );
    return;
  }
  restore(store.read() ?? {});
  fillPickers();
  prepareSheets(app, actions);
  store.listen(() => drawRows(app, actions));
  listen();
  drawAll();
  toTheEnd();
  find("message").focus();
}

function fillPickers() {
  const options = () => app.about.models.map(({ id, title }) => el("option", { value: id, text: id, title }));
  find("model-0").replaceChildren(...options());
  find("model-1").replaceChildren(el("option", { value: "", text: "nothing to compare with" }), ...options());
  app.models.forEach((id, i) => {
    find(`model-${i}`).value = id ?? "";
    find(`model-${i}`).addEventListener("change", (event) => {
      app.models[i] = event.target.value || null;
      save();
      drawAll();
    });
  });
}

begin();
