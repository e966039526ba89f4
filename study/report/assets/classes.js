// Classes: the photos of a cell, the numbers of each class, the slider of costs.

const perClass = panel("classes").data ?? [];
const classNames = new Map(perClass.map((each) => [each.index, each.name]));
const cells = panel("confusion").data ?? [];
const photos = panel("photos") ?? {};
let cellShown = null;

const MOST_CONFUSED = 5;
const MOST_SHOWN = 6;

/** Say what a cell counts, with pictures of at most so many of its photos. */
function cellOf(truth, predicted, most) {
  const cell = cells.find((each) => each.true === truth && each.predicted === predicted);
  const head = make("p", {}, named(classNames.get(truth)),
    ...(truth === predicted ? [", predicted correctly"] : [" misclassified as ", named(classNames.get(predicted))]),
    `: ${cell?.count ?? 0} ${cell?.count === 1 ? "photo" : "photos"}`);
  const shown = (cell?.photos ?? []).map((place) => photos[place]).filter(Boolean).slice(0, most);
  const order = `the ${truth === predicted ? "least" : "most"} confident first`;
  if (shown.length) head.append(shown.length < (cell?.count ?? 0) ? `, ${shown.length} shown, ${order}` : `, ${order}`);
  return [head, make("div", { className: "thumbs" }, ...shown.map(thumb))];
}

const mistakes = cells.filter((cell) => cell.true !== cell.predicted).slice(0, MOST_CONFUSED);
$("#confusions")?.append(...(mistakes.length
  ? mistakes.map((cell) => make("div", { className: "confused" }, ...cellOf(cell.true, cell.predicted, MOST_SHOWN)))
  : [make("p", {}, "No validation photo is misclassified.")]));

function openCell(truth, predicted) {
  const key = `${truth}>${predicted}`;
  if (key === cellShown) return;
  cellShown = key;
  $("#cell").replaceChildren(...cellOf(truth, predicted));
}

function thumb({ src, path, probability }) {
  return make("figure", {}, make("img", { src, alt: "", title: visible(path) }),
    make("figcaption", {}, share(probability), named(path.split("/").at(-1))));
}

whenDrawn("confusion", (host) => {
  const open = ({ points }) => openCell(points[0].customdata[0], points[0].customdata[1]);
  host.on("plotly_hover", open);
  host.on("plotly_click", open);
});

if (cells.length) {
  table($("#cells"), {
    label: "cells of the confusion matrix",
    key: "cells",
    rows: cells,
    words: (cell) => `${classNames.get(cell.true)} ${classNames.get(cell.predicted)}`,
    columns: [
      { title: "true", value: (cell) => classNames.get(cell.true), cell: (cell) => named(classNames.get(cell.true)) },
      { title: "predicted", value: (cell) => classNames.get(cell.predicted), cell: (cell) => named(classNames.get(cell.predicted)) },
      { title: "photos", value: (cell) => cell.count, cell: photosButton, numeric: true, down: true },
    ],
  });
  // What the five do not show already.
  const next = cells[mistakes.length] ?? cells[0];
  openCell(next.true, next.predicted);
}

function photosButton(cell) {
  const button = make("button", { type: "button", className: "open", "aria-label": `show ${cell.count} photos` }, cell.count);
  button.addEventListener("click", () => openCell(cell.true, cell.predicted));
  return button;
}

if (perClass.length) {
  table($("#per-class"), {
    label: "classes",
    key: "classes",
    rows: perClass,
    words: (each) => each.name,
    columns: [
      { title: "class", value: (each) => each.name, cell: (each) => named(each.name) },
      { title: "photos", value: (each) => each.photos, numeric: true, down: true },
      { title: "recall", value: (each) => each.recall, cell: (each) => share(each.recall), numeric: true },
      { title: "precision", value: (each) => each.precision, cell: (each) => share(each.precision), numeric: true },
      { title: "F1", value: (each) => each.f1, cell: (each) => share(each.f1), numeric: true },
      { title: "most often misclassified as", value: (each) => each.times, cell: takenFor, down: true },
    ],
  });
}

function takenFor({ taken_for: other, times }) {
  return other === null ? "–" : make("span", {}, named(other), ` (${times})`);
}

// The slider goes from setting to setting that differ in what they give.

const tradeOff = panel("trade_off")?.data;
const slider = $("#at");

function setTo(index) {
  const point = tradeOff.points[index];
  const two = tradeOff.kind === "threshold";
  const cost = `${tradeOff.priced ? "cost" : "mistakes"} per ${two ? "photo" : "answered photo"} ${point.cost?.toFixed(4) ?? "–"}`;
  const said = two
    ? [named(tradeOff.classes[0]), ` is predicted from a threshold of ${share(point.at)} on: ${cost}.`]
    : [`Coverage ${share(point.answered)}: ${point.wrong} mistakes among the photos answered, the others rejected; ${cost}.`];
  $("#at-said").replaceChildren(...said.map((each) => (each instanceof Node ? each : visible(each))));
  slider.setAttribute("aria-valuetext", $("#at-said").textContent);
  $("#at-numbers").replaceChildren(...(two ? [confusionOf(point)] : []));
  const host = plotOf("trade_off");
  const x = two ? point.at : point.answered;
  if (plots.has(host)) Plotly.relayout(host, { "shapes[0].x0": x, "shapes[0].x1": x });
}

function confusionOf(point) {
  const head = make("tr", {}, make("th", {}, "true"),
    ...tradeOff.classes.map((name) => make("th", { scope: "col", className: "n" }, "predicted ", named(name))),
    make("th", { scope: "col", className: "n" }, "recall"));
  const rows = tradeOff.classes.map((name, label) =>
    make("tr", {}, make("th", { scope: "row" }, named(name)),
      ...point.confusion[label].map((count) => make("td", { className: "n" }, count)),
      make("td", { className: "n" }, share(point.recalls[label]))));
  return make("div", { className: "scroll" },
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

if (slider && tradeOff.points.length) {
  const far = tradeOff.points.map((point) => Math.abs(point.at - (tradeOff.own ?? Infinity)));
  const own = tradeOff.own === null ? tradeOff.points.length - 1 : far.indexOf(Math.min(...far));
  slider.value = String(own);
  setTo(own);
  slider.addEventListener("input", () => setTo(Number(slider.value)));
  whenDrawn("trade_off", () => setTo(Number(slider.value)));
}
