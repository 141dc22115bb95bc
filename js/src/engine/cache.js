// Keys and values of past positions, by slot; grown geometrically, updated in place.

import { checkInteger, checkOptions, shown } from "../utils/checks.js";
import { InputError } from "../errors.js";
import { rescale } from "./int8-cache.js";

export const FIRST_CAPACITY = 256;

/**
 * What the core keeps of past positions.
 * @typedef {object} Cache
 * @property {number | "last" | null} [share] null: one slot per step, which is exact; a number n: n
 *   slots, step t writing slot t mod n, so that memory does not grow with depth; "last": one slot
 *   per step while a prompt is read, after that one slot with the last step of every position
 * @property {8 | null} [bits] null: float32; 8: int8, a quarter of the memory, with the scales that
 *   `rdlite tune` adds to a bundle
 */

/** @param {Cache} cache */
export function resolveCache(cache) {
  checkOptions("cache", cache, ["share", "bits"]);
  const { share = null, bits = null } = cache;
  if (typeof share === "string") {
    if (share !== "last") throw new InputError(`share must be null, a number or "last", got ${shown(share)}`);
  } else if (share !== null) checkInteger("share", share, 1, 1024);
  if (bits !== null && bits !== 8) {
    throw new InputError(`bits must be null (float32) or 8 (int8), got ${shown(bits)}`);
  }
  return { share, bits };
}

/** @typedef {import("./int8-cache.js").Scales} Scales */

/** The cache of a graph's layers: key and value of each, [1, K, C, D], float32 or int8. */
export class Slot {
  /**
   * @param {any} backend @param {any} config @param {number} layers @param {number} capacity
   * @param {Scales | null} [scales] of int8 numbers
   */
  constructor(backend, config, layers, capacity, scales = null) {
    this.backend = backend;
    this.type = scales === null ? "float32" : "int8";
    const { numKeyValueHeads: heads, headDim: width } = config;
    this.shape = [1, heads, capacity, width];
    this.scales = scales;
    this.scaleBuffers = (scales ?? []).map((pair) =>
      pair.map((values) => {
        const buffer = backend.alloc("float32", [1, heads, 1, width]);
        buffer.data.set(values);
        return buffer;
      }),
    );
    this.pairs = Array.from({ length: layers }, () => [this.allocate(), this.allocate()]);
  }

  allocate() {
    return this.backend.alloc(this.type, this.shape, true);
  }

  /** Move to a larger capacity with the first `used` positions. @param {number} capacity @param {number} used */
  grow(capacity, used) {
    const before = this.shape[2];
    const [, heads, , width] = this.shape;
    this.shape = [1, heads, capacity, width];
    this.pairs = this.pairs.map((pair) =>
      pair.map((/** @type {any} */ old) => {
        const buffer = this.allocate();
        move(old, buffer, heads, (head) => [head * before * width, head * capacity * width, used * width]);
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
        const from = source.pairs[layer][kind];
        const [given, own] = [source, this].map(({ scales }) => scales?.[layer][kind]);
        const place = (/** @type {number} */ head) => (head * capacity + start) * width;
        const length = (end - start) * width;
        if (!given || !own) move(from, buffer, heads, (head) => [place(head), place(head), length]);
        else {
          for (let head = 0; head < heads; head++) {
            const [first, channel] = [place(head), head * width];
            rescale(from.data, buffer.data, first, first + length, given, own, channel, width);
          }
        }
      }),
    );
  }

  /**
   * The buffers by a graph's input names: `past_key_values.0.key`, and `cache_scale.0.key` of int8
   * numbers; with `step`, those of an unrolled one.
   * @param {string} [step]
   */
  inputs(step = "") {
    return { ...named(`past_key_values${step}`, this.pairs), ...named(`cache_scale${step}`, this.scaleBuffers) };
  }

  /** The same buffers by its output names. @param {string} [step] */
  outputs(step = "") {
    return named(`present${step}`, this.pairs);
  }

  free() {
    [...this.pairs, ...this.scaleBuffers].flat().forEach((buffer) => buffer.free());
  }
}

/**
 * Copy a range of each head from one buffer to another, wherever they lie.
 * @param {any} from @param {any} to @param {number} heads
 * @param {(head: number) => [number, number, number]} range where it starts, where it goes, its length
 */
function move(from, to, heads, range) {
  const ranges = Array.from({ length: heads }, (_, head) => range(head));
  if (to.take) to.take(from, ranges);
  else for (const [start, at, length] of ranges) to.data.set(from.data.subarray(start, start + length), at);
}

/** @param {string} prefix @param {any[][]} pairs @returns {Record<string, any>} */
const named = (prefix, pairs) =>
  Object.fromEntries(
    pairs.flatMap(([key, value], layer) => [
      [`${prefix}.${layer}.key`, key],
      [`${prefix}.${layer}.value`, value],
    ]),
  );

/**
 * The core's slots, and for how many positions each is filled. A position that left the loop early
 * has no entries for deeper steps; a later one that goes deeper sees those of its last step there.
 */
export class StepCaches {
  /**
   * @param {any} backend @param {any} config @param {number | "last" | null} share
   * @param {import("./int8-cache.js").CacheScales | null} scales of int8 slots
   */
  constructor(backend, config, share, scales) {
    this.make = (/** @type {number} */ capacity, /** @type {Scales | null} */ own) =>
      new Slot(backend, config, config.layers.core, capacity, own);
    this.scales = scales;
    /** How many slots the steps take turns in; null: each has its own. */
    this.ring = typeof share === "number" ? share : null;
    this.gathered = false;
    /** @type {Slot[]} */
    this.slots = [];
    /** @type {number[]} */
    this.filled = [];
  }

  /** The slot of core step number `step`, from 0. @param {number} step */
  index(step) {
    return this.ring === null ? step : step % this.ring;
  }

  /** Make the slots that a depth of `steps` needs. @param {number} steps @param {number} capacity */
  provide(steps, capacity) {
    const wanted = this.ring === null ? steps : Math.min(this.ring, steps);
    while (this.slots.length < wanted) {
      this.slots.push(this.make(capacity, this.scales && this.scales.ofSlot(this.slots.length)));
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

  /**
   * Keep of `length` positions what their last steps left; one slot serves all steps now.
   * @param {number} length @param {number} capacity
   */
  gather(length, capacity) {
    const deepest = this.filled.findLastIndex((filled) => filled > 0);
    if (deepest < 0) return;
    for (let step = 1; step <= deepest; step++) this.backfill(step, length);
    let kept = this.slots[deepest];
    if (this.scales !== null) {
      kept = this.make(capacity, this.scales.shared(1).ofSlot(0)); // all steps must fit
      kept.copyFrom(this.slots[deepest], 0, length);
    }
    for (const slot of this.slots) if (slot !== kept) slot.free();
    [this.slots, this.filled, this.ring, this.gathered] = [[kept], [length], 1, true];
  }

  /**
   * Give each step a slot of its own again; the first starts from what was kept.
   * @param {number} length @param {number} capacity
   */
  spread(length, capacity) {
    [this.ring, this.gathered] = [null, false];
    if (this.scales === null) return;
    const [kept] = this.slots;
    this.slots = [this.make(capacity, this.scales.ofSlot(0))];
    this.slots[0].copyFrom(kept, 0, length);
    kept.free();
  }
}

/** The capacity to grow to: doubled until `needed` fits. @param {number} current @param {number} needed @param {number} limit */
export function nextCapacity(current, needed, limit) {
  let capacity = Math.max(current, Math.min(FIRST_CAPACITY, limit));
  while (capacity < needed) capacity *= 2;
  return Math.min(capacity, limit);
}
