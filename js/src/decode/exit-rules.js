// When to stop: rules that look at what one core step produced. They give the step counts of the
// Python runtime; a rule is made once, started for each group of positions, and keeps its buffers.

import { argmax, dot32, exp32, log32, max, sum32 } from "../utils/numerics.js";

const { fround } = Math;

/**
 * What a rule looks at after a step: `size` positions of `width` numbers.
 * @typedef {object} Step
 * @property {number} size
 * @property {number} width
 * @property {(steps: number) => Float32Array} changeAfter how far each state moved: [S]
 * @property {(steps: number) => Float32Array} stateAfter [S x E]
 * @property {(steps: number) => Float32Array | null} gateAfter [S]
 * @property {(steps: number) => Float32Array} lastLogits of the last position: [V]
 */

/** A rule that is met when its value, the mean of several, falls below a threshold. */
class Below {
  patience = 1;
  everyStep = false;
  /** @param {number} threshold */
  constructor(threshold) {
    this.threshold = fround(threshold);
  }
  /** @param {number} first @param {number} size */
  start(first, size) {}
  /** @param {Float32Array} values */
  combine(values) {
    return fround(sum32(values) / values.length);
  }
  /** @param {number} value */
  isMet(value) {
    return value < this.threshold;
  }
}

class LatentDiff extends Below {
  /** @param {Step} lane @param {number} steps */
  measure(lane, steps) {
    return lane.changeAfter(steps);
  }
}

class Cosine extends Below {
  /** @param {Step} lane @param {number} steps */
  measure(lane, steps) {
    const { size, width } = lane;
    const [now, before] = [lane.stateAfter(steps), lane.stateAfter(steps - 1)];
    return Float32Array.from({ length: size }, (_, row) => {
      const rows = [now, before].map((all) => all.subarray(row * width, (row + 1) * width));
      const lengths = fround(dot32(rows[0], rows[0]) * dot32(rows[1], rows[1]));
      if (lengths === 0) return Infinity; // a state that starts at zero has no direction
      return 1 - fround(dot32(rows[0], rows[1]) / fround(Math.sqrt(lengths)));
    });
  }
}

/** ||d_t - d'|| / ||x_t||, two hits in a row; d' is the move at the look before. */
class Acceleration extends Below {
  patience = 2;
  /** @type {(Float32Array | null)[]} */
  moves = [];
  /** @param {number} first @param {number} size */
  start(first, size) {
    for (let row = first; row < first + size; row++) this.moves[row] = null;
  }
  /** @param {Step} lane @param {number} steps @param {number} first */
  measure(lane, steps, first) {
    const { size, width } = lane;
    const [now, before] = [lane.stateAfter(steps), lane.stateAfter(steps - 1)];
    return Float32Array.from({ length: size }, (_, row) => {
      const last = this.moves[first + row];
      const kept = last ?? new Float32Array(width);
      let [bend, length] = [0, 0];
      for (let i = 0; i < width; i++) {
        const x = now[row * width + i];
        const move = fround(x - before[row * width + i]);
        const turn = fround(move - kept[i]);
        bend += turn * turn;
        length += x * x;
        kept[i] = move;
      }
      this.moves[first + row] = kept;
      return last ? Math.sqrt(fround(fround(bend) / fround(length))) : Infinity;
    });
  }
}

/** Rules that compare what the last position predicts with what it predicted before. */
class Predictions extends Below {
  /** @param {number} threshold @param {number} vocabSize */
  constructor(threshold, vocabSize) {
    super(threshold);
    this.logs = [new Float32Array(vocabSize), new Float32Array(vocabSize)];
    this.scratch = new Float32Array(vocabSize);
    this.looks = 0;
  }
  start() {
    this.looks = 0; // before the first look, every token is equally likely
    this.logs[1].fill(-Math.log(this.scratch.length));
  }
  /** @param {Step} lane @param {number} steps */
  measure(lane, steps) {
    return Float32Array.of(this.look(lane, steps));
  }
  /** @param {Step} lane @param {number} steps @returns {number} */
  look(lane, steps) {
    throw new Error("not for use");
  }
  /** Log-probabilities now and at the look before. @param {Float32Array} logits */
  logSoftmax(logits) {
    const [now, before] = [this.logs[this.looks % 2], this.logs[(this.looks + 1) % 2]];
    this.looks++;
    const top = max(logits);
    for (let i = 0; i < now.length; i++) {
      now[i] = logits[i] - top;
      this.scratch[i] = exp32(now[i]);
    }
    const all = log32(sum32(this.scratch));
    for (let i = 0; i < now.length; i++) now[i] -= all;
    return [now, before];
  }
  /** KL(before || now). @param {Float32Array} now @param {Float32Array} before */
  divergence(now, before) {
    for (let i = 0; i < now.length; i++) {
      this.scratch[i] = exp32(before[i]);
      before[i] -= now[i]; // not looked at again
    }
    return dot32(this.scratch, before);
  }
}

class KL extends Predictions {
  /** @param {Step} lane @param {number} steps */
  look(lane, steps) {
    const [now, before] = this.logSoftmax(lane.lastLogits(steps));
    return this.divergence(now, before);
  }
}

/** `kl`, looked at only where the states have all but settled. */
class GatedKL extends KL {
  /** @param {Step} lane @param {number} steps */
  look(lane, steps) {
    const change = lane.changeAfter(steps);
    if (fround(sum32(change) / change.length) >= 0.3) return Infinity;
    return super.look(lane, steps);
  }
}

/** `kl`, of predictions whose unlikely tokens (under 0.1 of the likeliest) are made 1/V. */
class MinPKL extends Predictions {
  /** @param {Step} lane @param {number} steps */
  look(lane, steps) {
    const [now, before] = this.logSoftmax(lane.lastLogits(steps));
    for (let i = 0; i < now.length; i++) now[i] = exp32(now[i]);
    const cut = fround(fround(0.1) * max(now));
    for (let i = 0; i < now.length; i++) if (now[i] < cut) now[i] = 1 / now.length;
    const all = sum32(now);
    for (let i = 0; i < now.length; i++) now[i] = log32(fround(now[i] / all));
    return this.divergence(now, before);
  }
}

/** |H_t - H_(t-1)|, the entropy of the last position's predictions in nats; at first 100. */
class EntropyDiff extends Predictions {
  entropy = 100;
  start() {
    super.start();
    this.entropy = 100;
  }
  /** @param {Step} lane @param {number} steps */
  look(lane, steps) {
    const [logs] = this.logSoftmax(lane.lastLogits(steps));
    for (let i = 0; i < logs.length; i++) this.scratch[i] = exp32(logs[i]);
    const entropy = -dot32(this.scratch, logs);
    const value = Math.abs(entropy - this.entropy);
    this.entropy = entropy;
    return value;
  }
}

/** How many looks in a row found the same token likeliest as the look before. */
class ArgmaxStability {
  patience = 1;
  everyStep = false;
  top = -1;
  stable = 0;
  /** @param {number} threshold */
  constructor(threshold) {
    this.threshold = threshold;
  }
  start() {
    [this.top, this.stable] = [-1, 0];
  }
  /** @param {Step} lane @param {number} steps */
  measure(lane, steps) {
    const top = argmax(lane.lastLogits(steps));
    this.stable = top === this.top ? this.stable + 1 : 0;
    this.top = top;
    return Float32Array.of(this.stable);
  }
  /** @param {Float32Array} values */
  combine(values) {
    return values[0];
  }
  /** @param {number} value */
  isMet(value) {
    return value >= this.threshold;
  }
}

/** The chance to have left by now, as the model's own gate says step by step. */
class Gate {
  patience = 1;
  everyStep = true;
  /** @type {number[]} By row: the chance not to have left yet. */
  stayed = [];
  /** @param {number} threshold */
  constructor(threshold) {
    this.threshold = fround(threshold);
  }
  /** @param {number} first @param {number} size */
  start(first, size) {
    for (let row = first; row < first + size; row++) this.stayed[row] = 1;
  }
  /** @param {Step} lane @param {number} steps @param {number} first */
  measure(lane, steps, first) {
    const leaving = /** @type {Float32Array} */ (lane.gateAfter(steps));
    return leaving.map((chance, row) => {
      this.stayed[first + row] = fround(this.stayed[first + row] * fround(1 - chance));
      return 1 - this.stayed[first + row];
    });
  }
  /** @param {Float32Array} values */
  combine(values) {
    return Math.min(...values);
  }
  /** @param {number} value */
  isMet(value) {
    return value >= this.threshold;
  }
}

/**
 * How a rule is made, what its threshold may be, and whether it decodes or needs a gate.
 * @typedef {{make: (threshold: number, vocabSize: number) => any, default: number, low: number,
 *   high: number, decodes?: boolean, gated?: boolean}} RuleKind
 */

/** @type {Readonly<Record<string, RuleKind>>} */
export const RULES = Object.freeze({
  "latent-diff": { make: (t) => new LatentDiff(t), default: 0.03, low: 0, high: 10 },
  acceleration: { make: (t) => new Acceleration(t), default: 0.03, low: 0, high: 10 },
  cosine: { make: (t) => new Cosine(t), default: 1e-3, low: 0, high: 2 },
  kl: { make: (t, v) => new KL(t, v), default: 1e-3, low: 0, high: 100, decodes: true },
  "gated-kl": { make: (t, v) => new GatedKL(t, v), default: 1e-3, low: 0, high: 100, decodes: true },
  "minp-kl": { make: (t, v) => new MinPKL(t, v), default: 1e-5, low: 0, high: 100, decodes: true },
  "entropy-diff": {
    make: (t, v) => new EntropyDiff(t, v),
    ...{ default: 1e-3, low: 0, high: 100, decodes: true },
  },
  "argmax-stability": {
    make: (t) => new ArgmaxStability(t),
    ...{ default: 5, low: 1, high: 1024, decodes: true },
  },
  gate: { make: (t) => new Gate(t), default: 0.9, low: 0, high: 1, gated: true },
});

/** The names of the rules that a model can use. @param {any} config */
export function rulesFor(config) {
  const hasGate = config.recurrence.exitThreshold !== null;
  return Object.keys(RULES).filter((name) => hasGate || !RULES[name].gated);
}
