// Draws how far each core step moved the state: a line for each token, on a logarithmic scale.

import { level } from "./levels.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 320;
const HEIGHT = 216;
const PLOT = { left: 48, right: WIDTH - 8, top: 8, bottom: HEIGHT - 34 };
const LEAST = 1e-6; // what moved less is drawn as this
const FEWEST_STEPS = 4; // that the axis has room for
const TICKS = [1, 2, 5, 10, 20, 50, 100, 200];

export class Curve {
  constructor(svg) {
    this.svg = svg;
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.show([], 1);
  }

  /** Draw the lines of an answer; `most` is how many steps its tokens may have taken. */
  show(tokens, most) {
    this.tokens = [...tokens];
    this.most = most;
    this.selected = null;
    this.draw();
  }

  /** Draw a further token's line. */
  add(token) {
    this.tokens.push(token);
    if (this.fits(token)) {
      this.drawLine(token);
      this.label();
    } else {
      this.draw();
    }
  }

  /** Draw one token's line bold; null: none. */
  select(index) {
    this.selected = index;
    this.lines.forEach((line, i) => line.classList.toggle("selected", i === index));
    this.dot.toggleAttribute("hidden", index === null);
    if (index === null) {
      return;
    }
    const token = this.tokens[index];
    this.top.append(this.lines[index], this.dot); // above the others
    this.dot.setAttribute("class", `dot level-${level(token.steps, this.most)}`);
    this.dot.setAttribute("cx", this.x(token.changes.length));
    this.dot.setAttribute("cy", this.y(token.changes.at(-1) ?? LEAST));
  }

  draw() {
    const changes = this.tokens.flatMap((token) => token.changes.map(bounded));
    this.steps = this.tokens.reduce((most, token) => Math.max(most, token.steps), FEWEST_STEPS);
    const [least, most] = changes.reduce(
      ([low, high], change) => [Math.min(low, change), Math.max(high, change)],
      [0.1, 1],
    );
    this.low = Math.floor(Math.log10(least));
    this.high = Math.ceil(Math.log10(most) - 0.5) + 0.5; // half a decade of room is enough
    this.top = element("g", {});
    this.dot = element("circle", { class: "dot", r: 4, hidden: "" });
    this.lines = [];
    this.svg.replaceChildren(this.axes(), this.top);
    this.top.append(this.dot);
    this.tokens.forEach((token) => this.drawLine(token));
    this.label();
    this.select(this.selected);
  }

  fits(token) {
    const [low, high] = [10 ** this.low, 10 ** this.high];
    const inside = token.changes.every((change) => low <= bounded(change) && change <= high);
    return token.steps <= this.steps && inside;
  }

  drawLine(token) {
    let [path, pen] = ["", "M"];
    token.changes.forEach((change, i) => {
      if (change === null) {
        pen = "M"; // it was no number: the line has a gap there
      } else {
        path += `${pen}${this.x(i + 1)} ${this.y(change)}`;
        path += pen === "M" ? "h0" : ""; // so that a step alone is a dot
        pen = "L";
      }
    });
    const line = element("path", { class: `line level-${level(token.steps, this.most)}`, d: path });
    this.lines.push(line);
    this.top.append(line);
  }

  axes() {
    const { left, right, top, bottom } = PLOT;
    const axes = element("g", { class: "axes" });
    for (let power = this.low; power <= this.high; power++) {
      const y = this.y(10 ** power);
      axes.append(element("path", { d: `M${left} ${y}H${right}` }));
      const name = power < -3 ? `1e${power}` : `${Number(`1e${power}`)}`;
      axes.append(element("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, name));
    }
    const every = TICKS.find((tick) => this.steps / tick <= 8) ?? this.steps;
    for (let step = every; step <= this.steps; step += every) {
      const at = { x: this.x(step), y: bottom + 14, "text-anchor": "middle" };
      axes.append(element("text", at, `${step}`));
    }
    const [middle, height] = [(left + right) / 2, (top + bottom) / 2];
    const side = { x: 9, y: height, transform: `rotate(-90 9 ${height})` };
    axes.append(
      element("text", { x: middle, y: HEIGHT - 4, "text-anchor": "middle" }, "core step"),
      element("text", { ...side, "text-anchor": "middle" }, "relative change"),
    );
    return axes;
  }

  label() {
    const count = this.tokens.length;
    this.svg.style.setProperty("--faint", Math.min(0.55, 3 / Math.sqrt(count))); // many overlap
    const lines = count === 1 ? "one line, of its token" : `a line for each of ${count} tokens`;
    const told = count ? `The answer has ${lines}.` : "There is no answer yet.";
    this.svg.setAttribute("aria-label", `Relative change of the state by core step. ${told}`);
  }

  x(step) {
    const part = (step - 1) / (this.steps - 1);
    return rounded(PLOT.left + 6 + part * (PLOT.right - PLOT.left - 12));
  }

  y(change) {
    const part = (Math.log10(bounded(change)) - this.low) / (this.high - this.low);
    return rounded(PLOT.bottom - part * (PLOT.bottom - PLOT.top));
  }
}

function bounded(change) {
  return Math.max(change ?? 1, LEAST);
}

function rounded(value) {
  return Math.round(value * 100) / 100;
}

function element(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) {
    made.setAttribute(attribute, value);
  }
  made.textContent = text;
  return made;
}
