// Text to token ids and back; streams never split a character, and hold back what may be a stop.

import { Template } from "@huggingface/jinja";
import { Tokenizer as Library } from "@huggingface/tokenizers";

import { BundleError, InputError } from "../errors.js";

const REPLACEMENT = "\ufffd";
const MAX_TEXT_CHARACTERS = 16 * 2 ** 20;
const MAX_TEMPLATE_CHARACTERS = 64 * 1024;
const MAX_RENDERED_CHARACTERS = 16 * 2 ** 20;
const WINDOW = 16; // ids that are decoded together before a stream forgets the first ones

/** @param {any} problem */
const line = (problem) => String(problem?.message ?? problem).replace(/\s+/g, " ").slice(0, 200);

/** A tokenizer.json in use. */
export class Tokenizer {
  /** @param {Uint8Array} data @param {Map<string, string>} special @param {number} vocabSize */
  constructor(data, special, vocabSize) {
    this.vocabSize = vocabSize;
    try {
      const json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
      json.truncation = json.padding = null; // a prompt is never cut without a word
      const config = { ...Object.fromEntries(special), clean_up_tokenization_spaces: false };
      this.library = new Library(json, config);
    } catch (problem) {
      throw new BundleError(`tokenizer.json cannot be used: ${line(problem)}`);
    }
  }

  /** @param {string} text @param {boolean} [addSpecialTokens] @returns {number[]} */
  encode(text, addSpecialTokens = true) {
    if (typeof text !== "string") throw new InputError("a prompt must be text or token ids");
    if (text.length > MAX_TEXT_CHARACTERS) {
      throw new InputError(`the text has ${text.length} characters, at most ${MAX_TEXT_CHARACTERS}`);
    }
    try {
      return this.library.encode(text, { add_special_tokens: addSpecialTokens }).ids;
    } catch (problem) {
      throw new InputError(`the text cannot be encoded: ${line(problem)}`);
    }
  }

  /** The text of token ids, without special tokens. @param {number[]} ids @returns {string} */
  decode(ids) {
    return ids.length === 0 ? "" : this.library.decode(ids, { skip_special_tokens: true });
  }
}

/** A compiled chat template. */
export class ChatTemplate {
  /** @param {Uint8Array} data @param {Map<string, string>} special */
  constructor(data, special) {
    const source = new TextDecoder().decode(data);
    if (source.length > MAX_TEMPLATE_CHARACTERS) {
      throw new BundleError(
        `the chat template has ${source.length} characters, at most ${MAX_TEMPLATE_CHARACTERS}`,
      );
    }
    this.special = Object.fromEntries(special);
    try {
      this.template = new Template(source);
    } catch (problem) {
      throw new BundleError(`the chat template cannot be used: ${line(problem)}`);
    }
  }

  /**
   * The text of a conversation, ready to be encoded without special tokens.
   * @param {{role: string, content: string}[]} messages
   * @param {Record<string, any>} [variables] the template's own, such as `enable_thinking`
   * @returns {string}
   */
  render(messages, variables = {}) {
    let text;
    try {
      const given = messages.map((message) => ({ ...message }));
      text = this.template.render({ ...variables, ...this.special, messages: given, add_generation_prompt: true });
    } catch (problem) {
      throw new InputError(`the chat template refuses this conversation: ${line(problem)}`);
    }
    if (text.length > MAX_RENDERED_CHARACTERS) {
      throw new InputError(`the chat template wrote more than ${MAX_RENDERED_CHARACTERS} characters`);
    }
    return text;
  }
}

/** Turns ids into text one by one, holding back what is not yet a whole character. */
export class TextStream {
  /** @param {Tokenizer} tokenizer */
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    /** @type {number[]} */
    this.ids = [];
    this.emitted = 0;
  }

  /** The text that `token` completes; often a word, sometimes nothing. @param {number} token */
  push(token) {
    this.ids.push(token);
    const text = this.tokenizer.decode(this.ids);
    const end = text.replace(/\ufffd+$/, "").length;
    const piece = text.slice(this.emitted, Math.max(end, this.emitted));
    this.emitted = Math.max(end, this.emitted);
    if (end === text.length && this.ids.length >= WINDOW) {
      const alone = this.tokenizer.decode([token]);
      if (!alone.includes(REPLACEMENT)) [this.ids, this.emitted] = [[token], alone.length];
    }
    return piece;
  }

  /** What was held back, when no more ids come. */
  flush() {
    const piece = this.tokenizer.decode(this.ids).slice(this.emitted);
    [this.ids, this.emitted] = [[], 0];
    return piece;
  }
}

/** Passes text on until a stop string appears, holding back what may be the start of one. */
export class StopScanner {
  /** @param {string[]} stops */
  constructor(stops) {
    this.stops = stops;
    this.held = "";
    this.stopped = false;
  }

  /**
   * The text that is surely before any stop. Unless it `mayStop` yet, only what may be the start of
   * a stop is held back.
   * @param {string} piece @param {boolean} [mayStop]
   */
  push(piece, mayStop = true) {
    const text = this.held + piece;
    const found = this.stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    if (found.length && mayStop) {
      [this.stopped, this.held] = [true, ""];
      return text.slice(0, Math.min(...found));
    }
    const keep = this.stops.reduce((most, stop) => Math.max(most, overlap(text, stop)), 0);
    this.held = text.slice(text.length - keep);
    return text.slice(0, text.length - keep);
  }

  /** What was held back, when no more text comes. */
  flush() {
    const { held } = this;
    this.held = "";
    return held;
  }
}

/** Length of the longest end of `text` that `stop` starts with. @param {string} text @param {string} stop */
function overlap(text, stop) {
  for (let size = Math.min(text.length, stop.length - 1); size > 0; size--) {
    if (text.endsWith(stop.slice(0, size))) return size;
  }
  return 0;
}
