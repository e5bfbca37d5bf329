// What is said is kept in the browser until the server has it on disk.

import { post, trouble } from "./server.js";

export const settings = JSON.parse(document.body.dataset.settings); // what the server tells the page
const OUTBOX = `easyrlhf.labels.outbox.${settings.box}.`; // a key for each label that waits to be sent

export const kept = new Map(); // what the browser's storage did not take

export function keep(entry) {
  try {
    localStorage.setItem(OUTBOX + entry.body.id, JSON.stringify(entry));
  } catch {
    kept.set(entry.body.id, entry);
  }
}

function drop(id) {
  kept.delete(id);
  try {
    localStorage.removeItem(OUTBOX + id);
  } catch {
    // a storage that is forbidden holds nothing
  }
}

export function waiting() {
  const found = [...kept.values()];
  try {
    for (const key of Object.keys(localStorage)) {
      if (key.startsWith(OUTBOX)) found.push(JSON.parse(localStorage.getItem(key)));
    }
  } catch {
    // as above
  }
  return found.filter((entry) => !entry.refused).sort((a, b) => a.at - b.at);
}

/** Send all that waits, oldest first; returns what the server said of the last. Raises Fault when it cannot be reached. */
export async function flush() {
  let answer = null;
  for (const entry of waiting()) {
    try {
      answer = await post(entry.path, entry.body);
    } catch (error) {
      if (!error.lasting) throw error;
      keep({ ...entry, refused: error.message });
      trouble(entry.body.id, `A label was refused: ${error.message} It stays in this browser.`);
      continue;
    }
    drop(entry.body.id);
  }
  return answer;
}

export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
