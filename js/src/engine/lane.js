// Buffers for S new positions, and the calls on them, each bound once.

/** @typedef {import("./engine.js").Sequence} Sequence */

export class Lane {
  /** @param {Sequence} sequence @param {number} size */
  constructor(sequence, size) {
    const { engine } = sequence;
    const { backend, config } = engine;
    this.engine = engine;
    this.sequence = sequence;
    this.size = size;
    this.width = config.hiddenSize;
    this.start = 0;
    const rows = [1, size, this.width];
    const alloc = (/** @type {string} */ type, /** @type {number[]} */ shape) =>
      backend.alloc(type, shape);
    this.ids = alloc("int64", [1, size]);
    this.embeds = alloc("float32", rows);
    // What the last steps gave: a call may take several, and rules look at each.
    const ring = engine.most + 1;
    const made = (/** @type {number[]} */ shape) =>
      Array.from({ length: ring }, () => alloc("float32", shape));
    this.states = made(rows);
    this.changes = made([1, size]);
    this.gates = config.recurrence.exitThreshold === null ? null : made([1, size]);
    const { lengths } = sequence;
    const slot = sequence.outer.prelude;
    this.prelude = engine.sessions.prelude.bind(
      { input_ids: this.ids, ...lengths, ...slot.inputs() },
      { embeds: this.embeds, ...slot.outputs() },
    );
    /** @type {Map<string, () => Promise<void> | undefined>} */
    this.calls = new Map();
    /** @type {Map<string, {call: () => Promise<void> | undefined, logits: any, positions: any}>} */
    this.codas = new Map();
    this.decoded = "";
    /** What a device still works at; undefined where calls end when they return. @type {Promise<void> | undefined} */
    this.pending = undefined;
  }

  /** Whether calls go on after they return: `pending` is to be awaited after each. */
  get remote() {
    return this.engine.backend.remote === true;
  }

  /** Serve the positions from `start` on. @param {number} start */
  place(start) {
    this.start = start;
    this.decoded = "";
    const { seqlens_k: last, total_sequence_length: total } = this.sequence.lengths;
    last.data[0] = start + this.size - 1;
    total.data[0] = start + this.size;
  }

  /** Run the prelude. @param {number[]} ids */
  embed(ids) {
    this.ids.data.set(ids.map(BigInt));
    this.pending = this.prelude();
  }

  /**
   * Compute core steps from number `step` on, counted from 0: as many of `wanted` as go into one
   * call; returns how many.
   * @param {number} step @param {number} wanted @param {boolean} sure whether all will be accepted
   */
  run(step, wanted, sure) {
    const { steps } = this.sequence;
    // In a shared slot, a step too many would overwrite what stays.
    const most = sure || steps.ring === null ? wanted : 1;
    const count = this.engine.stepsPerCall(most);
    for (let i = 0; i < count; i++) steps.backfill(step + i, this.start);
    const key = `${step}+${count}`;
    const call = this.calls.get(key) ?? this.bindSteps(step, count);
    this.calls.set(key, call);
    this.pending = call();
    return count;
  }

  /** The positions have taken so many steps. @param {number} taken */
  accept(taken) {
    this.sequence.steps.wrote(taken - 1, this.start + this.size);
  }

  /** @param {number} step @param {number} count */
  bindSteps(step, count) {
    const { steps, lengths } = this.sequence;
    const at = (/** @type {any[]} */ ring, /** @type {number} */ n) => ring[n % ring.length];
    const inputs = { state: at(this.states, step), embeds: this.embeds, ...lengths };
    /** @type {Record<string, any>} */
    const outputs = {};
    for (let i = 0; i < count; i++) {
      const suffix = count === 1 ? "" : `.${i}`;
      const slot = steps.slots[steps.index(step + i)];
      Object.assign(inputs, slot.inputs(suffix));
      Object.assign(outputs, slot.outputs(suffix));
      outputs[`next_state${suffix}`] = at(this.states, step + i + 1);
      outputs[`change${suffix}`] = at(this.changes, step + i + 1);
      if (this.gates) outputs[`exit_probability${suffix}`] = at(this.gates, step + i + 1);
    }
    return this.engine.coreSession(count).bind(inputs, outputs);
  }

  /** Write the states after so many steps: [S x E]. @param {number} steps @param {Float32Array} rows */
  putState(steps, rows) {
    this.stateAfter(steps).set(rows);
  }

  /** @param {number} steps @returns {Float32Array} */
  stateAfter(steps) {
    return this.states[steps % this.states.length].data;
  }

  /** @param {number} steps @returns {Float32Array} */
  changeAfter(steps) {
    return this.changes[steps % this.changes.length].data;
  }

  /** @param {number} steps @returns {Float32Array | null} */
  gateAfter(steps) {
    return this.gates === null ? null : this.gates[steps % this.gates.length].data;
  }

  /** Decode the last position's state after so many steps: [V]. @param {number} steps */
  lastLogits(steps) {
    return this.logits(steps, 1);
  }

  /**
   * Decode the states of the last P positions: [P x V], overwritten by the next call. Where calls go
   * on after they return, `decode` must have been awaited.
   * @param {number} steps @param {number} positions @returns {Float32Array}
   */
  logits(steps, positions) {
    return this.decode(steps, positions).logits.data;
  }

  /**
   * Run the coda, unless it has decoded just that; `pending` is to be awaited.
   * @param {number} steps @param {number} positions
   */
  decode(steps, positions) {
    const key = `${steps % this.states.length}/${positions}`;
    let coda = this.codas.get(key);
    if (coda === undefined) this.codas.set(key, (coda = this.bindCoda(steps, positions)));
    if (this.decoded !== `${steps}/${positions}`) {
      this.pending = coda.call();
      this.decoded = `${steps}/${positions}`;
    }
    return coda;
  }

  /** @param {number} steps @param {number} count */
  bindCoda(steps, count) {
    const { backend, config, sessions } = this.engine;
    const positions = backend.alloc("int64", [count]);
    for (let i = 0; i < count; i++) positions.data[i] = BigInt(this.size - count + i);
    const logits = backend.alloc("float32", [1, count, config.vocabSize]);
    const { lengths, outer } = this.sequence;
    const state = this.states[steps % this.states.length];
    const inputs = { state, logit_positions: positions, ...lengths, ...outer.coda.inputs() };
    const call = sessions.coda.bind(inputs, { logits, ...outer.coda.outputs() });
    return { call, logits, positions };
  }

  free() {
    const kept = [...this.codas.values()].flatMap(({ logits, positions }) => [logits, positions]);
    const rings = [...this.states, ...this.changes, ...(this.gates ?? [])];
    for (const buffer of [this.ids, this.embeds, ...rings, ...kept]) buffer.free();
  }
}
