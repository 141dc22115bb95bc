// Sessions over the three graphs, and sequences that read positions through them. Knows ids, states
// and caches, and nothing of text.

import { Slot, StepCaches, nextCapacity } from "./cache.js";
import { unrolled } from "../bundle/graph.js";
import { withInt8Cache } from "./int8-cache.js";
import { Lane } from "./lane.js";

export const CHUNK = 64; // positions of a prompt that are read at once
const MAX_LANES = 16; // positions of a chunk may leave one by one
const STEPS = [8, 4, 2]; // that go into one call
/** Above this many bytes of core weights a call's cost is small, and its weights are packed again. */
const UNROLLED_BYTES = 8 * 2 ** 20;

/** @template A, B @param {Record<string, A>} given @param {(value: A) => B} change @returns {Record<string, B>} */
const mapped = (given, change) =>
  Object.fromEntries(Object.entries(given).map(([name, value]) => [name, change(value)]));

export class Engine {
  /**
   * @param {any} backend @param {any} config @param {Record<string, import("../bundle/graph.js").Graph>} graphs
   * @param {number | "last" | null} share
   * @param {import("./int8-cache.js").CacheScales | null} scales of int8 caches
   */
  constructor(backend, config, graphs, share, scales) {
    this.backend = backend;
    this.config = config;
    this.graphs = scales === null ? graphs : mapped(graphs, withInt8Cache);
    this.share = share;
    this.scales = typeof share === "number" && scales ? scales.shared(share) : scales;
    /** @type {Record<string, any>} */
    this.sessions = {};
    /** @type {Map<number, any>} */
    this.cores = new Map();
    this.most = 1;
    /** Positions that one call may read. @type {number} */
    this.longest = backend.longest ?? Infinity;
  }

  /** Load the graphs. @param {number} coreBytes of the core's weights */
  async open(coreBytes) {
    const { backend, graphs } = this;
    for (const part of ["prelude", "core", "coda"]) {
      this.sessions[part] = await backend.session(part, graphs[part]);
    }
    this.cores.set(1, this.sessions.core);
    if (coreBytes <= UNROLLED_BYTES) {
      for (const count of STEPS) {
        this.cores.set(count, await backend.session("core", unrolled(graphs.core, count)));
      }
    }
    this.most = Math.max(...this.cores.keys());
  }

  /** @param {number} wanted */
  stepsPerCall(wanted) {
    return STEPS.find((count) => count <= wanted && this.cores.has(count)) ?? 1;
  }

  /** @param {number} count */
  coreSession(count) {
    return this.cores.get(count);
  }

  free() {
    for (const session of new Set([...Object.values(this.sessions), ...this.cores.values()])) {
      session.release();
    }
  }
}

/** One text being read: its caches and how many positions are in them. */
export class Sequence {
  /** @param {Engine} engine @param {number} context */
  constructor(engine, context) {
    this.engine = engine;
    this.context = context;
    this.length = 0;
    this.capacity = 0;
    const { backend } = engine;
    this.lengths = {
      seqlens_k: backend.alloc("int32", [1]),
      total_sequence_length: backend.alloc("int32", []),
    };
    this.steps = new StepCaches(backend, engine.config, engine.share, engine.scales);
    /** @type {Record<string, Slot>} */
    this.outer = {};
    /** @type {Map<number, Lane>} */
    this.lanes = new Map();
  }

  /**
   * Run the prelude on the next positions and return the lane that reads them; it is good until
   * the next one is asked for.
   * @param {number[]} ids @param {number} steps the most core steps that will be run on them
   */
  begin(ids, steps) {
    const lane = this.lane(this.length, ids.length, steps);
    lane.embed(ids);
    return lane;
  }

  /**
   * The lane of some positions; it is good until the next one is asked for.
   * @param {number} position the first @param {number} size how many @param {number} steps as of `begin`
   */
  lane(position, size, steps) {
    this.makeRoom(position + size, steps);
    let lane = this.lanes.get(size);
    this.lanes.delete(size);
    if (lane === undefined) {
      const [oldest] = this.lanes.keys();
      if (this.lanes.size >= MAX_LANES) {
        this.lanes.get(oldest)?.free();
        this.lanes.delete(oldest);
      }
      lane = new Lane(this, size);
    }
    this.lanes.set(size, lane); // in the order of last use
    lane.place(position);
    return lane;
  }

  /** Forget every position from `length` on, and what was read and not kept. @param {number} length */
  truncate(length = this.length) {
    this.length = Math.min(this.length, length);
    this.steps.truncate(this.length);
    if (this.length === 0) this.spread();
  }

  /** With `share: "last"`, go on with what each position's last step left. */
  gather() {
    if (this.engine.share !== "last" || this.steps.gathered) return;
    this.dropLanes(); // they are bound to slots that go
    this.steps.gather(this.length, this.capacity);
  }

  /** Undo `gather` as far as it can be undone: new positions keep every step again. */
  spread() {
    if (!this.steps.gathered) return;
    this.dropLanes();
    this.steps.spread(this.length, this.capacity);
  }

  /** @param {number} needed @param {number} steps */
  makeRoom(needed, steps) {
    const { config, backend } = this.engine;
    if (needed > this.capacity) {
      const capacity = nextCapacity(this.capacity, needed, this.context);
      this.dropLanes(); // first: they are bound to the old buffers
      for (const slot of [...this.steps.slots, ...Object.values(this.outer)]) {
        slot.grow(capacity, this.length);
      }
      for (const part of ["prelude", "coda"]) {
        const scales = this.engine.scales?.[/** @type {"prelude" | "coda"} */ (part)];
        this.outer[part] ??= new Slot(backend, config, config.layers[part], capacity, scales);
      }
      this.capacity = capacity;
    }
    this.steps.provide(steps, this.capacity);
  }

  dropLanes() {
    for (const lane of this.lanes.values()) lane.free();
    this.lanes.clear();
  }

  free() {
    this.dropLanes();
    for (const slot of [...this.steps.slots, ...Object.values(this.outer)]) slot.free();
    Object.values(this.lengths).forEach((buffer) => buffer.free());
  }
}
