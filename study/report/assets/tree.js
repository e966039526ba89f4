// The stage tree: a box leads to its trials, by mouse or from the list.

const boxes = panel("tree").data ?? [];
const rank = new Map(ranked.map((trial, place) => [trial.n, place]));
const SHOWN = 12;

/** Name a box's trials, the best first, and pick that one. */
function openBox(numbers, count, words) {
  const known = numbers.filter((number) => rank.has(number)).sort((a, b) => rank.get(a) - rank.get(b));
  if (!known.length) return;
  const more = count - Math.min(known.length, SHOWN);
  $("#tree-trials").replaceChildren(
    make("span", {}, `${words}: `),
    ...known.slice(0, SHOWN).map(pickButton),
    more > 0 ? make("span", { className: "hint" }, `and ${more} more`) : "",
    make("a", { href: "#detail" }, "its curves"),
  );
  pick(known[0]);
}

whenDrawn("tree", (host) => host.on("plotly_icicleclick", ({ points }) => {
  const [{ id, customdata }] = points;
  const box = boxes.find((each) => each.id === id);
  if (box) openBox(customdata[0], customdata[1], box.merged > 1 ? `${box.merged} stage runs` : `Stage run ${box.id.slice(0, 8)}`);
}));

if (boxes.length) {
  table($("#tree-list"), {
    label: "stage runs",
    key: "tree",
    rows: boxes.map((box, order) => ({ ...box, order, label: decoded(box.label) })),
    words: (box) => `${box.label} ${box.state} stage ${box.depth}`,
    columns: [
      { title: "stage run", value: (box) => box.order, cell: (box) => make("span", { style: `padding-left:${1.2 * (box.depth - 1)}rem` }, box.label) },
      { title: "stage", value: (box) => box.depth, numeric: true },
      { title: "state", value: (box) => box.state },
      { title: "stopped", value: (box) => box.stopped, numeric: true, down: true },
      { title: "time", value: (box) => box.order, cell: (box) => box.time_text, numeric: true },
      { title: "trials", value: (box) => box.n_trials, cell: openButton, down: true },
    ],
  });
} else $("#tree details").hidden = true;

function openButton(box) {
  const button = make("button", { type: "button", className: "open" }, `${box.n_trials} ${box.n_trials === 1 ? "trial" : "trials"}`);
  button.addEventListener("click", () => openBox(box.trials, box.n_trials, box.label));
  return button;
}

/** Labels are written for plotly, which takes numbered signs. */
function decoded(text) {
  return text.replace(/&#(\d+);/g, (_, code) => String.fromCodePoint(Number(code)))
    .replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
}
