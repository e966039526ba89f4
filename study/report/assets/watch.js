// A page that is being watched loads itself again, while it is looked at and not being used.

const PLACE = "encore-place";
const QUIET = 4000;
const every = Number(document.body.dataset.reload ?? 0) * 1000;

if (every) {
  let touched = 0;
  const loaded = Date.now();
  for (const kind of ["pointermove", "keydown", "wheel", "touchmove", "input"]) {
    addEventListener(kind, () => (touched = Date.now()), { passive: true });
  }
  setInterval(() => {
    const now = Date.now();
    if (document.visibilityState !== "visible" || now - loaded < every || now - touched < QUIET) return;
    const values = Object.fromEntries($$("input[id]").map((input) => [input.id, input.value]));
    remembering(() => sessionStorage.setItem(PLACE, JSON.stringify({ y: scrollY, values })));
    location.reload();
  }, 1000);
}

const place = remembering(() => JSON.parse(sessionStorage.getItem(PLACE)));
if (place) {
  remembering(() => sessionStorage.removeItem(PLACE));
  history.scrollRestoration = "manual";
  for (const [id, value] of Object.entries(place.values)) {
    const input = document.getElementById(id);
    if (!input || input.value === value) continue;
    input.value = value;
    input.dispatchEvent(new Event("input"));
  }
  addEventListener("load", () => scrollTo({ top: place.y, behavior: "instant" }));
}
