// One question and its answer, of which every token can be pointed at.

import { level } from "./levels.js";

export class Turn {
  /**
   * @param question what was asked.
   * @param most how many core steps a token of the answer may take.
   * @param pointed called with the turn when another token of it is pointed at, or none.
   */
  constructor(question, most, pointed) {
    const made = document.getElementById("turn").content.cloneNode(true);
    this.element = made.firstElementChild;
    this.answer = this.element.querySelector(".answer");
    this.note = this.element.querySelector(".note");
    this.element.querySelector(".question").textContent = question;
    Object.assign(this, { question, most, pointed, tokens: [], selected: null, hovered: null });
    this.usable = false; // as a part of the conversation
    this.complete = false; // the model has ended it
    this.summary = ""; // of what the answer took
    this.listen();
  }

  /** What was answered so far. */
  get text() {
    return this.tokens.map((token) => token.text).join("");
  }

  /** Index of the token that is pointed at; null: none. */
  get current() {
    return this.hovered ?? this.selected;
  }

  /** Show a further token. */
  add(token) {
    const shown = document.createElement("span");
    shown.className = `token level-${level(token.steps, this.most)}`;
    shown.textContent = token.text; // never markup: a model's text may be hostile
    shown.dataset.index = this.tokens.length;
    this.tokens.push(token);
    this.answer.append(shown);
  }

  /** Point at a token until another is; null: at none. */
  select(index) {
    this.answer.querySelector(".selected")?.classList.remove("selected");
    this.selected = index;
    this.hovered = null;
    if (index !== null) {
      this.answer.children[index].classList.add("selected");
      this.answer.children[index].scrollIntoView({ block: "nearest" });
    }
    this.pointed(this);
  }

  /** Say what the current token took. */
  describe() {
    const token = this.tokens[this.current];
    const value = token.exitValue === null ? "" : `, exit value ${brief(token.exitValue)}`;
    const steps = token.steps === 1 ? "1 step" : `${token.steps} steps`;
    return `Token ${this.current + 1} of ${this.tokens.length}, ${this.name(token)}: ${steps}${value}`;
  }

  name({ text }) {
    if (text === "") {
      const ends = this.complete && this.current === this.tokens.length - 1;
      return ends ? "the end" : "a part of a character";
    }
    return text.trim() ? `“${text.trim()}”` : "blank";
  }

  /** Keep what the answer took; the tokens after the first came within so many milliseconds. */
  summarize(milliseconds, usage) {
    const count = this.tokens.length;
    if (count === 0) {
      return;
    }
    const mean = this.tokens.reduce((sum, token) => sum + token.steps, 0) / count;
    const parts = [count === 1 ? "1 token" : `${count} tokens`];
    if (milliseconds > 0) {
      const speed = (1000 * (count - 1)) / milliseconds;
      parts.push(`${speed.toFixed(speed < 10 ? 1 : 0)} tokens/s`);
    }
    parts.push(`${mean.toFixed(1)} steps a token`);
    if (usage) {
      const { prompt_tokens: read, prompt_tokens_details: details } = usage;
      parts.push(`${details.cached_tokens} of ${read} prompt tokens reused`);
    }
    this.summary = parts.join(" · ");
  }

  listen() {
    const { answer } = this;
    answer.addEventListener("click", (event) => {
      const index = indexOf(event);
      if (index !== null) {
        this.select(index);
      }
    });
    answer.addEventListener("pointerover", (event) => this.hover(indexOf(event)));
    answer.addEventListener("pointerleave", () => this.hover(null));
    answer.addEventListener("focus", () => {
      if (this.selected === null && this.tokens.length && answer.matches(":focus-visible")) {
        this.select(0);
      }
    });
    answer.addEventListener("keydown", (event) => {
      const last = this.tokens.length - 1;
      const at = this.selected ?? -1;
      const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last };
      if (event.key in moves && last >= 0 && !event.ctrlKey && !event.altKey && !event.metaKey) {
        event.preventDefault();
        this.select(Math.min(Math.max(moves[event.key], 0), last));
      }
    });
  }

  hover(index) {
    if (index !== this.hovered) {
      this.hovered = index;
      this.pointed(this);
    }
  }
}

function brief(value) {
  const tiny = value !== 0 && Math.abs(value) < 0.001;
  return tiny ? value.toExponential(2) : value.toPrecision(3);
}

function indexOf(event) {
  const index = event.target.dataset.index;
  return index === undefined ? null : Number(index);
}
