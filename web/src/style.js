// How it looks: a constructed sheet, which needs no leave of a policy that forbids inline styles.

/** Light, dark. Every text colour keeps 4.5:1 on white and near black. */
const COLOURS = {
  accent: ['#067445', '#3fd58b'],
  'on-accent': ['#fff', '#04190e'],
  ink: ['#13201a', '#e9f0ec'],
  'ink-soft': ['#52625a', '#a2b3aa'],
  line: ['#dde4e0', '#2a3530'],
  caution: ['#8a4b00', '#f3c27a'],
};
const colours = (value) => Object.entries(COLOURS)
  .map(([name, pair]) => `--${name}:var(--scan-login-${name},${value(pair)});`).join('');

/** A ground for what is of that colour, whatever the page made of it. */
const tint = (name) => `color-mix(in srgb,var(--${name}) 12%,Canvas)`;

export const STYLE = `
:host{display:block;width:100%;max-width:344px;margin-inline:auto;${colours(([light]) => light)}
font-family:var(--scan-login-font,inherit);line-height:1.55;color:var(--ink);text-align:center;overflow-wrap:break-word}
@supports (color:light-dark(red,red)){:host{${colours(([light, dark]) => `light-dark(${light},${dark})`)}}}
:host([hidden]),[hidden]{display:none!important}
*,::before,::after{box-sizing:border-box}
p{margin:0}
#box,#tile{display:grid;justify-items:center}
#box{grid-template-columns:minmax(0,1fr)}
#head{display:flex;align-items:center;justify-content:center;gap:10px;min-height:30px;margin-bottom:14px;color:var(--ink-soft);font-size:.9375em;font-weight:600}
#tile{position:relative;width:min(var(--scan-login-size,280px),100%);aspect-ratio:1}
svg{fill:none;stroke:currentColor;stroke-linecap:round;stroke-linejoin:round}
#ring{position:absolute;inset:0;stroke-width:4}
#track{stroke:var(--line)}
#left{stroke:var(--accent);stroke-dasharray:100;stroke-dashoffset:100;opacity:0;transition:stroke-dashoffset 1s linear,opacity .4s}
.waiting #left,.scanned #left{opacity:1}
.short #left{stroke:var(--caution)}
#plate{position:absolute;inset:12px;overflow:hidden;border-radius:var(--scan-login-radius,16px)}
#plate>*{position:absolute;inset:0;width:100%;height:100%}
img#code{padding:8px;background:#fff;object-fit:contain;opacity:0;transition:opacity .35s}
img#code.ready{opacity:.07}
.waiting img#code.ready{opacity:1}
.loading #plate{background:${tint('ink-soft')};animation:breathe 1.6s ease-in-out infinite alternate}
#veil{display:grid;place-items:center;pointer-events:none}
#seal{display:grid;place-items:center;width:92px;height:92px;border-radius:50%;background:${tint('accent')};color:var(--accent)}
#seal svg{width:44px;stroke-width:1.6}
.declined #seal,.cancelled #seal,.expired #seal{background:${tint('ink-soft')};color:var(--ink-soft)}
.error #seal{background:${tint('caution')};color:var(--caution)}
#match,#short-code{color:var(--accent);font-size:6.5em;font-weight:700;line-height:1}
#short-code{margin-top:14px;font-size:2em}
#words{width:100%;min-height:102px;margin-top:18px}
#status-title{font-size:1.3125em;font-weight:650;line-height:1.3;outline:none}
#status-text,#meta{margin-top:5px;color:var(--ink-soft);font-size:.9375em}
#technical{margin-top:10px;color:var(--ink-soft);font-size:.8125em}
#meta{display:flex;flex-wrap:wrap;justify-content:center;min-height:26px;font-variant-numeric:tabular-nums}
.short #countdown{color:var(--caution);font-weight:600}
#actions{display:flex;flex-wrap:wrap;width:100%;min-height:46px;margin-top:10px}
button{flex:auto;min-height:46px;padding:.55em .6em;border:1px solid transparent;border-radius:12px;background:none;color:var(--ink-soft);font:inherit;font-weight:600;line-height:1.25;cursor:pointer}
button:hover{background:${tint('ink-soft')};color:var(--ink)}
button.primary{background:var(--accent);color:var(--on-accent)}
button.primary:hover{filter:brightness(.92)}
button[aria-disabled=true],button[aria-disabled=true]:hover{border-color:var(--line);background:${tint('ink-soft')};color:var(--ink-soft);filter:none;cursor:default}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
@keyframes breathe{to{opacity:.35}}
@media (prefers-reduced-motion:reduce){*{animation:none!important;transition:none!important}}
`;
