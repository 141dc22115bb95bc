// A conversation: messages through the chat template, the cache kept between turns.

import { checkOptions, shown } from "./utils/checks.js";
import { InputError } from "./errors.js";
import { Generation, generateTokens } from "./decode/generate.js";
import { historyLength, recent } from "./history.js";
import { ELSEWHERE } from "./model.js";
import { opensThinking, splitThinking } from "./text/thinking.js";

const OPTIONS = ["system", "depth", "sampling", "seed", "history", "templateVariables"];
const SEND = ["maxTokens", "signal", "changes", "depth", "sampling"];

/** Variables of a template: JSON by name. @param {Record<string, any>} given */
function checkVariables(given) {
  checkOptions("templateVariables", given, Object.keys(given ?? {}));
  for (const name of Object.keys(given)) {
    if (!/^[A-Za-z][A-Za-z0-9_]{0,63}$/.test(name)) {
      throw new InputError(`the template variable ${shown(name)} is not a name`);
    }
    if (["messages", "tools", "add_generation_prompt"].includes(name)) {
      throw new InputError(`the template variable ${shown(name)} cannot be set: it comes from the conversation`);
    }
  }
  return { ...given };
}

export class Chat {
  /** Use `Model.chat`. @param {import("./model.js").Model} model @param {any} options */
  constructor(model, options) {
    checkOptions("chat", options, OPTIONS, ELSEWHERE);
    void model.tokenizer, model.chatTemplate; // complain now, not at the first message
    const { system = null, depth = null, sampling = null, seed = 0, history = "trained" } = options;
    this.templateVariables = checkVariables(options.templateVariables ?? {});
    const trained = model.manifest.trainedLength;
    /** Tokens of a conversation that are read; null: all. @type {number | null} */
    this.length = historyLength(history, trained !== null && trained < model.context ? trained : null);
    this.leftOut = 0; // messages that the last turn left out
    const { temperature, topK, topP, minP, repetitionPenalty } = model.generationConfig;
    this.model = model;
    this.options = {
      depth: depth ?? model.defaultDepth,
      sampling: sampling ?? { temperature, topK, topP, minP, repetitionPenalty },
      seed,
    };
    model.plan(this.options, 1);
    this.sequence = model.borrow();
    /** @type {number[]} */
    this.tokens = []; // those that the caches hold
    this.key = ""; // what they depend on besides: depth and seed
    /** @type {Generation | null} */
    this.answer = null;
    /** @type {{role: string, content: string}[]} */
    this.messages = system ? [{ role: "system", content: system }] : [];
  }

  /**
   * Say something and get the answer, token by token; without what was thought before it, it joins
   * the conversation when it ends, or as far as it went when it is closed or aborted.
   * @param {string} text
   * @param {{maxTokens?: number, signal?: AbortSignal, changes?: boolean,
   *   depth?: import("./decode/depth.js").Depth, sampling?: import("./decode/sampling.js").Sampling}} [options]
   * @returns {Generation}
   */
  send(text, options = {}) {
    checkOptions("send", options, SEND);
    if (typeof text !== "string") throw new InputError(`a message must be text, got ${shown(text)}`);
    if (this.answer?.stats.finish === null && this.answer.stats.newTokens > 0) {
      throw new InputError("the last answer still runs; close it or wait for its end");
    }
    const messages = [...this.messages, { role: "user", content: text }];
    const { model } = this;
    const render = (/** @type {any[]} */ some) => model.chatTemplate.render(some, this.templateVariables);
    const count = (/** @type {any[]} */ some) => model.tokenizer.encode(render(some), false).length;
    const kept = recent(messages, this.length, options.maxTokens ?? 1024, count);
    const rendered = render(kept);
    const prompt = model.encode(rendered, false);
    const plan = model.plan({ ...this.options, ...options }, 1024);
    this.leftOut = messages.length - kept.length;
    this.answer = new Generation(this.run(messages, prompt, plan, opensThinking(rendered)), plan);
    return this.answer;
  }

  /** @param {any[]} messages @param {number[]} prompt @param {any} plan @param {boolean} opened */
  async *run(messages, prompt, plan, opened) {
    let [answer, count] = ["", 0];
    const tokens = [...prompt];
    this.sequence.truncate(this.common(prompt, plan.key));
    this.key = plan.key;
    try {
      for await (const token of generateTokens(this.sequence, prompt, plan)) {
        tokens.push(token.id);
        answer += token.text;
        count++;
        yield token;
      }
    } finally {
      this.tokens = tokens.slice(0, this.sequence.length);
      // What was thought is not read again: the next turn begins with the answer.
      const { content } = splitThinking(answer, opened);
      if (count) this.messages = [...messages, { role: "assistant", content }];
    }
  }

  /** Tokens of a prompt that need not be read again; never all. @param {number[]} prompt @param {string} key */
  common(prompt, key) {
    if (key !== this.key) return 0;
    const most = Math.min(this.tokens.length, prompt.length - 1);
    let same = 0;
    while (same < most && this.tokens[same] === prompt[same]) same++;
    return same;
  }

  /** Take the last question and its answer back; returns the question, null if there is none. */
  undo() {
    if (this.messages.at(-1)?.role !== "assistant") return null;
    const question = this.messages.at(-2)?.content ?? null;
    this.messages = this.messages.slice(0, -2);
    return question;
  }

  /** Free its caches; it cannot be used any more. */
  close() {
    this.model.giveBack(this.sequence);
  }
}
