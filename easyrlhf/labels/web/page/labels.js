// The labelling page, the organiser's page, and the page without a link.

import { find } from "./dom.js";
import { drawKeys, onKey, open } from "./keys.js";
import { organise } from "./organiser.js";
import { flush, kept, settings } from "./outbox.js";
import { attempt, post } from "./server.js";
import * as tasks from "./task.js";
import { keyButton } from "./texts.js";

const RENEW = 60000; // milliseconds after which a task that is still looked at is asked for again
const LOOK = 15000; // milliseconds after which a page without a task looks for one

/** The labelling page. */
async function label() {
  const click = (id, act) => find(id)?.addEventListener("click", act);
  click("undo", tasks.undo);
  click("open-note", tasks.openNote);
  click("open-editor", tasks.openEditor);
  click("open-skip", tasks.openSkip);
  click("open-new", tasks.newTalk);
  click("open-guidelines", () => open("guidelines"));
  click("open-help", () => open("help"));
  for (const node of document.querySelectorAll("dialog .close")) node.addEventListener("click", () => node.closest("dialog").close());
  find("reasons").replaceChildren(
    ...settings.reasons.map((reason, i) => keyButton(reason, String(i + 1), () => tasks.skip(reason))));
  find("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    tasks.say(find("message").value);
  });
  document.addEventListener("keydown", onKey);
  addEventListener("beforeunload", (event) => kept.size && event.preventDefault());
  setInterval(tasks.renew, RENEW);
  setInterval(tasks.look, LOOK);
  drawKeys();
  await attempt("next", async () => tasks.show((await flush()) ?? (await post("/api/next"))));
}

/** The page without a link: a browser that comes from another site's link sends its cookie from here on only. */
async function gate() {
  if ((await fetch("/api/me", { credentials: "same-origin" }).catch(() => null))?.ok) location.replace("/");
}

({ label, organiser: organise, gate })[document.body.dataset.page]();
