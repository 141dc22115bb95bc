// Keys and values of past positions, by slot; grown geometrically, updated in place.

import { checkInteger, checkOptions } from "./checks.js";

export const FIRST_CAPACITY = 256;

/**
 * What the core keeps of past positions: null keeps one slot per step, which is exact; a number n
 * keeps n slots, step t writing slot t mod n, so that memory does not grow with depth.
 * @typedef {{share?: number | null}} Cache
 */

/** @param {Cache} cache @returns {number | null} */
export function resolveShare(cache) {
  checkOptions("cache", cache, ["share"]);
  const { share = null } = cache;
  return share === null ? null : checkInteger("share", share, 1, 1024);
}

/** The cache of a graph's layers: key and value of each, [1, K, C, D]. */
export class Slot {
  /** @param {any} backend @param {any} config @param {number} layers @param {number} capacity */
  constructor(backend, config, layers, capacity) {
    this.backend = backend;
    this.shape = [1, config.numKeyValueHeads, capacity, config.headDim];
    this.pairs = Array.from({ length: layers }, () => [this.allocate(), this.allocate()]);
  }

  allocate() {
    return this.backend.alloc("float32", this.shape);
  }

  /** Move to a larger capacity with the first `used` positions. @param {number} capacity @param {number} used */
  grow(capacity, used) {
    const before = this.shape[2];
    const [, heads, , width] = this.shape;
    this.shape = [1, heads, capacity, width];
    this.pairs = this.pairs.map((pair) =>
      pair.map((/** @type {any} */ old) => {
        const buffer = this.allocate();
        const [from, to] = [old.data, buffer.data];
        for (let head = 0; head < heads; head++) {
          const start = head * before * width;
          to.set(from.subarray(start, start + used * width), head * capacity * width);
        }
        old.free();
        return buffer;
      }),
    );
  }

  /** Take the positions from `start` to `end` of another slot. @param {Slot} source @param {number} start @param {number} end */
  copyFrom(source, start, end) {
    const [, heads, capacity, width] = this.shape;
    this.pairs.forEach((pair, layer) =>
      pair.forEach((buffer, kind) => {
        const [from, to] = [source.pairs[layer][kind].data, buffer.data];
        for (let head = 0; head < heads; head++) {
          const [first, last] = [start, end].map((at) => (head * capacity + at) * width);
          to.set(from.subarray(first, last), first);
        }
      }),
    );
  }

  /**
   * The buffers by a graph's names: `past_key_values.0.key`; with `step`, those of an unrolled one.
   * @param {string} prefix @param {string} [step]
   */
  named(prefix, step = "") {
    return Object.fromEntries(
      this.pairs.flatMap(([key, value], layer) => [
        [`${prefix}${step}.${layer}.key`, key],
        [`${prefix}${step}.${layer}.value`, value],
      ]),
    );
  }

  free() {
    this.pairs.flat().forEach((buffer) => buffer.free());
  }
}

/**
 * The core's slots, and for how many positions each is filled. A position that left the loop early
 * has no entries for deeper steps; a later one that goes deeper sees those of its last step there.
 */
export class StepCaches {
  /** @param {any} backend @param {any} config @param {number | null} share */
  constructor(backend, config, share) {
    this.make = (/** @type {number} */ capacity) =>
      new Slot(backend, config, config.layers.core, capacity);
    this.share = share;
    /** @type {Slot[]} */
    this.slots = [];
    /** @type {number[]} */
    this.filled = [];
  }

  /** The slot of core step number `step`, from 0. @param {number} step */
  index(step) {
    return this.share === null ? step : step % this.share;
  }

  /** Make the slots that a depth of `steps` needs. @param {number} steps @param {number} capacity */
  provide(steps, capacity) {
    const wanted = this.share === null ? steps : Math.min(this.share, steps);
    while (this.slots.length < wanted) {
      this.slots.push(this.make(capacity));
      this.filled.push(0);
    }
  }

  /** Let a step see all positions before `start`. @param {number} step @param {number} start */
  backfill(step, start) {
    const index = this.index(step);
    if (this.filled[index] < start) {
      this.slots[index].copyFrom(this.slots[index - 1], this.filled[index], start);
      this.filled[index] = start;
    }
  }

  /** A step was taken by the positions before `end`. @param {number} step @param {number} end */
  wrote(step, end) {
    const index = this.index(step);
    this.filled[index] = Math.max(this.filled[index], end);
  }

  /** Forget every position from `length` on. @param {number} length */
  truncate(length) {
    this.filled = this.filled.map((filled) => Math.min(filled, length));
  }
}

/** The capacity to grow to: doubled until `needed` fits. @param {number} current @param {number} needed @param {number} limit */
export function nextCapacity(current, needed, limit) {
  let capacity = Math.max(current, Math.min(FIRST_CAPACITY, limit));
  while (capacity < needed) capacity *= 2;
  return Math.min(capacity, limit);
}
