"""The look of a report page: one style sheet, light and dark, from 400 px up."""

STYLESHEET = """\
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1f2430; --muted: #646b78; --rule: #e3e6eb;
  --band: #e6f4ea; --shade: #f3f2ee;
  --series-0: #2f6fde; --series-1: #e2711d; --series-2: #2a9d6f; --series-3: #9b5de5;
  --series-4: #d6457a;
  --ok: #2a9d6f; --warn: #b9770e; --alarm: #c8313d;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14161b; --card: #1c1f26; --ink: #e8eaee; --muted: #9aa2af; --rule: #2f343e;
    --band: #1d3328; --shade: #252932;
    --series-0: #6ea0ff; --series-1: #f59b55; --series-2: #56c596; --series-3: #bf95ff;
    --series-4: #f07fa6;
    --ok: #56c596; --warn: #f0b04a; --alarm: #ff7b84;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 var(--sans); overflow-wrap: anywhere;
}
main { max-width: 1240px; margin: 0 auto; padding: 40px 24px 64px; }
header { max-width: 860px; margin-bottom: 32px; }
.over {
  color: var(--muted);
  font-size: 13px;
  letter-spacing: .06em;
  text-transform: uppercase;
  margin: 0;
}
h1 {
  font-size: clamp(26px, 5vw, 38px);
  line-height: 1.15;
  letter-spacing: -.02em;
  margin: 6px 0 14px;
}
.lead { font-size: clamp(17px, 2.4vw, 20px); line-height: 1.45; margin: 0; }
.lead:not(:empty)::before {
  content: ""; display: inline-block; width: .62em; height: .62em; border-radius: 50%;
  background: var(--ok); margin-right: .5em;
}
.lead.warn::before { background: var(--warn); }
.lead.alarm::before { background: var(--alarm); }
h2 { font-size: 20px; letter-spacing: -.01em; margin: 44px 0 0; }
.note { color: var(--muted); margin: -10px 0 0; max-width: 860px; }
section { display: grid; gap: 14px; grid-template-columns: minmax(0, 1fr); }
.grid {
  display: grid;
  gap: 16px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr));
}
.card, figure, .grid > * { min-width: 0; }
.card, figure {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; margin: 0;
  padding: 16px;
}
figure { padding: 12px 12px 14px; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figure.wide { max-width: 560px; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { color: var(--muted); font-size: 13.5px; line-height: 1.4; margin: 8px 4px 0; }
.numbers {
  display: grid;
  gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(150px, 1fr));
}
.number { padding: 12px 14px; }
.number b {
  display: block;
  font-size: 25px;
  line-height: 1.25;
  letter-spacing: -.02em;
  font-variant-numeric: tabular-nums;
}
.number span { color: var(--muted); font-size: 13px; line-height: 1.35; display: block; }
.verdicts { list-style: none; margin: 0; padding: 0; display: grid; gap: 10px; }
.verdicts li { border-left: 4px solid var(--ok); max-width: 860px; padding: 10px 14px; }
.verdicts .warn { border-left-color: var(--warn); }
.verdicts .alarm { border-left-color: var(--alarm); }
.verdicts strong {
  text-transform: uppercase;
  font-size: 12px;
  letter-spacing: .06em;
  color: var(--ok);
  margin-right: 6px;
}
.verdicts .warn strong { color: var(--warn); }
.verdicts .alarm strong { color: var(--alarm); }
.verdicts p { margin: 0; }
.verdicts .remedy { margin-top: 4px; }
.verdicts small { color: var(--muted); font-size: 13px; }
.sample h3 {
  font-size: 12px;
  color: var(--muted);
  text-transform: uppercase;
  letter-spacing: .06em;
  margin: 0 0 4px;
  font-weight: 600;
}
.said { white-space: pre-wrap; font: 14px/1.5 var(--mono); margin: 0; }
.sample > .said {
  padding-bottom: 12px;
  border-bottom: 1px solid var(--rule);
  margin-bottom: 12px;
}
.answers {
  display: grid;
  gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr));
}
.answer { background: var(--shade); border-radius: 8px; padding: 10px 12px; min-width: 0; }
.answer .marks {
  color: var(--muted);
  font-size: 13px;
  font-variant-numeric: tabular-nums;
  margin: 8px 0 0;
}
.scroll { overflow-x: auto; }
.flag, td.short { white-space: nowrap; }
table { border-collapse: collapse; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th, td {
  text-align: left;
  vertical-align: top;
  padding: 6px 18px 6px 0;
  border-bottom: 1px solid var(--rule);
  overflow-wrap: normal;
}
td { overflow-wrap: anywhere; min-width: 5em; }
th { color: var(--muted); font-weight: 600; font-size: 13px; }
summary { cursor: pointer; color: var(--muted); }
details[open] > summary { margin-bottom: 10px; }
ul.lines { margin: 0; padding-left: 20px; max-width: 860px; }
pre.code {
  background: var(--shade);
  border-radius: 8px;
  padding: 12px 14px;
  overflow-x: auto;
  font: 14px/1.5 var(--mono);
  margin: 0;
}
footer { color: var(--muted); font-size: 13px; margin-top: 56px; }
@media (max-width: 560px) {
  main { padding: 24px 16px 40px; }
  .numbers { grid-template-columns: 1fr 1fr; }
  .card { padding: 14px; }
}
@media print { details > * { display: block; } .card, figure { break-inside: avoid; } }
"""
