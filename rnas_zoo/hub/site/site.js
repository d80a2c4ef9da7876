// Search, filters and sorting of the table, and the choice of a plot. Without this script all of them stay plain.
"use strict";
(() => {
  const data = document.getElementById("data");
  if (!data) return;
  const entries = JSON.parse(data.textContent);
  const byId = (id) => document.getElementById(id);
  const table = byId("zoo"), body = table.tBodies[0], form = byId("filters");
  const rows = [...body.rows]; // the order of the entries
  const heads = new Map([...table.tHead.rows[0].cells].map((head) => [head.dataset.key, head]));
  const views = [...document.querySelectorAll("[data-view]")];
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  const CHOICES = ["dataset", "threat", "protocol"];

  // What is on view, as it stands in the address: #q=…&dataset=…&sort=-robust&plot=…
  const state = { q: "", dataset: "", threat: "", protocol: "", max: "", sort: "", plot: "" };

  const opposite = (direction) => (direction === "ascending" ? "descending" : "ascending");
  const sorting = () => {
    const key = state.sort.replace(/^-/, "");
    return heads.has(key) ? { key, direction: state.sort.startsWith("-") ? "descending" : "ascending" } : null;
  };

  /** 200k, 0.3M, 1e6 or 150,000 as a number; NaN for anything else. */
  function count(text) {
    const found = /^(\d+(?:\.\d+)?(?:e\d+)?|\d+(?:,\d{3})+)\s*([kM]?)$/i.exec(text.trim());
    if (!found) return NaN;
    return Number(found[1].replaceAll(",", "")) * { "": 1, k: 1e3, m: 1e6 }[found[2].toLowerCase()];
  }

  function fits(entry) {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const most = state.max.trim() ? count(state.max) : Infinity;
    return words.every((word) => entry.words.includes(word))
      && CHOICES.every((key) => !state[key] || entry[key] === state[key])
      && (Number.isNaN(most) || entry.parameters <= most);
  }

  /** Indices of all entries in the chosen order: missing values last, equal ones by protocol, then as they were. */
  function order() {
    const indices = entries.map((_, i) => i), chosen = sorting();
    if (!chosen) return indices;
    const sign = chosen.direction === "ascending" ? 1 : -1;
    return indices.sort((i, j) => {
      const a = entries[i][chosen.key], b = entries[j][chosen.key];
      if (a === null || b === null) return (a === null) - (b === null) || i - j;
      const difference = typeof a === "number" ? a - b : compare(a, b);
      return sign * difference || entries[j].strength - entries[i].strength || i - j;
    });
  }

  function show() {
    const visible = entries.map(fits), number = visible.filter(Boolean).length, chosen = sorting();
    rows.forEach((row, i) => { row.hidden = !visible[i]; });
    body.append(...order().map((i) => rows[i]));
    for (const [key, head] of heads) {
      if (chosen && chosen.key === key) head.setAttribute("aria-sort", chosen.direction);
      else head.removeAttribute("aria-sort");
    }
    byId("count").textContent = number === entries.length ? `${number} models` : `${number} of ${entries.length} models`;
    byId("empty").hidden = number > 0;
    byId("clear").hidden = !Object.entries(state).some(([key, value]) => value && key !== "plot");
    for (const part of document.querySelectorAll(".figures [data-entry]")) {
      part.classList.toggle("away", !visible[Number(part.dataset.entry)]);
    }
    const wrong = state.max.trim() !== "" && Number.isNaN(count(state.max));
    byId("max-problem").hidden = !wrong;
    byId("max").setAttribute("aria-invalid", String(wrong));
    for (const key of ["q", "max", "sort", ...CHOICES]) if (byId(key).value !== state[key]) byId(key).value = state[key];
    const view = views.find((each) => each.dataset.view === state.plot) || views[0];
    for (const each of views) each.hidden = each !== view;
    for (const button of byId("views")?.children || []) {
      button.setAttribute("aria-pressed", String(button.textContent === view.dataset.view));
    }
  }

  function write() {
    const told = new URLSearchParams(Object.entries(state).filter(([, value]) => value));
    history.replaceState(null, "", `#${told}`);
  }

  function read() {
    const told = new URLSearchParams(location.hash.slice(1));
    for (const key of Object.keys(state)) state[key] = told.get(key) || "";
    for (const key of CHOICES) if (!entries.some((entry) => entry[key] === state[key])) state[key] = "";
    if (!sorting()) state.sort = "";
  }

  function change(key, value) {
    state[key] = value;
    write();
    show();
  }

  for (const key of CHOICES) {
    const values = [...new Set(entries.map((entry) => entry[key]).filter(Boolean))].sort(compare);
    byId(key).append(...values.map((value) => new Option(value, value)));
    byId(key).addEventListener("change", () => change(key, byId(key).value));
  }
  for (const key of ["q", "max"]) byId(key).addEventListener("input", () => change(key, byId(key).value));
  for (const [key, head] of heads) {
    const button = document.createElement("button"), label = head.textContent.trim(), first = head.dataset.first;
    button.type = "button";
    button.textContent = label;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const now = sorting();
      const direction = now && now.key === key ? opposite(now.direction) : first;
      change("sort", (direction === "descending" ? "-" : "") + key);
    });
    const words = { ascending: "lowest first", descending: "highest first" };
    const named = head.classList.contains("number") ? [first, opposite(first)] : ["ascending"];
    byId("sort").append(...named.map((direction) => {
      const suffix = head.classList.contains("number") ? `, ${words[direction]}` : "";
      return new Option(label + suffix, (direction === "descending" ? "-" : "") + key);
    }));
  }
  byId("sort").addEventListener("change", () => change("sort", byId("sort").value));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    for (const key of Object.keys(state)) if (key !== "plot") state[key] = "";
    write();
    show();
    byId("q").focus();
  });
  if (views.length > 1) {
    byId("views").hidden = false;
    byId("views").append(...views.map((view) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = view.dataset.view;
      button.addEventListener("click", () => change("plot", view.dataset.view));
      view.querySelector("h3").hidden = true;
      return button;
    }));
  }
  for (const item of document.querySelectorAll(".view [data-entry]")) {
    const mates = item.closest(".view").querySelectorAll(`[data-entry="${item.dataset.entry}"]`);
    const light = (on) => mates.forEach((mate) => mate.classList.toggle("lit", on));
    for (const event of ["mouseenter", "focusin"]) item.addEventListener(event, () => light(true));
    for (const event of ["mouseleave", "focusout"]) item.addEventListener(event, () => light(false));
  }
  addEventListener("hashchange", () => { read(); show(); });
  form.hidden = false;
  read();
  show();
  document.documentElement.dataset.state = "ready";
})();
