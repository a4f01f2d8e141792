// A pane shows one listing: lines that can be hovered, focused one at a time, and marked.

const CHUNK = 200;

class Pane {
  // `links(line)` gives what a line stands for; `on(kind, line)` hears hover, leave, focus, pin.
  constructor(label, on) {
    this.on = on;
    this.marked = [];
    this.body = el("div", { class: "lines", role: "group", "aria-label": label });
    this.head = el("div", { class: "pane-head" });
    this.node = el("div", { class: "pane" }, this.head, this.body);
    this.lines = [];
    this.body.addEventListener("mouseover", (event) => this.hear("hover", event));
    this.body.addEventListener("mouseleave", () => this.on("leave", -1, this));
    this.body.addEventListener("focusin", (event) => this.focused(event));
    this.body.addEventListener("click", (event) => this.hear("pin", event));
    this.body.addEventListener("keydown", (event) => this.key(event));
  }

  title(...parts) {
    this.head.replaceChildren(...parts);
  }

  show(lines, language) {
    this.marked = [];
    this.lines = lines;
    this.body.replaceChildren();
    this.body.scrollTop = this.body.scrollLeft = 0;
    const digits = String(lines.length).length;
    this.body.style.setProperty("--digits", digits);
    for (let start = 0; start < lines.length; start += CHUNK) {
      const chunk = el("div", { class: "chunk" });
      const part = lines.slice(start, start + CHUNK);
      chunk.style.containIntrinsicSize = `auto ${part.length * 18}px`;
      part.forEach((text, offset) => chunk.append(lineOf(text, start + offset, language)));
      this.body.append(chunk);
    }
    const first = this.at(0);
    if (first) first.tabIndex = 0;
  }

  at(number) {
    const chunk = this.body.children[Math.floor(number / CHUNK)];
    return chunk && chunk.children[number % CHUNK];
  }

  hear(kind, event) {
    const line = event.target.closest(".line");
    if (line) this.on(kind, Number(line.dataset.at), this);
  }

  focused(event) {
    const line = event.target.closest(".line");
    if (!line) return;
    this.body.querySelectorAll('.line[tabindex="0"]').forEach((other) => (other.tabIndex = -1));
    line.tabIndex = 0;
    if (line.matches(":focus-visible")) this.on("focus", Number(line.dataset.at), this);
  }

  key(event) {
    const line = event.target.closest(".line");
    if (!line) return;
    const now = Number(line.dataset.at);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20, Home: -1e9, End: 1e9 };
    if (event.key in steps) {
      event.preventDefault();
      const next = Math.min(Math.max(now + steps[event.key], 0), this.lines.length - 1);
      this.at(next).focus({ preventScroll: true });
      this.reveal(next);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.on("pin", now, this);
    }
  }

  // Marks the lines for which `wanted(at)` holds, and scrolls the first into sight.
  mark(wanted, reveal) {
    for (const line of this.marked) line.classList.remove("on");
    this.marked = [];
    let first = -1;
    let last = -1;
    for (let at = 0; at < this.lines.length; at++) {
      if (!wanted(at)) continue;
      const line = this.at(at);
      line.classList.add("on");
      this.marked.push(line);
      if (first < 0) first = at;
      if (at < first + 5) last = at;
    }
    if (reveal && first >= 0 && !(this.inSight(first) && this.inSight(last))) this.reveal(first, true);
    return first;
  }

  inSight(number) {
    const [box, around] = [this.at(number).getBoundingClientRect(), this.body.getBoundingClientRect()];
    return box.top >= around.top && box.bottom <= around.bottom;
  }

  reveal(number, always = false) {
    const line = this.at(number);
    if (!line) return;
    const [box, around] = [line.getBoundingClientRect(), this.body.getBoundingClientRect()];
    if (always || box.top < around.top || box.bottom > around.bottom) {
      this.body.scrollTop += box.top - around.top - this.body.clientHeight / 3;
    }
  }
}

function lineOf(text, at, language) {
  const words = el("span", { class: "text" });
  highlightInto(words, text, language);
  return el("div", { class: "line", "data-at": at, tabindex: -1 }, el("span", { class: "number" }, String(at + 1)), words);
}
