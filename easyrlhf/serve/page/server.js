// Requests to the server, and its faults in words: what happened, and what to do.

const HEADERS = { "Content-Type": "application/json", "X-Easyrlhf": "1" };

export class Fault extends Error {
  constructor(title, advice = "") {
    super(title);
    this.title = title;
    this.advice = advice;
  }
}

const KEPT = "What is written here stays.";
const GONE = new Fault(
  "The server does not answer.",
  `See in its terminal whether “easyrlhf serve” still runs, start it again if not, and try again. ${KEPT}`,
);
const BROKE_OFF = new Fault(
  "The answer broke off: the connection to the server was lost.",
  "What came of it stays. Try again, or go on from it.",
);

export async function about() {
  return (await request("/api/about")).json();
}

/** The reward of the last answer of a conversation, which ended by itself or not: {score, note}. */
export async function score(messages, finished) {
  return (await request("/api/score", { messages, finished })).json();
}

/** Draw an answer and give each piece of its text to `onText`; returns why it ended: "stop" or "length". */
export async function draw(body, signal, onText) {
  const response = await request("/v1/chat/completions", { ...body, stream: true }, signal);
  let finish = null;
  for await (const event of events(response.body, signal)) {
    if (event.error) throw refused(500, event.error, null, body);
    const choice = event.choices?.[0];
    if (choice?.delta?.content) onText(choice.delta.content);
    finish = choice?.finish_reason ?? finish;
  }
  if (finish === null) throw BROKE_OFF;
  return finish;
}

async function request(path, body, signal) {
  const options = body ? { method: "POST", headers: HEADERS, body: JSON.stringify(body), signal } : { signal };
  let response;
  try {
    response = await fetch(path, { ...options, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : GONE;
  }
  if (response.ok) return response;
  throw refused(response.status, await said(response), response.headers.get("Retry-After"), body);
}

/** The error object that a refusal holds, {message, code}, in whatever form it comes. */
async function said(response) {
  const text = await response.text().catch(() => "");
  try {
    const held = JSON.parse(text);
    const error = held.error ?? held.detail ?? held;
    return typeof error === "string" ? { message: error } : error;
  } catch {
    return { message: text.length < 300 ? text : "" };
  }
}

function refused(status, error, wait, body) {
  if (error.code === "stopping") return GONE;
  const words = error.message && error.code !== "internal_error" ? ` ${sentence(error.message)}` : "";
  const again = wait ? `Try again in ${wait} seconds.` : "Try again in a moment.";
  if (/max_.*tokens/.test(error.param)) {
    return new Fault(`The answer may not be so long.${words}`, "Lower “Longest answer” in Settings.");
  }
  if (/context|too.?long/i.test(`${error.code ?? ""} ${error.type ?? ""}`)) {
    return new Fault(
      `The conversation is too long for ${body.model}.${words}`,
      "Edit an earlier turn, lower “Longest answer” in Settings, or begin a new conversation.",
    );
  }
  if (status === 401) {
    return new Fault(
      "The server does not know this page any more: it was started again, or the page's time is over.",
      `Open the address that the server printed. ${KEPT}`,
    );
  }
  if (status === 403)
    return new Fault(
      `The server refused the request.${words}`,
      "Open the page by the address that the server printed.",
    );
  if (status === 404)
    return new Fault(
      `The server has not got that.${words}`,
      "Choose another model above; reload the page when the server was started with other ones.",
    );
  if (status === 413)
    return new Fault(
      `The message or the conversation is larger than the server takes.${words}`,
      "Shorten the message, or begin a new conversation.",
    );
  if (status === 421)
    return new Fault(
      `The server is not known by this address.${words}`,
      "Open the page by the address that the server printed.",
    );
  if (status === 429 || status === 503) return new Fault(`The server is busy.${words}`, again);
  if (status >= 500) return new Fault(`The server failed.${words}`, "Its terminal says more. Try again.");
  return new Fault(`The server cannot do this.${words}`, "Change the message or the settings, and try again.");
}

const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);

/** The objects of a stream of server-sent events. Raises BROKE_OFF when the connection is lost. */
async function* events(stream, signal) {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      held += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const blocks = held.split(/\r?\n\r?\n/);
      held = blocks.pop();
      for (const data of blocks.map(dataOf)) {
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
      if (done) return;
    }
  } catch (error) {
    if (error instanceof Fault || error.name === "AbortError" || signal?.aborted) throw error;
    throw BROKE_OFF;
  } finally {
    reader.cancel().catch(() => {});
  }
}

function dataOf(block) {
  const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}
