// Requests to the server, and what is told of those that fail.

import { find } from "./dom.js";

const RETRY = 3000; // milliseconds until what could not be done is tried again

/** What went wrong; `lasting` when sending the same again would not help. */
export class Fault extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
    this.lasting = status >= 400 && status < 500 && ![401, 408, 421, 425, 429].includes(status);
  }
}

export async function post(path, body = {}) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST", credentials: "same-origin", cache: "no-store",
      headers: { "Content-Type": "application/json", "X-Easyrlhf": "1" }, body: JSON.stringify(body),
    });
  } catch {
    throw new Fault("The server does not answer. What you did is kept in this browser and sent again by itself.");
  }
  const found = await response.json().catch(() => ({}));
  if (response.ok) return found;
  const words = found.error?.message ?? `The server failed (${response.status}).`;
  throw new Fault(response.status === 401 ? "The server does not know this browser: open your link again." : words,
    response.status);
}

const troubles = new Map(); // what is wrong now, by where

export function trouble(place, text) {
  if (text) troubles.set(place, text);
  else troubles.delete(place);
  const all = [...troubles.values()].join(" ");
  find("trouble").hidden = !all;
  if (find("trouble").textContent !== all) find("trouble").textContent = all;
}

/** Run `work`, and say in words what goes wrong; with `again` it is tried again by itself where that may help. */
export async function attempt(place, work, again = true) {
  try {
    const found = await work();
    trouble(place, "");
    return found;
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    trouble(place, error.message);
    if (again && !error.lasting) setTimeout(() => attempt(place, work), RETRY);
    return null;
  }
}
