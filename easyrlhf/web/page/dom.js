// Making elements. Texts reach the page as text alone: nothing here parses markup.

/** An element with attributes (`on`: listeners, `text`: its text) and children, of which false ones are left out. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, listen] of Object.entries(value)) node.addEventListener(event, listen);
    else if (name === "text") node.textContent = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child || child === 0));
  return node;
}

/** A button; `key` is its name for refocus. */
export function button(label, key, act, attributes = {}) {
  return el("button", { type: "button", "data-key": key, on: { click: act }, ...attributes }, label);
}

export const find = (id) => document.getElementById(id);

let lost = null; // key of the element that had the focus when a change took it away

/** Run `change`, which replaces elements, and give the focus back to what takes the focused one's place, then or later. */
export function keepingFocus(change) {
  const nowhere = document.activeElement === document.body;
  const key = nowhere ? lost : document.activeElement?.dataset?.key;
  change();
  lost = null;
  if (!key || document.activeElement !== document.body) return;
  const heir = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (heir) heir.focus({ preventScroll: true });
  else lost = key;
}

/** Control characters made visible, as in ␀; line breaks and tabs stay. What is stored keeps them. */
export function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, (c) =>
    c === "\u007f" ? "␡" : String.fromCharCode(0x2400 + c.charCodeAt(0)),
  );
}
