// The three sheets: settings, rows for training, help.

import { button, el, find, visible } from "./dom.js";
import { demonstrationRow, jsonLines } from "./talk.js";

// name, label, note, attributes of the field; a field may be empty where `empty` says what that means
const SAMPLING = [
  ["temperature", "Temperature", "0: always the likeliest token", { min: 0, max: 100, step: "any" }],
  ["top_p", "top_p", "of the likeliest tokens with this probability together", { min: 0.000001, max: 1, step: "any" }],
  ["top_k", "top_k", "of so many of the likeliest tokens; 0: of all", { min: 0, step: 1 }],
  ["repetition_penalty", "Repetition penalty", "1: none; 1.05 to 1.2 is usual", { min: 0.000001, step: "any" }],
  ["max_tokens", "Longest answer", "in tokens", { min: 1, step: 1 }],
  ["seed", "Seed", "empty: a new one for each answer", { min: 0, max: 2147483647, step: 1 }, "drawn"],
];
const KEYS = [
  ["a b", "A is better, B is better"],
  ["t", "tie: goes on with A, no row"],
  ["r", "draw the last answer again"],
  ["e", "edit your last message"],
  ["u", "undo"],
  ["k", "keep the conversation as a demonstration"],
  ["m", "to the message box"],
  ["s", "settings"],
  ["x", "rows for training, and their files"],
  ["n", "new conversation"],
  ["?", "this help"],
  ["Esc", "stop writing; close; leave a box"],
];

export const openSheet = (id) => find(id).open || find(id).showModal();

export function prepareSheets(app, actions) {
  for (const sheet of document.querySelectorAll("dialog")) {
    sheet.querySelector(".close").addEventListener("click", () => sheet.close());
    sheet.addEventListener("click", (event) => event.target === sheet && sheet.close());
  }
  find("key-list").append(
    ...KEYS.flatMap(([keys, text]) => [
      el("dt", {}, ...keys.split(" ").map((key) => el("kbd", { text: key }))),
      el("dd", { text }),
    ]),
  );
  find("version").textContent = `easyrlhf ${app.about.version}`;
  find("sampling").append(...SAMPLING.map((field) => numberField(app, actions, field)));
  const bind = (id, event, change) =>
    find(id).addEventListener(event, () => {
      change(find(id));
      actions.settingsChanged();
    });
  bind("system", "input", (area) => (app.talk.system = area.value));
  bind("stop-texts", "input", (area) => (app.settings.stop = stopTexts(area.value)));
  bind("blind", "change", (box) => (app.settings.blind = box.checked));
  bind("keys", "change", (box) => (app.settings.keys = box.checked));
  find("defaults").addEventListener("click", actions.defaults);
  showSettings(app);
}

function numberField(app, actions, [name, label, note, attributes, empty]) {
  const fault = el("small", { class: "bad", id: `${name}-fault`, role: "alert" });
  const input = el("input", {
    id: `set-${name}`,
    type: "number",
    inputmode: "decimal",
    required: !empty,
    ...attributes,
    placeholder: empty,
    "aria-describedby": `${name}-note ${name}-fault`,
    on: {
      input: () => {
        const good = input.checkValidity();
        fault.textContent = good
          ? ""
          : `${input.validationMessage.replace(/\.?$/, ".")} Until then: ${app.settings[name] ?? empty}.`;
        input.setAttribute("aria-invalid", String(!good));
        if (good) app.settings[name] = input.value === "" ? null : Number(input.value);
        actions.settingsChanged();
      },
    },
  });
  return el(
    "label",
    { class: "field", for: `set-${name}` },
    label,
    input,
    el("small", { id: `${name}-note`, text: note }),
    fault,
  );
}

const stopTexts = (text) =>
  text
    .split("\n")
    .filter(Boolean)
    .map((line) => line.replaceAll("\\n", "\n"));

export function showSettings(app) {
  for (const [name] of SAMPLING) {
    find(`set-${name}`).value = app.settings[name] ?? "";
    find(`set-${name}`).setAttribute("aria-invalid", "false");
    find(`${name}-fault`).textContent = "";
  }
  find("system").value = app.talk.system;
  find("stop-texts").value = app.settings.stop.map((text) => text.replaceAll("\n", "\\n")).join("\n");
  find("blind").checked = app.settings.blind;
  find("keys").checked = app.settings.keys;
}

export function drawRows(app, actions) {
  const entries = [...app.store.rows.values()];
  const fresh = entries.filter((entry) => !entry.exported).length;
  find("count").textContent = fresh;
  find("count").classList.toggle("some", fresh > 0);
  drawKind(app, actions, "comparison", []);
  const talk = demonstrationRow(app.talk);
  drawKind(app, actions, "demonstration", [
    button("Keep this conversation", "keep", actions.keep, { disabled: !talk }),
  ]);
}

function drawKind(app, actions, kind, extra) {
  const entries = app.store.of(kind);
  const fresh = entries.filter((entry) => !entry.exported);
  const old = entries.length - fresh.length;
  const file = `${kind}s.jsonl`;
  find(`${kind}s-tools`).replaceChildren(
    ...[
      ...extra,
      fresh.length
        ? button(`Download ${fresh.length} new`, `new-${kind}`, () => actions.download(fresh, file), { class: "main" })
        : null,
      old ? button(`Download all ${entries.length}`, `all-${kind}`, () => actions.download(entries, file)) : null,
      old
        ? button(`Remove the ${old} downloaded`, `clear-${kind}`, () =>
            actions.remove(entries.filter((entry) => entry.exported)),
          )
        : null,
    ].filter(Boolean),
  );
  find(`${kind}s`).replaceChildren(
    ...(entries.length
      ? entries.map((entry) => line(entry, actions)).reverse()
      : [el("li", { class: "muted", text: "None yet." })]),
  );
}

function line(entry, actions) {
  const { row } = entry;
  const text = (turns) => shorten(turns.at(-1).content);
  const words = row.messages
    ? [
        el("span", { class: "asked", dir: "auto", text: text(row.messages.slice(0, -1)) }),
        el("span", { dir: "auto", text: text(row.messages) }),
      ]
    : [
        el("span", { class: "asked", dir: "auto", text: text(row.prompt) }),
        el("span", { class: "won", dir: "auto", text: text(row.chosen) }),
        el("span", { class: "lost", dir: "auto", text: text(row.rejected) }),
      ];
  return el(
    "li",
    {},
    el(
      "div",
      { class: "words" },
      ...words,
      el("small", { text: entry.exported ? "downloaded" : "not downloaded yet" }),
    ),
    button("Remove", `remove-${entry.id}`, () => actions.remove([entry]), {
      "aria-label": `Remove: ${text(row.messages ?? row.prompt)}`,
    }),
  );
}

const shorten = (text) => visible(text.length > 160 ? `${text.slice(0, 160)}…` : text);

/** Give the browser a file with these rows. */
export function saveFile(name, rows) {
  const url = URL.createObjectURL(new Blob([jsonLines(rows)], { type: "application/x-ndjson" }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
