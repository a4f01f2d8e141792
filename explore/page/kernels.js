// The kernels: a list, and the chosen one's tile IR, Triton, TVMScript and assembly side by side.

const KERNEL_PANES = ["tile", "triton", "tvm", "assembly"];
let pinnedOperation = null;
let machine = "assembly"; // or "ptx", where the page has it

function buildKernels() {
  const list = el("div", { class: "list kernels", role: "listbox", "aria-label": "Kernels" });
  for (const kernel of data.kernels) {
    const under = kernel.steps.length ? kernel.steps.join(", ").replaceAll(", decode", ",") : "sampler";
    list.append(el("div", { class: "item", role: "option", id: `kernel-${kernel.name}`, "data-name": kernel.name, tabindex: -1, "aria-selected": "false", title: kernel.schedule },
      el("span", { class: "item-name" }, kernel.name), el("span", { class: "item-under" }, `${kernel.computes.replace("graph.", "")} · ${under}`)));
  }
  roving(list, ".item", (item) => showKernel(item.dataset.name));
  byId("kernel-band").append(el("div", { class: "pane listing" }, el("div", { class: "pane-head" }, el("strong", {}, "Kernels"), el("span", { class: "about" }, String(data.kernels.length))), list));
  for (const id of KERNEL_PANES) {
    const pane = new Pane(id, (kind, at) => heardOperation(kind, pane, at));
    pane.id = id;
    kernelPanes.push(pane);
    byId("kernel-band").append(pane.node);
  }
  showKernel(heaviest(new Set(data.kernels.map((kernel) => kernel.name))));
}

async function showKernel(name) {
  if (!(name in data.packed)) {
    say(`${name} is a library's routine: it has no text here`);
    return;
  }
  kernelNow = name;
  for (const item of document.querySelectorAll(".kernels .item")) {
    const here = item.dataset.name === name;
    item.setAttribute("aria-selected", String(here));
    item.tabIndex = here ? 0 : -1;
    if (here) revealIn(item.parentElement, item);
  }
  const texts = await openKernel(name);
  if (kernelNow !== name) return;
  pinnedOperation = null;
  for (const pane of kernelPanes) {
    if (pane.id === "assembly") showMachine(pane, texts, name);
    else showText(pane, texts.find((one) => one.id === pane.id), name);
  }
  markKernels(place.shown);
}

function showText(pane, text, name, title = null) {
  pane.origins = text.origins;
  pane.title(title || el("strong", {}, text.title), el("span", { class: "about" }, name));
  pane.body.setAttribute("aria-label", `${text.title} of ${name}`);
  pane.show(text.lines, text.language);
}

// The last pane holds the CPU's code or the GPU's, where the page has both.
function showMachine(pane, texts, name) {
  const found = texts.filter((one) => one.id === "assembly" || one.id === "ptx");
  const none = { title: "Assembly", lines: ["# not in this page: explore with --assembly or --ptx"], origins: [], language: "python" };
  const text = found.find((one) => one.id === machine) || found[0] || none;
  if (found.length < 2) return showText(pane, text, name);
  const choose = el("select", { "aria-label": "Machine code", onchange: () => ((machine = choose.value), showMachine(pane, texts, name)) });
  for (const one of found) choose.append(el("option", { value: one.id }, one.title));
  choose.value = text.id;
  showText(pane, text, name, choose);
}

function kernelsFor(link) {
  const found = new Set();
  if (link) for (let line = link[0]; line <= link[1]; line++) (data.statements[line] || []).forEach((name) => found.add(name));
  return found;
}

function markKernels(link) {
  const wanted = kernelsFor(link);
  for (const item of document.querySelectorAll(".kernels .item")) item.classList.toggle("on", wanted.has(item.dataset.name));
  for (const pane of kernelPanes) pane.node.classList.toggle("on", wanted.has(kernelNow));
}

// Shows a kernel that works for a statement, unless one that does is there.
function followKernels(link) {
  const wanted = kernelsFor(link);
  if (!wanted.size || wanted.has(kernelNow)) return;
  showKernel(heaviest(wanted));
}

// The kernel that takes most of a step, among some.
function heaviest(all) {
  const own = [...all].filter((name) => name in data.packed);
  const names = new Set(own.length ? own : all); // a library's routines have no text
  const cost = (point) => point.us * point.launches;
  const best = data.points.filter((point) => names.has(point.kernel) && point.step !== "any step").sort((a, b) => cost(b) - cost(a))[0];
  const other = data.points.filter((point) => names.has(point.kernel)).sort((a, b) => cost(b) - cost(a))[0];
  return (best || other || { kernel: [...names][0] }).kernel;
}

function heardOperation(kind, pane, at) {
  if (kind === "hover" && pinnedOperation) return;
  const origins = at >= 0 ? pane.origins[at] || [] : [];
  if (kind === "pin") pinnedOperation = pinnedOperation && pinnedOperation.join() === origins.join() ? null : origins;
  const shown = kind === "leave" ? pinnedOperation || [] : origins;
  const wanted = new Set(shown.filter((number) => number > 0 || shown.length === 1));
  for (const other of kernelPanes) other.mark((line) => (other.origins[line] || []).some((number) => wanted.has(number)), other !== pane);
}

function letGoOfOperation() {
  pinnedOperation = null;
  for (const pane of kernelPanes) pane.mark(() => false, false);
}

function revealIn(box, item) {
  const [inner, outer] = [item.getBoundingClientRect(), box.getBoundingClientRect()];
  if (inner.top < outer.top || inner.bottom > outer.bottom) box.scrollTop += inner.top - outer.top - box.clientHeight / 3;
}
