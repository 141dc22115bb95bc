// Sessions over the three graphs, and sequences that read positions through them. Knows ids, states
// and caches, and nothing of text.

import { Slot, StepCaches, nextCapacity } from "./cache.js";
import { unrolled } from "./graph.js";
import { Lane } from "./lane.js";

export const CHUNK = 64; // positions of a prompt that are read at once
const MAX_LANES = 8;
const STEPS = [8, 4, 2]; // that go into one call
/** Above this many bytes of core weights a call's cost is small, and its weights are packed again. */
const UNROLLED_BYTES = 8 * 2 ** 20;

export class Engine {
  /**
   * @param {any} backend @param {any} config @param {Record<string, import("./graph.js").Graph>} graphs
   * @param {number | null} share
   */
  constructor(backend, config, graphs, share) {
    this.backend = backend;
    this.config = config;
    this.graphs = graphs;
    this.share = share;
    /** @type {Record<string, any>} */
    this.sessions = {};
    /** @type {Map<number, any>} */
    this.cores = new Map();
    this.most = 1;
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
    this.steps = new StepCaches(backend, engine.config, engine.share);
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
    this.makeRoom(this.length + ids.length, steps);
    let lane = this.lanes.get(ids.length);
    this.lanes.delete(ids.length);
    if (lane === undefined) {
      const [oldest] = this.lanes.keys();
      if (this.lanes.size >= MAX_LANES) {
        this.lanes.get(oldest)?.free();
        this.lanes.delete(oldest);
      }
      lane = new Lane(this, ids.length);
    }
    this.lanes.set(ids.length, lane); // in the order of last use
    lane.place(this.length, ids);
    return lane;
  }

  /** Forget every position from `length` on, and what was read and not kept. @param {number} length */
  truncate(length = this.length) {
    this.length = Math.min(this.length, length);
    this.steps.truncate(this.length);
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
        this.outer[part] ??= new Slot(backend, config, config.layers[part], capacity);
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
