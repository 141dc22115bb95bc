// The loop: read a prompt in chunks, then one token after another; yields Tokens.

import { Aborted } from "./pause.js";
import { RaggedBatch } from "../engine/ragged.js";

/**
 * One new token.
 * @typedef {object} Token
 * @property {number} id
 * @property {string} text what can be shown after it; never half a character, so sometimes empty
 * @property {number} steps core steps that were run to choose it
 * @property {number | null} exitValue what the exit rule said last
 * @property {number} logprob natural, under the model's own distribution
 * @property {{id: number, logprob: number}[]} alternatives the likeliest tokens in its place, as
 *   many as `topLogprobs` asked for
 * @property {number[] | null} changes how far each step moved the state; null unless asked for
 */

/**
 * What a generation took; times in seconds.
 * @typedef {object} Stats
 * @property {number} promptTokens
 * @property {number} reusedTokens
 * @property {number} newTokens
 * @property {number} coreSteps
 * @property {number} promptSteps
 * @property {number} timeToFirstToken
 * @property {number} decodeSeconds
 * @property {"stop" | "stop-string" | "length" | "context" | "cancelled" | null} finish
 */

/** @returns {Stats} */
export const newStats = () => ({
  promptTokens: 0,
  reusedTokens: 0,
  newTokens: 0,
  coreSteps: 0,
  promptSteps: 0,
  timeToFirstToken: 0,
  decodeSeconds: 0,
  finish: null,
});

/**
 * Read positions in chunks; those of a chunk stop together, or each at its own step. Yields lanes
 * that decode after `steps`, the steps that all of their positions took, and what the rule said last.
 * @param {any} sequence @param {number[]} ids @param {any} controller
 * @param {(lane: any, position: number) => void} start @param {number} most that a chunk may have @param {any} pause
 */
export async function* read(sequence, ids, controller, start, most, pause) {
  const chunk = Math.min(most, sequence.engine.longest);
  const group =
    controller.each && ids.length > 1
      ? new RaggedBatch(controller, Math.min(chunk, ids.length), sequence.engine.config.hiddenSize)
      : null;
  for (let first = 0; first < ids.length; first += chunk) {
    if (first > 0) await pause.take();
    const lane = sequence.begin(ids.slice(first, first + chunk), controller.maxSteps);
    const last = lane.size - 1;
    if (lane.pending) await lane.pending;
    start(lane, sequence.length);
    if (group === null || last === 0) {
      const steps = await controller.runSteps(lane, pause);
      yield { lane, steps, allSteps: steps * lane.size, value: controller.valueAt() };
    } else {
      const whole = await group.run(sequence, lane, pause);
      const allSteps = group.steps.slice(0, lane.size).reduce((sum, steps) => sum + steps);
      yield { lane: whole, steps: group.steps[last], allSteps, value: controller.valueAt(last) };
    }
    sequence.length += last + 1;
  }
}

/**
 * Read what of the prompt is not in `sequence` yet, then yield tokens until something ends it.
 * @param {any} sequence @param {number[]} prompt @param {any} plan
 * @returns {AsyncGenerator<Token, void>}
 */
export async function* generateTokens(sequence, prompt, plan) {
  const { stats, sampler, controller, stream, stops, pause } = plan;
  [stats.promptTokens, stats.reusedTokens] = [prompt.length, sequence.length];
  sampler.begin(prompt);
  let position = prompt.length;
  let fresh = prompt.slice(sequence.length);
  let clock = performance.now();
  sequence.spread();
  try {
    while (stats.finish === null) {
      await pause.take();
      let logits, steps, changes, value;
      for await (const chunk of read(sequence, fresh, controller, plan.start, plan.chunk, pause)) {
        // Decoded for every chunk: this is what fills the coda's cache.
        [steps, value] = [chunk.steps, chunk.value];
        chunk.lane.decode(steps, 1);
        if (chunk.lane.pending) await chunk.lane.pending;
        logits = chunk.lane.lastLogits(steps);
        changes = plan.changes ? controller.changes.slice() : null;
        if (stats.newTokens === 0) stats.promptSteps += chunk.allSteps;
      }
      const { token, logprob, alternatives } = sampler.choose(logits, sequence.length);
      sequence.gather();
      position++;
      stats.newTokens++;
      stats.coreSteps += steps;
      const stop = plan.stopIds.has(token);
      const piece = stream === null ? "" : stop ? stream.flush() : stream.push(token);
      let text = stops.push(piece, stats.newTokens > plan.minTokens);
      if (stop) stats.finish = "stop";
      else if (stops.stopped) stats.finish = "stop-string";
      else if (stats.newTokens >= plan.maxTokens) stats.finish = "length";
      else if (position > sequence.context) stats.finish = "context";
      if (stats.finish !== null) text += stops.flush();
      const seconds = (performance.now() - clock) / 1000;
      if (stats.newTokens === 1) stats.timeToFirstToken = seconds;
      else stats.decodeSeconds += seconds;
      yield { id: token, text, steps, exitValue: value, logprob, alternatives, changes };
      clock = performance.now();
      fresh = [token];
    }
  } catch (problem) {
    if (!(problem instanceof Aborted)) throw problem;
  } finally {
    stats.finish ??= "cancelled";
    sequence.truncate();
  }
}

/** New tokens as they come: iterate once. */
export class Generation {
  /** @param {AsyncGenerator<Token, void>} tokens @param {any} plan */
  constructor(tokens, plan) {
    this.tokens = tokens;
    this.plan = plan;
    /** The new token ids so far, a stop token included. @type {number[]} */
    this.ids = [];
    /** The new text so far. */
    this.text = "";
  }

  /** Counts, times and the reason it ended; `finish` is null until it has. @returns {Stats} */
  get stats() {
    return this.plan.stats;
  }

  async *[Symbol.asyncIterator]() {
    for await (const token of this.tokens) {
      this.ids.push(token.id);
      this.text += token.text;
      yield token;
    }
  }

  /** Run it to its end and return itself. */
  async done() {
    for await (const _ of this);
    return this;
  }

  /** End it now; what was generated so far stays. May be called twice. */
  async close() {
    await this.tokens.return(undefined);
  }
}
