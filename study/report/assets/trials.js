// Trials: the picker, the curves of the one that is picked, and the table of all.

const details = panel("curves").data;
const byNumber = new Map(details.trials.map((trial) => [trial.n, trial]));
const sign = details.higher_is_better ? -1 : 1;
const metric = details.metric;

/** The best first; what has no score comes last. */
const ranked = [...details.trials].sort(
  (a, b) => (a.score == null) - (b.score == null) || sign * (a.score - b.score) || a.loss - b.loss || a.n - b.n,
);

const select = $("#trial");
select.append(
  ...ranked.map((trial) =>
    make("option", { value: trial.n }, `${trial.n}: ${trial.score_text}, ${trial.state}, seed ${trial.seed}`)),
);
select.addEventListener("change", () => pick(Number(select.value)));

function step(by) {
  const option = select.options[select.selectedIndex + by];
  if (option) pick(Number(option.value));
}
$("#previous").addEventListener("click", () => step(-1));
$("#next").addEventListener("click", () => step(1));

picks.addEventListener("pick", ({ detail }) => {
  const trial = byNumber.get(detail);
  if (!trial) return;
  select.value = String(detail);
  $("#previous").disabled = select.selectedIndex === 0;
  $("#next").disabled = select.selectedIndex === select.options.length - 1;
  showDetail(trial);
  remembering(() => history.replaceState(null, "", `#trial-${detail}`));
});

const PALETTE = { train: "#56B4E9", valid: "#0072B2", score: "#E69F00", lr: "#009E73", size: "#CC79A7" };

function showDetail(trial) {
  const runs = trial.runs.map((id) => details.runs[id]);
  const said = [`Trial ${trial.n}, seed ${trial.seed}, ${trial.role}, ${trial.state}: ${metric} ${trial.score_text}. ${trial.schedule}.`];
  if (trial.failure) said.push(` ${trial.failure}`);
  const shared = runs.filter((run) => run.shared > 1).length;
  if (shared) said.push(` ${shared} of its stages ${shared === 1 ? "is" : "are"} shared with other trials.`);
  $("#detail-said").replaceChildren(visible(said.join("")));
  const host = $("#detail .plot");
  const epochs = runs.reduce((sum, run) => sum + run.epoch.length, 0);
  host.hidden = epochs < 2;
  if (epochs >= 2) draw(host, detailFigure(runs));
  else $("#detail-said").append(" From its second epoch on, its curves are drawn here.");
}

/** Put a trial's stages beside each other: loss, score, and below them rate and size. */
function detailFigure(runs) {
  const columns = { x: [], train: [], valid: [], score: [], lr: [], size: [], bounds: [0] };
  const bands = [];
  for (const run of runs) {
    const start = columns.bounds.at(-1);
    const end = start + Math.max(run.epochs, run.epoch.at(-1) ?? 0);
    columns.bounds.push(end);
    run.epoch.forEach((epoch, index) => {
      columns.x.push(start + epoch);
      columns.train.push(run.train_loss[index]);
      columns.valid.push(run.valid_loss[index]);
      columns.score.push(run.score[index]);
      columns.lr.push(run.lr[index]);
      columns.size.push(run.image_size);
      const restarts = index > 0 && run.cycle[index] !== run.cycle[index - 1];
      if (restarts) bands.push(upright(start + epoch - 0.5, "dot"));
    });
    if (start) bands.push(upright(start + 0.5, "solid"));
    if (run.stage % 2 === 0) bands.push(band(start + 0.5, end + 0.5));
  }
  return { data: detailTraces(columns), layout: detailLayout(runs, columns.bounds, bands) };
}

const upright = (x, dash) => ({
  type: "line", xref: "x", x0: x, x1: x, yref: "paper", y0: 0, y1: 1,
  line: { color: "#888888", width: 1, dash },
});

const band = (x0, x1) => ({
  type: "rect", xref: "x", x0, x1, yref: "paper", y0: 0, y1: 1, layer: "below",
  fillcolor: "rgba(128, 128, 128, 0.12)", line: { width: 0 },
});

function detailTraces({ x, train, valid, score, lr, size }) {
  const line = (name, y, yaxis, key, more = {}) => ({
    type: "scatter", mode: "lines+markers", name, x, y, yaxis,
    marker: { size: x.length > 60 ? 1 : 5 }, line: { color: PALETTE[key], width: 1.8, ...more },
    hovertemplate: `epoch %{x}: %{y}<extra>${name}</extra>`,
  });
  return [
    line("training loss", train, "y", "train"),
    line("validation loss", valid, "y", "valid"),
    line(metric, score, "y2", "score"),
    line("learning rate of the head", lr, "y3", "lr"),
    line("image size", size, "y4", "size", { shape: "hvh", dash: "dot" }),
  ];
}

function detailLayout(runs, bounds, shapes) {
  const title = (text) => ({ title: { text, standoff: 10 }, automargin: true, zeroline: false });
  const last = bounds.at(-1);
  return {
    height: 600,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 56, r: 48, t: 44, b: 48 },
    hovermode: "x",
    legend: { orientation: "h", y: -0.12, yanchor: "top" },
    xaxis: { ...title("epoch"), range: [0.5, last + 0.5], anchor: "y3", ...(last <= 10 ? { dtick: 1 } : {}) },
    yaxis: { ...title("loss"), domain: [0.68, 1] },
    yaxis2: { ...title(metric), domain: [0.34, 0.62], ...(details.share ? { tickformat: ".1%" } : {}) },
    yaxis3: { ...title("learning rate"), domain: [0, 0.28], rangemode: "tozero", exponentformat: "power" },
    yaxis4: { ...title("px"), overlaying: "y3", side: "right", showgrid: false, rangemode: "tozero", tickvals: [...new Set(runs.map((run) => run.image_size))] },
    shapes,
    annotations: runs.map((run, index) => ({
      text: isNarrow() ? `${run.image_size} px` : `stage ${run.stage}<br>${run.image_size} px, ${run.trains === "probe" ? "probe" : `batch ${run.batch_size}`}`,
      x: (bounds[index] + bounds[index + 1] + 1) / 2,
      y: 1, yref: "paper", yanchor: "bottom", showarrow: false, font: { size: 11 },
    })),
  };
}

// A click on a trial's point or line, in any figure, picks it.

for (const name of ["parameters", "curves", "progress", "seeds"]) {
  whenDrawn(name, (host) => host.on("plotly_click", ({ points }) => {
    const found = points.map(({ customdata }) => (Array.isArray(customdata) ? customdata[0] : customdata));
    pick(found.find((number) => typeof number === "number"));
  }));
}

const trialTable = table($("#trials-table"), {
  label: "trials",
  key: "trials",
  rows: details.trials,
  words: (trial) => `${trial.n} ${trial.state} ${trial.role} seed ${trial.seed} ${trial.schedule} ${trial.failure ?? ""}`,
  columns: [
    { title: "trial", value: (trial) => trial.n, cell: (trial) => pickButton(trial.n) },
    { title: metric, value: (trial) => trial.score, cell: (trial) => (trial.score == null ? "–" : trial.score_text), numeric: true, down: details.higher_is_better },
    { title: "loss", value: (trial) => trial.loss, cell: (trial) => trial.loss?.toFixed(4) ?? "–", numeric: true },
    { title: "seed", value: (trial) => trial.seed, numeric: true },
    { title: "role", value: (trial) => trial.role },
    { title: "state", value: (trial) => trial.state },
    { title: "schedule", value: (trial) => trial.schedule, cell: (trial) => (trial.failure ? `${trial.schedule}. ${trial.failure}` : trial.schedule), wide: true },
  ],
});
picks.addEventListener("pick", ({ detail }) => trialTable.show((trial) => trial.n === detail));

const asked = /^#trial-(\d+)$/.exec(location.hash);
const first = asked && byNumber.has(Number(asked[1])) ? Number(asked[1]) : ranked[0]?.n;
if (!asked) {
  // The address says only what was chosen.
  const trial = byNumber.get(first);
  if (trial) {
    picked = first;
    select.value = String(first);
    $("#previous").disabled = true;
    $("#next").disabled = ranked.length < 2;
    showDetail(trial);
  }
} else pick(first);
