// What this browser keeps: the conversation under one key, and each row under one of its own, so that two tabs never
// write over each other's rows. A storage that is full or forbidden costs the keeping, never the page.

import { isRow } from "./talk.js";

const STATE = "easyrlhf.chat.state";
const ROW = "easyrlhf.chat.row.";

export class Store {
  /** onTrouble(reason) is called when something could not be kept, and onTrouble(null) when it can be again. */
  constructor(onTrouble) {
    this.onTrouble = onTrouble;
    this.unkept = new Set();
    this.rows = new Map();
  }

  /** The state as it was left in this tab, or else in this browser; null where there is none. Rows are read too. */
  read() {
    try {
      this.readRows();
      return JSON.parse(sessionStorage.getItem(STATE) ?? localStorage.getItem(STATE));
    } catch (error) {
      if (!(error instanceof SyntaxError)) this.trouble(STATE, error);
      return null;
    }
  }

  readRows() {
    for (const key of Object.keys(localStorage)) {
      if (!key.startsWith(ROW)) continue;
      try {
        const entry = JSON.parse(localStorage.getItem(key));
        if (isRow(entry?.row)) this.rows.set(entry.id, entry);
      } catch (error) {
        if (!(error instanceof SyntaxError)) throw error;
      }
    }
  }

  write(state) {
    this.keep(STATE, state);
    try {
      sessionStorage.setItem(STATE, JSON.stringify(state)); // another tab has a conversation of its own
    } catch {
      // what is not kept here is kept there, or its trouble is told
    }
  }

  /** Keep a row: {id, kind: "comparison" | "demonstration", row, exported, at}. */
  put(entry) {
    this.rows.set(entry.id, entry);
    this.keep(ROW + entry.id, entry);
  }

  drop(id) {
    this.rows.delete(id);
    try {
      localStorage.removeItem(ROW + id);
      this.kept(ROW + id);
    } catch (error) {
      this.trouble(ROW + id, error);
    }
  }

  keep(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
      this.kept(key);
    } catch (error) {
      this.trouble(key, error);
    }
  }

  kept(key) {
    if (this.unkept.delete(key) && !this.unkept.size) this.onTrouble(null);
  }

  trouble(key, error) {
    this.unkept.add(key);
    this.onTrouble(
      error.name === "QuotaExceededError" ? "its storage is full" : "it forbids the page to store anything",
    );
  }

  /** Whether a reload would lose something. */
  get leaking() {
    return this.unkept.size > 0;
  }

  of(kind) {
    return [...this.rows.values()].filter((entry) => entry.kind === kind).sort((a, b) => a.at - b.at);
  }

  /** Call `changed` when another tab kept or dropped a row. */
  listen(changed) {
    addEventListener("storage", (event) => {
      if (event.key === null) this.rows.clear();
      else if (!event.key.startsWith(ROW)) return;
      else if (event.newValue === null) this.rows.delete(event.key.slice(ROW.length));
      try {
        this.readRows();
      } catch (error) {
        this.trouble(event.key, error);
      }
      changed();
    });
  }
}
