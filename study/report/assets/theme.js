// What every page has: light or dark, commands to copy, and the contents that follow the reader.

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

/** Do something with the browser's memory, which a page may be denied. */
function remembering(action) {
  try {
    return action();
  } catch {
    return null;
  }
}

// As the system has it, until the reader chooses.

const KEY = "encore-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";

/** Tells figures that light has become dark, or dark light. */
const themes = new EventTarget();

function retint() {
  const button = $("#theme");
  button.textContent = isDark() ? "light" : "dark";
  button.setAttribute("aria-pressed", String(isDark()));
  button.setAttribute("aria-label", `${button.textContent} colours`);
  themes.dispatchEvent(new Event("change"));
}

const before = remembering(() => localStorage.getItem(KEY));
if (before === "light" || before === "dark") document.documentElement.dataset.theme = before;
dark.addEventListener("change", retint);
$("#theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  remembering(() => localStorage.setItem(KEY, theme));
  retint();
});
retint();

for (const button of $$("button.copy")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    const said = await navigator.clipboard.writeText($("code", button.parentNode).textContent)
      .then(() => "copied", () => "denied");
    button.textContent = said;
  });
}

// The section that is being read is marked in the contents.

const reading = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      for (const link of $$("nav a")) {
        if (link.hash === `#${target.id}`) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }
  },
  { rootMargin: "-20% 0px -75% 0px" },
);
for (const section of $$("main > section")) reading.observe(section);
