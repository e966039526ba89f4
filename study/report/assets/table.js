// A table that can be sorted, filtered and leafed through: thousands of rows stay fast.

const ROWS = 25;

/**
 * Fill a place with a table. A column is {title, value(row), cell(row)?, numeric?, wide?, down?}:
 * it is sorted by `value`, first downwards where `down`, and shows `cell`'s node or text, else
 * `value`. Gives {show(test): leaf to the row that passes and mark it}.
 */
function table(place, { label, columns, rows, words, key }) {
  const state = { column: null, down: false, page: 0, found: rows, marked: null };
  const body = make("tbody");
  const heads = columns.map((column, index) => {
    const button = make("button", { type: "button", className: "sort" }, column.title);
    button.addEventListener("click", () => sort(index));
    return make("th", { scope: "col", className: column.numeric ? "n" : "" }, button);
  });
  const box = make("input", { type: "search", placeholder: "filter", "aria-label": `filter: ${label}`, id: `${key}-filter` });
  const back = make("button", { type: "button", "aria-label": `previous page: ${label}` }, "←");
  const on = make("button", { type: "button", "aria-label": `next page: ${label}` }, "→");
  const said = make("span", { className: "hint", "aria-live": "polite" });
  const scroll = make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": label },
    make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body));
  if (rows.length > ROWS) place.append(make("div", { className: "toolbar" }, box, back, on, said));
  place.append(scroll);

  box.addEventListener("input", () => {
    const asked = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    state.found = rows.filter((row) => asked.every((word) => words(row).toLowerCase().includes(word)));
    state.page = 0;
    arrange();
  });
  back.addEventListener("click", () => leaf(state.page - 1));
  on.addEventListener("click", () => leaf(state.page + 1));

  function sort(index) {
    state.down = state.column === index ? !state.down : Boolean(columns[index].down);
    state.column = index;
    state.page = 0;
    arrange();
  }

  function arrange() {
    heads.forEach((head, index) => {
      if (index !== state.column) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    });
    if (state.column !== null) {
      const { value } = columns[state.column];
      state.found = [...state.found].sort((a, b) => compare(value(a), value(b), state.down));
    }
    fill();
  }

  function leaf(page) {
    state.page = page;
    fill();
  }

  function fill() {
    const from = state.page * ROWS;
    const shown = state.found.slice(from, from + ROWS);
    body.replaceChildren(...shown.map(line));
    const until = from + shown.length;
    said.textContent = shown.length ? `${from + 1} to ${until} of ${state.found.length}` : "none";
    back.disabled = state.page === 0;
    on.disabled = until >= state.found.length;
  }

  function line(row) {
    const cells = columns.map(({ value, cell, numeric, wide }) => {
      const content = cell ? cell(row) : value(row) ?? "–";
      return make("td", { className: numeric ? "n" : wide ? "wide" : "" }, content);
    });
    const made = make("tr", {}, ...cells);
    if (row === state.marked) made.setAttribute("aria-current", "true");
    return made;
  }

  fill();
  return {
    show(test) {
      const at = state.found.findIndex(test);
      state.marked = state.found[at] ?? null;
      if (at >= 0) state.page = Math.floor(at / ROWS);
      fill();
    },
  };
}

/** Order numbers and texts; what is missing comes last, whichever way. */
function compare(a, b, down) {
  if (a == null || b == null) return (a == null) - (b == null);
  const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  return down ? -order : order;
}
