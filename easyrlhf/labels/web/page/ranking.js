// An order of answers that grows letter by letter.

import { LETTERS } from "./texts.js";

/** Groups of places, the best first, equals together; `tied`: the next one joins the last group. */
export class Ranking {
  constructor(count) {
    [this.count, this.groups, this.tied] = [count, [], false];
  }

  get lacking() {
    return [...Array(this.count).keys()].filter((place) => !this.groups.flat().includes(place));
  }

  add(place) {
    if (!this.lacking.includes(place)) return;
    if (this.tied) this.groups.at(-1).push(place);
    else this.groups.push([place]);
    this.tied = false;
  }

  tie() {
    this.tied = this.groups.length > 0 && this.lacking.length > 0 && !this.tied;
  }

  back() {
    if (!this.tied) this.groups.at(-1)?.pop();
    this.tied = false;
    this.groups = this.groups.filter((equals) => equals.length);
  }

  /** 1 for the best; equals share a rank; 0 where there is none yet. */
  rankOf(place) {
    const before = this.groups.findIndex((equals) => equals.includes(place));
    return before < 0 ? 0 : 1 + this.groups.slice(0, before).flat().length;
  }

  get text() {
    const equals = (group) => group.map((place) => LETTERS[place]).join(" = ");
    return this.groups.map(equals).join(" > ") + (this.tied ? " = …" : "");
  }
}
