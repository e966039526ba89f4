// The stage tree: a box a stage run, its children to its right (on a phone below it); all is read
// without a click, and a click leads to a box's trials.

const boxes = panel("tree").data ?? [];
const rank = new Map(ranked.map((trial, place) => [trial.n, place]));
const SHOWN = 12;

/** Name a box's trials, the best first, and pick that one. */
function openBox(box) {
  const known = box.trials.filter((number) => rank.has(number)).sort((a, b) => rank.get(a) - rank.get(b));
  if (!known.length) return;
  const more = box.n_trials - Math.min(known.length, SHOWN);
  $("#tree-trials").replaceChildren(
    make("span", {}, `Stage ${box.depth}, ${box.label}: `),
    ...known.slice(0, SHOWN).map(pickButton),
    more > 0 ? make("span", { className: "hint" }, `and ${more} more`) : "",
    make("a", { href: "#detail" }, "its curves"),
  );
  pick(known[0]);
}

function boxOf(box) {
  const kind = box.stopped ? " stopped" : ["failed", "running", "waiting"].includes(box.state) ? ` ${box.state}` : "";
  const trials = `${box.n_trials} ${box.n_trials === 1 ? "trial" : "trials"}`;
  const notes = [box.time_text, trials, box.stopped ? `${box.stopped} pruned here` : "", box.state === "complete" ? "" : box.state];
  const button = make("button", { type: "button", className: `stage${kind}` },
    make("b", {}, box.score_text), ` ${box.label}`, make("small", {}, notes.filter(Boolean).join(" · ")));
  if (box.colour) button.style.setProperty("--rank", box.colour);
  button.addEventListener("click", () => openBox(box));
  return button;
}

const branches = new Map([["study", $("#stages")]]);
for (const box of boxes) {
  const children = make("ul");
  branches.set(box.id, children);
  branches.get(box.parent).append(make("li", {}, boxOf(box), children));
}
