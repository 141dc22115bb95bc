// Choosing the next token from logits. Every draw is a pure function of (seed, position).

import { checkInteger, checkNumber, checkOptions } from "./checks.js";
import { InputError, RuntimeFailure } from "./errors.js";
import { argmax, logSum, max } from "./numerics.js";
import { Philox, TOKENS } from "./random.js";

const { fround } = Math;

/**
 * How the next token is chosen; the defaults are greedy. Filters work in this order: bias, penalty,
 * temperature, topK, topP, minP.
 * @typedef {object} Sampling
 * @property {number} [temperature] divides the logits; 0 is greedy. 0 to 100
 * @property {number} [topK] keep the k likeliest tokens; 0 keeps all
 * @property {number} [topP] keep the fewest tokens whose probabilities sum to this. Above 0, to 1
 * @property {number} [minP] drop tokens less likely than this times the likeliest. 0 to 1
 * @property {number} [repetitionPenalty] divide positive logits (multiply negative ones) of tokens
 *   that the text already has. 0.01 to 100; 1 is off
 * @property {Record<number, number> | null} [logitBias] token id -> number added to its logit
 */

export const GREEDY = Object.freeze({
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  logitBias: null,
});

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
  for (const [token, bias] of Object.entries(sampling.logitBias ?? {})) {
    checkInteger("a token id in logitBias", Number(token), 0, vocabSize - 1);
    checkNumber(`the logitBias of token ${token}`, bias, -1000, 1000);
  }
  return sampling;
}

/** Chooses token ids for one text; remembers which tokens it has, for the repetition penalty. */
export class Sampler {
  /**
   * @param {ReturnType<typeof resolveSampling>} sampling @param {number} vocabSize
   * @param {bigint} seed
   */
  constructor(sampling, vocabSize, seed) {
    this.sampling = sampling;
    this.seed = seed;
    this.work = new Float32Array(vocabSize);
    this.seen = new Set();
    /** @type {[number, number][]} */
    this.bias = Object.entries(sampling.logitBias ?? {}).map(([id, bias]) => [Number(id), bias]);
  }

  /** Tell which tokens are in the text. @param {Iterable<number>} ids */
  saw(ids) {
    if (this.sampling.repetitionPenalty !== 1) for (const id of ids) this.seen.add(id);
  }

  /**
   * Choose the token that stands at `position`: its id and its log-probability under the model's
   * own distribution.
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
    const token = sampling.temperature ? this.draw(position) : argmax(work);
    this.saw([token]);
    return { token, logprob: logits[token] - logSum(logits) };
  }

  /** @param {number} position */
  draw(position) {
    const { work, sampling } = this;
    const top = max(work);
    let ids = Array.from(work.keys());
    // Of equal numbers the first comes first: sorts are stable.
    if (0 < sampling.topK && sampling.topK < ids.length) {
      ids = ids.sort((a, b) => work[b] - work[a]).slice(0, sampling.topK);
    }
    let chances = ids.map((id) => Math.exp((work[id] - top) / sampling.temperature));
    if (sampling.topP < 1) {
      const wanted = sampling.topP * chances.reduce((sum, chance) => sum + chance, 0);
      const order = [...chances.keys()].sort((a, b) => chances[b] - chances[a]);
      let [sum, count] = [0, 0];
      while (count < order.length) {
        sum += chances[order[count++]];
        if (sum >= wanted) break;
      }
      ids = order.slice(0, count).map((i) => ids[i]);
      chances = order.slice(0, count).map((i) => chances[i]);
    }
    if (sampling.minP) {
      const least = sampling.minP * chances.reduce((a, b) => Math.max(a, b));
      chances = chances.map((chance) => (chance < least ? 0 : chance));
    }
    const sums = [];
    let sum = 0;
    for (const chance of chances) sums.push((sum += chance));
    const drawn = new Philox(this.seed, position, TOKENS).random() * sum;
    const found = sums.findIndex((reached) => reached > drawn);
    return ids[found < 0 ? ids.length - 1 : found];
  }
}
