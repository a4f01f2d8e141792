// Search over everything in the page: source, stages, passes, kernels and their texts.

const MOST_FOUND = 80;
let found = [];
let chosen = -1;
let asked = 0;
let answered = "";

function buildSearch() {
  const input = byId("search");
  input.addEventListener("input", () => {
    clearTimeout(asked);
    asked = setTimeout(() => search(input.value), 80);
  });
  input.addEventListener("focus", () => input.value && search(input.value));
  input.addEventListener("keydown", searchKeys);
  byId("found").addEventListener("mousedown", (event) => {
    event.preventDefault();
    const item = event.target.closest("[data-at]");
    if (item) follow(Number(item.dataset.at));
  });
  input.addEventListener("blur", () => closeSearch());
}

function searchKeys(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && found.length) {
    event.preventDefault();
    choose((chosen + step + found.length) % found.length);
  } else if (event.key === "Enter") {
    event.preventDefault();
    clearTimeout(asked);
    const current = answered === event.target.value.trim().toLowerCase();
    (current ? Promise.resolve() : search(event.target.value)).then(() => follow(Math.max(chosen, 0)));
  } else if (event.key === "Escape") {
    event.stopPropagation();
    if (byId("found").hidden) event.target.blur();
    closeSearch();
  }
}

async function search(text) {
  const wanted = text.trim().toLowerCase();
  if (wanted.length < 2) return closeSearch();
  const results = [];
  const add = (where, line, go) => results.length < MOST_FOUND && results.push({ where, line: line.trim(), go });
  const lines = (where, all, go) => all.forEach((line, at) => line.toLowerCase().includes(wanted) && add(`${where} ${at + 1}`, line, () => go(at)));
  lines("source", data.source.lines, (at) => goToLine(at + 1));
  for (const kernel of data.kernels) if (kernel.name.toLowerCase().includes(wanted)) add("kernel", kernel.name, () => goToKernel(kernel.name));
  data.passes.forEach((pass, number) => {
    const go = () => (openTab("passes"), showPass(number));
    if (pass.name.includes(wanted)) add("pass", pass.name, go);
    for (const remark of pass.remarks) if (remark.text.toLowerCase().includes(wanted)) add(`pass ${pass.name}`, remark.text, go);
  });
  for (const stage of data.stages) lines(stage.title.toLowerCase(), stage.lines, (at) => goToStage(stage.id, at));
  for (const kernel of data.kernels) {
    if (results.length >= MOST_FOUND) break;
    for (const pane of await openKernel(kernel.name)) lines(`${pane.title} of ${kernel.name}`, pane.lines, (at) => goToKernel(kernel.name, pane.id, at));
  }
  if (byId("search").value.trim().toLowerCase() === wanted) showFound(results, wanted);
}

function showFound(results, wanted) {
  found = results;
  answered = wanted;
  const box = byId("found");
  box.replaceChildren(...results.map((result, at) => el("li", { role: "option", id: `found-${at}`, "data-at": at }, el("span", { class: "where" }, result.where), marked(result.line, wanted))));
  if (!results.length) box.append(el("li", { class: "none" }, "Nothing found"));
  box.hidden = false;
  byId("search").setAttribute("aria-expanded", "true");
  say(results.length >= MOST_FOUND ? `${MOST_FOUND} results or more` : `${results.length} results`);
  choose(results.length ? 0 : -1);
}

function marked(line, wanted) {
  const at = Math.max(line.toLowerCase().indexOf(wanted), 0);
  const from = at > 40 ? at - 30 : 0;
  return el("span", { class: "hit" }, (from ? "…" : "") + line.slice(from, at), el("mark", {}, line.slice(at, at + wanted.length)), line.slice(at + wanted.length, at + 120));
}

function choose(number) {
  chosen = number;
  for (const item of byId("found").children) item.setAttribute("aria-selected", String(Number(item.dataset.at) === number));
  const item = byId(`found-${number}`);
  if (item) item.scrollIntoView({ block: "nearest" });
  byId("search").setAttribute("aria-activedescendant", item ? item.id : "");
}

function follow(number) {
  const result = found[number];
  if (!result) return;
  closeSearch();
  byId("search").blur();
  result.go();
}

function closeSearch() {
  byId("found").hidden = true;
  byId("search").setAttribute("aria-expanded", "false");
}
