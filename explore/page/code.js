// The Code view: the source beside two stages, and below a kernel's texts; one place marks all.

const place = { shown: null, pinned: null, timer: 0 };
const stagePanes = [];
const kernelPanes = [];
let sourcePane = null;
let kernelNow = "";

function buildCode() {
  const band = byId("program-band");
  sourcePane = new Pane("Source", (kind, at) => heardStatement(kind, [at + 1, at + 1]));
  sourcePane.title(el("strong", {}, "Source"), el("span", { class: "about" }, "point at a line; a click holds it"));
  sourcePane.show(data.source.lines, data.source.language);
  sourcePane.links = data.source.lines.map((_, at) => [at + 1, at + 1]);
  band.append(sourcePane.node);
  const wanted = data.stages.filter((stage) => stage.id === "program" || stage.id === "plan");
  const shown = wanted.length === 2 ? wanted : data.stages.slice(-2);
  shown.forEach((stage, number) => band.append(stagePane(stage, number).node));
  if (data.kernels.length) buildKernels();
  else byId("kernel-band").hidden = true;
  markProblem();
}

function stagePane(stage, number) {
  const pane = new Pane(stage.title, (kind, at) => {
    heardStatement(kind, pane.links[at]);
    if (pane.calls && pane.calls[at] && kind === "pin") showKernel(pane.calls[at]);
  });
  pane.choose = el("select", { "aria-label": `Stage of pane ${number + 2}`, onchange: () => showStage(pane, pane.choose.value) });
  for (const one of data.stages) pane.choose.append(el("option", { value: one.id }, one.title));
  pane.about = el("span", { class: "about" });
  pane.title(pane.choose, pane.about);
  stagePanes.push(pane);
  showStage(pane, stage.id);
  return pane;
}

function showStage(pane, id) {
  const stage = data.stages.find((one) => one.id === id);
  pane.stage = id;
  pane.choose.value = id;
  pane.body.setAttribute("aria-label", stage.title);
  pane.about.textContent = stage.about;
  pane.links = stage.links;
  pane.calls = stage.calls;
  pane.show(stage.lines, stage.language);
  if (place.shown) markStatement(place.shown, false);
}

// What a pane hears of one of its lines: hovering shows, a click or Enter pins, Escape lets go.
// While something is pinned, the mouse may wander.
function heardStatement(kind, link) {
  if (kind === "hover" && place.pinned) return;
  clearTimeout(place.timer);
  if (kind === "leave") {
    place.timer = setTimeout(() => markStatement(place.pinned, false), 80);
  } else if (link) {
    if (kind === "pin") place.pinned = place.pinned && same(place.pinned, link) ? null : link;
    markStatement(link, true);
    place.timer = setTimeout(() => followKernels(link), kind === "hover" ? 250 : 0);
  }
}

function markStatement(link, reveal) {
  place.shown = link;
  const meets = (other) => Boolean(link && other && other[0] <= link[1] && other[1] >= link[0]);
  for (const pane of [sourcePane, ...stagePanes]) {
    pane.mark((at) => meets(pane.links[at]), reveal);
    pane.node.classList.toggle("pinned", Boolean(place.pinned));
  }
  markKernels(link);
}

function same(one, other) {
  return one[0] === other[0] && one[1] === other[1];
}

function pinLine(line) {
  place.pinned = [line, line];
  markStatement(place.pinned, true);
  sourcePane.reveal(line - 1);
  followKernels(place.pinned);
}

function letGo() {
  place.pinned = null;
  markStatement(null, false);
  letGoOfOperation();
}

function markProblem() {
  const problem = data.problem;
  if (!problem) return;
  const banner = byId("problem");
  banner.hidden = false;
  const where = problem.line ? el("button", { class: "chip", onclick: () => pinLine(problem.line) }, `line ${problem.line}`) : null;
  banner.append(el("strong", {}, `${problem.kind}: `), problem.message, " ", where);
  if (problem.hint) banner.append(el("span", { class: "hint" }, `hint: ${problem.hint}`));
  for (const note of problem.notes) banner.append(el("span", { class: "hint" }, `note: ${note.text}` + (note.line ? ` (line ${note.line})` : "")));
  const line = problem.line && sourcePane.at(problem.line - 1);
  if (!line) return;
  line.classList.add("bad");
  line.append(el("span", { class: "caret" }, `${" ".repeat(Math.max(problem.column - 1, 0))}^ ${problem.message}`));
  sourcePane.reveal(problem.line - 1);
}
