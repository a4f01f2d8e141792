// Puts the page together: tabs, going places, keys, colours.

function roving(list, selector, choose) {
  const items = () => [...list.querySelectorAll(selector)];
  list.addEventListener("click", (event) => {
    const item = event.target.closest(selector);
    if (item) choose(item);
  });
  list.addEventListener("keydown", (event) => {
    const all = items();
    const now = all.indexOf(event.target.closest(selector));
    const steps = { ArrowDown: 1, ArrowUp: -1, Home: -all.length, End: all.length };
    if (now < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const next = all[Math.min(Math.max(now + steps[event.key], 0), all.length - 1)];
    choose(next);
    next.focus({ preventScroll: true });
    revealIn(list, next);
  });
}

const tabs = [...document.querySelectorAll('[role="tab"]')];

function openTab(name, remember = true) {
  for (const tab of tabs) {
    const here = tab.dataset.view === name;
    tab.setAttribute("aria-selected", String(here));
    tab.tabIndex = here ? 0 : -1;
    byId(`view-${tab.dataset.view}`).hidden = !here;
  }
  document.body.dataset.view = name;
  if (remember) history.replaceState(null, "", `#${name}`);
}

function goToLine(line) {
  openTab("code");
  pinLine(line);
  say(`Line ${line}`);
}

function goToStage(id, at) {
  openTab("code");
  const pane = stagePanes.find((one) => one.stage === id) || stagePanes[stagePanes.length - 1];
  if (pane.stage !== id) showStage(pane, id);
  if (pane.links[at]) pinLine(pane.links[at][0]);
  flash(pane, at);
}

async function goToKernel(name, paneId = "tile", at = -1) {
  openTab("code");
  await showKernel(name);
  const pane = kernelPanes.find((one) => one.id === paneId);
  pane.node.scrollIntoView({ block: "nearest" });
  if (at >= 0) flash(pane, at);
  say(`Kernel ${name}`);
}

// Its animation ends by itself; the mark stays until the next one.
function flash(pane, at) {
  document.querySelectorAll(".line.flash").forEach((line) => line.classList.remove("flash"));
  pane.reveal(at);
  pane.at(at).classList.add("flash");
}

function buildTabs() {
  for (const tab of tabs) tab.addEventListener("click", () => openTab(tab.dataset.view));
  tabs[0].parentElement.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
    next.focus();
    openTab(next.dataset.view);
  });
  const asked = location.hash.slice(1);
  openTab(tabs.some((tab) => tab.dataset.view === asked) ? asked : "code", false);
}

function buildTheme() {
  const themes = { "": ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };
  const root = document.documentElement;
  const set = (name) => {
    if (name) root.dataset.theme = name;
    else delete root.dataset.theme;
    byId("theme").textContent = themes[name][0];
    byId("theme").setAttribute("aria-label", `Colours: ${themes[name][1]}`);
  };
  byId("theme").addEventListener("click", () => {
    const names = Object.keys(themes);
    set(names[(names.indexOf(root.dataset.theme || "") + 1) % names.length]);
  });
  set("");
}

document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "/" && !typing) {
    event.preventDefault();
    byId("search").focus();
  } else if (event.key === "Escape" && !typing) {
    letGo();
  }
});

buildTheme();
buildCode();
buildPasses();
buildFigures();
buildSearch();
buildTabs();
document.body.dataset.ready = "yes";
