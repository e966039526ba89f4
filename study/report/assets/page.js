// What the report's parts stand on: the data inside the page, elements, and figures.

/** Show what cannot be seen, such as a sign that turns the reading direction. */
const visible = (text) => String(text).replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}]/gu, "\u{FFFD}");

/** Make an element. Children are elements, or text: never HTML. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.map((child) => (child instanceof Node ? child : visible(child))));
  return element;
}

/** Make text whose own direction stays its own, as a name of a class or a file. */
const named = (text) => make("bdi", {}, text);

const parsed = new Map();

/** Give a panel's {figure, data} by its name; null if the page has none. */
function panel(name) {
  if (!parsed.has(name)) {
    const block = $(`#panel-${name}`);
    parsed.set(name, block ? JSON.parse(block.textContent) : null);
  }
  return parsed.get(name);
}

const share = (value, digits = 1) => (value == null ? "–" : `${(100 * value).toFixed(digits)} %`);

// Trials are picked in many places, and shown in many.

const picks = new EventTarget();
let picked = null;

function pick(number) {
  if (number == null || number === picked) return;
  picked = number;
  picks.dispatchEvent(new CustomEvent("pick", { detail: number }));
}

const pickButton = (number) =>
  make("button", { type: "button", className: "pick", "data-trial": number }, number);

document.addEventListener("click", ({ target }) => {
  const button = target.closest("button.pick");
  if (!button) return;
  pick(Number(button.dataset.trial));
  if (!button.closest("#tree")) $(".picker").scrollIntoView({ block: "start" });
});

// Figures are drawn when they come near, and all before the page is printed.

const CONFIG = { responsive: true, displaylogo: false, showSendToCloud: false };
const colour = (name) => getComputedStyle(document.body).getPropertyValue(name);
const ink = () => getComputedStyle(document.body).color;
const isNarrow = () => innerWidth < 600;
const plots = new Map();

/** Give the colour scale of a figure that has one for the dark. */
const scaleOf = ({ data, layout }, dark) => layout.meta?.dark_scale && (dark ? layout.meta.dark_scale : data[0].colorscale);

function draw(host, figure) {
  const { layout } = figure;
  const scale = scaleOf(figure, isDark());
  const data = scale ? [{ ...figure.data[0], colorscale: scale }] : figure.data;
  const styled = { ...layout, autosize: true, font: { ...layout.font, color: ink() } };
  styled.font.family = "system-ui, sans-serif";
  // A long legend would take all of a phone.
  if (isNarrow() && data.length > 12) styled.showlegend = false;
  const config = { ...CONFIG, displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false };
  const first = !plots.has(host);
  plots.set(host, figure);
  Plotly.react(host, data, styled, config);
  if (first) host.dispatchEvent(new CustomEvent("drawn"));
}

const waiting = new Map();

const watcher = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => drawNow(target)),
  { rootMargin: "600px" },
);

function drawNow(host) {
  const figure = waiting.get(host);
  if (!figure) return;
  waiting.delete(host);
  watcher.unobserve(host);
  draw(host, figure);
}

for (const each of $$(".panel[data-panel]")) {
  const host = $(".plot", each);
  const figure = host && panel(each.dataset.panel).figure;
  if (!figure) continue;
  waiting.set(host, figure);
  watcher.observe(host);
}

/** Give where a panel is drawn; null if it has no figure. */
const plotOf = (name) => $(`.panel[data-panel="${name}"] .plot`);

/** Do something with a panel's plot once it is drawn. */
function whenDrawn(name, then) {
  const host = plotOf(name);
  if (host) host.addEventListener("drawn", () => then(host), { once: true });
}

const idle = window.requestIdleCallback ?? ((then) => setTimeout(then, 200));

function drawRest() {
  const [host] = waiting.keys();
  if (!host) return;
  drawNow(host);
  idle(drawRest);
}
addEventListener("load", () => idle(drawRest));

// Paper is narrow and white, whatever the screen is.

function tint(host, dark, layout) {
  const scale = scaleOf(plots.get(host), dark);
  Plotly.update(host, scale ? { colorscale: [scale] } : {}, layout);
}

const PAPER = { width: 680, autosize: false, "font.color": "#1d1f21" };

addEventListener("beforeprint", () => {
  for (const host of [...waiting.keys()]) drawNow(host);
  for (const host of plots.keys()) tint(host, false, PAPER);
});

addEventListener("afterprint", () => {
  for (const host of plots.keys()) tint(host, isDark(), { width: null, autosize: true, "font.color": ink() });
});

themes.addEventListener("change", () => {
  for (const host of plots.keys()) tint(host, isDark(), { "font.color": ink() });
});
