"""The style of the page; every rule is scoped, so that a notebook keeps its own."""

STYLE = """
.se-page, .se-verdict { --back: #ffffff; --front: #1b1f24; --muted: #57606a; --line: #8c959f; --faint: #eef1f4;
  --right: #1a7f37; --wrong: #b3202c; --wrong-back: #fdecec; --band: #0969da;
  --heat0: #a8c7e8; --heat1: #5b93cf; --heat2: #f0a35e; --heat3: #d5532b; --heat4: #7d1128; color-scheme: light;
  background: var(--back); color: var(--front); font: 15px/1.5 system-ui, Helvetica, Arial, sans-serif; }
@media (prefers-color-scheme: dark) { .se-page, .se-verdict { --back: #0d1117; --front: #e6edf3; --muted: #9ba5b0;
  --line: #6e7781; --faint: #1a2028; --right: #4ac26b; --wrong: #ff8078; --wrong-back: #3a1618; --band: #58a6ff;
  --heat0: #46698f; --heat1: #7fb2ec; --heat2: #c98435; --heat3: #ee6a3d; --heat4: #ffb3a8; color-scheme: dark; } }
.se-page { margin: 0; }
.se-page main { max-width: 1000px; margin: 0 auto; padding: 16px; }
.se-page section { border-top: 2px solid var(--line); margin-top: 28px; }
.se-page footer { color: var(--muted); margin: 28px 0; }
.se-page a { color: var(--band); }
.se-page h1 { font-size: 24px; }
.se-page .title { font-weight: bold; overflow-wrap: anywhere; margin: 16px 12px 0; }
.se-verdict { padding: 4px 12px 12px; }
.se-verdict h2 { font-size: 19px; overflow-wrap: anywhere; }
.se-verdict h3 { font-size: 16px; margin: 18px 0 6px; }
.se-verdict p, .se-verdict li, .se-verdict figcaption { overflow-wrap: anywhere; }
.se-verdict td { overflow-wrap: break-word; }
.se-page .passed, .se-verdict .passed { color: var(--right); }
.se-page .failed, .se-verdict .failed { color: var(--wrong); font-weight: bold; }
.se-page table, .se-verdict table { border-collapse: collapse; margin: 6px 0; background: none; }
.se-page th, .se-page td, .se-verdict th, .se-verdict td { border: 1px solid var(--line); padding: 3px 10px;
  text-align: left; vertical-align: top; background: none; color: inherit; }
.se-page th, .se-verdict th { background: var(--faint); }
.se-page caption, .se-verdict caption { text-align: left; color: var(--muted); width: max-content; max-width: 88vw; }
.se-verdict figure { margin: 6px 0; }
.se-verdict figcaption { color: var(--muted); }
.se-verdict summary { cursor: pointer; }
.se-verdict pre { background: var(--faint); color: inherit; padding: 8px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.se-page .wide, .se-verdict .wide { overflow-x: auto; }
.se-verdict .plots { display: flex; flex-wrap: wrap; gap: 24px; }
.se-verdict svg { font: 13px system-ui, Helvetica, Arial, sans-serif; display: block; }
.se-verdict .plots svg { max-width: 100%; height: auto; }
.se-verdict svg text { fill: var(--front); stroke: none; text-anchor: middle; dominant-baseline: middle; }
.se-verdict svg .start { text-anchor: start; }
.se-verdict svg .end { text-anchor: end; }
.se-verdict svg .name { font-weight: bold; }
.se-verdict svg .small { font-size: 11px; fill: var(--muted); }
.se-verdict svg .stage rect { fill: var(--faint); stroke: var(--line); stroke-width: 1.5; }
.se-verdict svg .marked rect { fill: var(--wrong-back); stroke: var(--wrong); stroke-width: 3.5; }
.se-verdict svg .marked .name { fill: var(--wrong); }
.se-verdict svg .flow, .se-verdict svg .axis { fill: none; stroke: var(--line); stroke-width: 1.5; }
.se-verdict svg .head { fill: var(--line); stroke: none; }
.se-verdict svg .band { fill: var(--band); fill-opacity: 0.25; stroke: none; }
.se-verdict svg .bars { fill: none; stroke: var(--band); stroke-opacity: 0.3; stroke-width: 5; }
.se-verdict svg .line { fill: none; stroke: var(--band); stroke-width: 1; }
.se-verdict svg .dots { fill: none; stroke: var(--front); stroke-width: 4; stroke-linecap: round; }
.se-verdict svg .crosses { fill: none; stroke: var(--wrong); stroke-width: 1.5; }
""" + "".join(f".se-verdict svg .heat{step} {{ fill: var(--heat{step}); }}\n" for step in range(5))
