"""The page's looks: plain CSS, light and dark, one column on a phone. Text colours reach a contrast of 4.5 on their ground."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --ink: #16191d; --muted: #565e69; --grid: #d9dde3; --accent: #0a5fb4;
  --right: #0b7a53; --wrong: #c02a2a; --warn: #fff4d6; --warn-ink: #6b4a00;
  --s0: #0a5fb4; --s1: #c2480c; --s2: #0b7a53; --s3: #8a3ea3; --s4: #8f6a00; --s5: #0d7285; --s6: #b5245f; --s7: #59616c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101317; --card: #191d23; --ink: #e8ebef; --muted: #a3acb8; --grid: #363d47; --accent: #74b6ff;
    --right: #4fd19b; --wrong: #ff8a80; --warn: #3a2f10; --warn-ink: #f4d58a;
    --s0: #6cb2ff; --s1: #ff9a5c; --s2: #4fd19b; --s3: #d79cf2; --s4: #e9c04a; --s5: #58cde0; --s6: #ff8ab8; --s7: #b3bcc8;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1320px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 4px; letter-spacing: -0.005em; }
h3 { font-size: 15px; margin: 0 0 6px; font-weight: 600; }
p { margin: 4px 0 12px; max-width: 76ch; }
a { color: var(--accent); }
.muted, figcaption { color: var(--muted); }
figcaption { font-size: 13px; margin-top: 6px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0 22px; font-size: 14px; }
nav a { text-decoration: none; }
nav a:hover, nav a:focus { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 12px; }
.tile, figure, .card { background: var(--card); border: 1px solid var(--grid); border-radius: 10px; }
.tile { padding: 12px 16px 13px; }
.tile .label { color: var(--muted); font-size: 13px; }
.tile .value { font-size: 27px; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile .value small { font-size: 14px; font-weight: 500; color: var(--muted); }
.tile .note { color: var(--muted); font-size: 13px; font-variant-numeric: tabular-nums; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 14px; }
.card { padding: 14px 16px; }
figure { margin: 0; padding: 14px 16px 12px; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 520px; margin: 0 auto; }
svg text { font-family: inherit; }
.notes { list-style: none; margin: 0 0 14px; padding: 0; }
.notes li { background: var(--warn); color: var(--warn-ink); border-radius: 8px; padding: 8px 14px; margin-bottom: 6px;
  overflow-wrap: anywhere; }
.missing { color: var(--muted); font-style: italic; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 12px; padding: 0; list-style: none; font-size: 14px; }
.legend svg { width: 15px; height: 15px; vertical-align: -2px; margin-right: 4px; overflow: visible; }
.sheets { display: grid; gap: 14px; grid-template-columns: minmax(0, 1fr); }
.sheets.pairs, .rows { grid-template-columns: repeat(auto-fill, minmax(min(585px, 100%), 1fr)); }
.rows { display: grid; gap: 0 24px; }
.row { margin: 0 0 14px; }
.row h4 { font-size: 13px; font-weight: 500; color: var(--muted); margin: 0 0 5px; }
.pictures { display: flex; flex-wrap: wrap; gap: 6px; margin: 0; padding: 0; list-style: none; }
.pictures li { width: 46px; text-align: center; font-size: 12px; line-height: 1.3; }
.pictures .frame { display: flex; align-items: center; justify-content: center; height: 90px; border-radius: 5px;
  border: 3px solid var(--right); background: var(--page); overflow: hidden; }
.pictures .bad .frame { border: 3px dashed var(--wrong); }
.pictures .plain .frame { border: 1px solid var(--grid); }
.pictures img { width: 100%; height: 100%; object-fit: cover; display: block; }
.pictures b { color: var(--right); font-size: 14px; }
.pictures .bad b { color: var(--wrong); }
.pictures .plain b { color: var(--muted); font-weight: 500; font-size: 12px; }
.pictures .query { margin-right: 10px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 18px 4px 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
th { font-weight: 600; color: var(--muted); white-space: nowrap; }
td.number, th.number { text-align: right; }
td.wrap { overflow-wrap: anywhere; }
table.fixed { width: 100%; table-layout: fixed; }
table.fixed th:first-child, table.fixed td:first-child { width: 42%; }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--accent); padding: 2px 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  margin: 8px 0 0; }
@media (max-width: 560px) {
  main { padding: 18px 14px 48px; }
  h1 { font-size: 22px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; }
  .tile { padding: 10px 12px; }
  .tile .value { font-size: 22px; }
  figure, .card { padding: 12px 10px; }
  th, td { padding-right: 12px; }
}
@media print { nav { display: none; } figure, .tile, .card { break-inside: avoid; } }
"""
