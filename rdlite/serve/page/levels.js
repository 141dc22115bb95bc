// Says which of five colours stands for how many core steps, as the chat in a terminal does.

const LEVELS = 5;

/** Return 0, few steps, to 4, the most, on a logarithmic scale. */
export function level(steps, most) {
  return most > 1 ? Math.round(((LEVELS - 1) * Math.log(Math.max(1, steps))) / Math.log(most)) : 0;
}

/** Make a list say which colours mean how many steps. */
export function fillLegend(list, most) {
  const ranges = new Map();
  for (let steps = 1; steps <= most; steps++) {
    const found = level(steps, most);
    ranges.set(found, [ranges.get(found)?.[0] ?? steps, steps]);
  }
  const items = [...ranges].map(([found, [first, last]]) => {
    const item = document.createElement("li");
    item.className = `token level-${found}`;
    item.textContent = first === last ? `${first}` : `${first}-${last}`;
    return item;
  });
  const title = document.createElement("li");
  title.textContent = "steps";
  list.replaceChildren(title, ...items);
}
