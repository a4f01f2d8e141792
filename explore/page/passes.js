// The Passes view: what each pass changed, and why; those that changed nothing are pale.

function buildPasses() {
  const list = byId("pass-list");
  data.passes.forEach((pass, number) => {
    const marks = pass.remarks.length ? `${pass.remarks.length} ${pass.remarks.length === 1 ? "reason" : "reasons"}` : "";
    list.append(el("div", { class: `item${pass.changed ? "" : " pale"}`, role: "option", "data-at": number, tabindex: -1, "aria-selected": "false" },
      el("span", { class: "item-name" }, pass.name),
      el("span", { class: "item-under" }, [pass.regime, pass.changed ? "" : "changed nothing", marks, `${pass.ms} ms`].filter(Boolean).join(" · "))));
  });
  roving(list, ".item", (item) => showPass(Number(item.dataset.at)));
  const first = data.passes.findIndex((pass) => pass.changed);
  if (data.passes.length) showPass(Math.max(first, 0));
  else byId("pass-detail").append(el("p", { class: "none" }, "No pass ran."));
}

function showPass(number) {
  const pass = data.passes[number];
  for (const item of byId("pass-list").children) {
    const here = Number(item.dataset.at) === number;
    item.setAttribute("aria-selected", String(here));
    item.tabIndex = here ? 0 : -1;
  }
  const counts = Object.entries(pass.counts).map(([name, change]) => el("span", { class: `count ${change > 0 ? "more" : "less"}` }, `${name} ${change > 0 ? "+" : "−"}${Math.abs(change)}`));
  const reasons = pass.remarks.map((remark) => el("li", {}, el("span", { class: `did ${remark.did ? "" : "left"}` }, remark.did ? "did" : "left"),
    el("span", {}, remark.text, " ", remark.line ? lineChip(remark.line) : null)));
  const diff = el("div", { class: "diff", tabindex: 0, role: "group", "aria-label": `Changes of ${pass.name}` });
  for (const line of pass.diff) {
    const kind = /^(---|\+\+\+|@@)/.test(line) ? "hunk" : line[0] === "+" ? "added" : line[0] === "-" ? "removed" : "";
    const row = el("div", { class: `change ${kind}` });
    if (kind === "hunk") row.append(line);
    else {
      row.append(el("span", { class: "sign" }, line[0] || " "));
      highlightInto(row, line.slice(1), "ir");
    }
    diff.append(row);
  }
  byId("pass-detail").replaceChildren(
    el("h2", {}, pass.name, pass.regime ? el("span", { class: "about" }, ` ${pass.regime}`) : null),
    el("p", { class: "counts" }, ...(counts.length ? counts : [pass.changed ? "rewritten in place" : "changed nothing"])),
    reasons.length ? el("ul", { class: "reasons" }, ...reasons) : null || "",
    pass.diff.length ? diff : "");
  byId("pass-detail").scrollTop = 0;
}

function lineChip(line) {
  return el("button", { class: "chip", type: "button", onclick: () => goToLine(line) }, `line ${line}`);
}
