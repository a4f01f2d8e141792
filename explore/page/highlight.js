// Colours words by the rules that the terminal and the notebooks use, too.

const patterns = new Map();

function patternOf(language) {
  if (!patterns.has(language)) {
    const rules = data.highlight[language] || [];
    const source = rules.map(([, pattern]) => `(${pattern})`).join("|");
    patterns.set(language, { kinds: rules.map(([kind]) => kind), pattern: source && new RegExp(source, "g") });
  }
  return patterns.get(language);
}

function highlightInto(node, text, language) {
  const { kinds, pattern } = patternOf(language);
  let at = 0;
  if (pattern) {
    for (const found of text.matchAll(pattern)) {
      if (!found[0]) continue;
      if (found.index > at) node.append(text.slice(at, found.index));
      const kind = kinds[found.slice(1).findIndex((group) => group !== undefined)];
      node.append(el("span", { class: `w-${kind}` }, found[0]));
      at = found.index + found[0].length;
    }
  }
  if (at < text.length) node.append(text.slice(at));
}
