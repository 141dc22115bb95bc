// Choosing the next token from logits. Every draw is a pure function of (seed, position).

import { checkInteger, checkNumber, checkOptions } from "../utils/checks.js";
import { InputError, RuntimeFailure } from "../errors.js";
import { drawFromAll, likeliest, nucleus, pick } from "./draw.js";
import { argmax, logSum, max } from "../utils/numerics.js";
import { Philox, TOKENS } from "./random.js";

const { fround } = Math;

/**
 * How the next token is chosen; the defaults are greedy. Filters work in this order: bias,
 * penalties, temperature, topK, topP, minP.
 * @typedef {object} Sampling
 * @property {number} [temperature] divides the logits; 0 is greedy. 0 to 100
 * @property {number} [topK] keep the k likeliest tokens; 0 keeps all
 * @property {number} [topP] keep the fewest tokens whose probabilities sum to this. Above 0, to 1
 * @property {number} [minP] drop tokens less likely than this times the likeliest. 0 to 1
 * @property {number} [repetitionPenalty] divide positive logits (multiply negative ones) of tokens
 *   that the text already has. 0.01 to 100; 1 is off
 * @property {Record<number, number> | null} [logitBias] token id -> number added to its logit,
 *   -1000 to 1000
 * @property {number} [frequencyPenalty] subtracted from a token's logit for each time that the
 *   answer has it already. -2 to 2
 * @property {number} [presencePenalty] subtracted once if the answer has it. -2 to 2
 */

export const GREEDY = Object.freeze({
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  logitBias: null,
  frequencyPenalty: 0,
  presencePenalty: 0,
});
const NEVER = fround(-1e30); // below every logit, and yet a number

/** Check all bounds and fill in what is left out. @param {Sampling} given @param {number} vocabSize */
export function resolveSampling(given, vocabSize) {
  checkOptions("sampling", given, Object.keys(GREEDY));
  const sampling = { ...GREEDY, ...given };
  checkNumber("temperature", sampling.temperature, 0, 100);
  checkInteger("topK", sampling.topK, 0, 2 ** 22);
  if (checkNumber("topP", sampling.topP, 0, 1) === 0) {
    throw new InputError("topP must be above 0 and at most 1, got 0");
  }
  checkNumber("minP", sampling.minP, 0, 1);
  checkNumber("repetitionPenalty", sampling.repetitionPenalty, 0.01, 100);
  checkNumber("frequencyPenalty", sampling.frequencyPenalty, -2, 2);
  checkNumber("presencePenalty", sampling.presencePenalty, -2, 2);
  for (const [token, bias] of Object.entries(sampling.logitBias ?? {})) {
    checkInteger("a token id in logitBias", Number(token), 0, vocabSize - 1);
    checkNumber(`the logitBias of token ${token}`, bias, -1000, 1000);
  }
  return sampling;
}

/** Chooses token ids for one text; remembers which tokens it has, for the penalties. */
export class Sampler {
  /**
   * @param {ReturnType<typeof resolveSampling>} sampling @param {number} vocabSize
   * @param {bigint} seed
   * @param {{minTokens?: number, stopIds?: Iterable<number>, topLogprobs?: number}} [options]
   *   `stopIds` are not chosen before there are `minTokens`; so many alternatives are kept
   */
  constructor(sampling, vocabSize, seed, { minTokens = 0, stopIds = [], topLogprobs = 0 } = {}) {
    this.sampling = sampling;
    this.seed = seed;
    this.work = new Float32Array(vocabSize);
    this.seen = new Set();
    /** @type {[number, number][]} */
    this.bias = Object.entries(sampling.logitBias ?? {}).map(([id, bias]) => [Number(id), bias]);
    /** @type {Map<number, number>} What is subtracted from the logits of tokens in the answer. */
    this.penalties = new Map();
    this.minTokens = minTokens;
    this.stopIds = [...stopIds];
    this.topLogprobs = Math.min(topLogprobs, vocabSize);
    this.first = 0;
  }

  /** Tell what stands before the first token that is chosen. @param {number[]} prompt */
  begin(prompt) {
    this.saw(prompt);
    this.first = prompt.length;
  }

  /** Tell which tokens are in the text. @param {Iterable<number>} ids */
  saw(ids) {
    if (this.sampling.repetitionPenalty !== 1) for (const id of ids) this.seen.add(id);
  }

  /**
   * Choose the token that stands at `position`: its id, its log-probability under the model's own
   * distribution, and the likeliest tokens with theirs.
   * @param {Float32Array} logits @param {number} position
   */
  choose(logits, position) {
    if (!Number.isFinite(max(logits))) {
      throw new RuntimeFailure(
        "the model's logits are not numbers; its weights are broken, or its depth unstable",
      );
    }
    const { work, sampling } = this;
    work.set(logits);
    for (const [id, bias] of this.bias) work[id] += fround(bias);
    const penalty = fround(sampling.repetitionPenalty);
    for (const id of this.seen) work[id] = work[id] > 0 ? work[id] / penalty : work[id] * penalty;
    for (const [id, less] of this.penalties) work[id] -= less;
    if (position - this.first < this.minTokens) for (const id of this.stopIds) work[id] = NEVER;
    const token = sampling.temperature ? this.draw(position) : argmax(work);
    this.saw([token]);
    if (sampling.frequencyPenalty || sampling.presencePenalty) {
      const before = this.penalties.get(token) ?? fround(sampling.presencePenalty);
      this.penalties.set(token, fround(before + fround(sampling.frequencyPenalty)));
    }
    const total = logSum(logits);
    const alternatives = this.topLogprobs
      ? likeliest(logits, this.topLogprobs).map((id) => ({ id, logprob: logits[id] - total }))
      : [];
    return { token, logprob: logits[token] - total, alternatives };
  }

  /** @param {number} position */
  draw(position) {
    const { work, sampling } = this;
    const random = new Philox(this.seed, position, TOKENS);
    if (!(0 < sampling.topK && sampling.topK < work.length)) return drawFromAll(work, sampling, random);
    let ids = likeliest(work, sampling.topK);
    let chances = ids.map((id) => Math.exp((work[id] - work[ids[0]]) / sampling.temperature));
    if (sampling.topP < 1) {
      const keep = nucleus(chances, sampling.topP);
      [ids, chances] = [keep.map((i) => ids[i]), keep.map((i) => chances[i])];
    }
    const least = sampling.minP * chances.reduce((a, b) => Math.max(a, b));
    return ids[pick(chances.map((chance) => (chance < least ? 0 : chance)), random.random())];
  }
}
