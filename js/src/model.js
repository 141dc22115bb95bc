// A loaded model: it generates, scores and chats.

import { checkInteger, checkOptions, checkSeed, shown } from "./utils/checks.js";
import { Chat } from "./chat.js";
import { Controller, defaultDepth, resolveDepth } from "./decode/depth.js";
import { CHUNK, Sequence } from "./engine/engine.js";
import { ContextError, InputError } from "./errors.js";
import { Generation, generateTokens, newStats, read } from "./decode/generate.js";
import { Pause } from "./decode/pause.js";
import { fillInitialStates } from "./decode/random.js";
import { Sampler, resolveSampling } from "./decode/sampling.js";
import { StopScanner, TextStream } from "./text/tokenizer.js";

const GENERATE = [
  ...["maxTokens", "depth", "sampling", "seed", "stop", "initialState", "chunk", "topLogprobs"],
  ...["changes", "minTokens", "signal"],
];
/** What Python has and JavaScript lacks, and what to do about it. */
export const ELSEWHERE = {
  speculate: "leave it out (the text is the same without it), or ask rdlite serve",
  constraint: "ask rdlite serve (response_format), or use Python",
  sampler: "leave it out, or use Python",
};
const KINDS = ["random", "zeros", "embeds"];

/**
 * @typedef {object} GenerateOptions
 * @property {number} [maxTokens] most new tokens, 1 to 2^22; the context may end it before
 * @property {import("./decode/depth.js").Depth | null} [depth] null: the model's default
 * @property {import("./decode/sampling.js").Sampling | null} [sampling] null: greedy
 * @property {number | bigint} [seed] selects initial states and draws, 0 to 2^64 - 1
 * @property {string | string[]} [stop] texts that end it, not part of it; at most 64
 * @property {"random" | "zeros" | "embeds"} [initialState] "random": the model's own way to start
 * @property {number} [chunk] prompt positions read at once, 1 to 4096
 * @property {number} [topLogprobs] alternatives to report for each token, 0 to 100
 * @property {number} [minTokens] let neither a stop token nor a stop text end it before
 *   there are so many, 0 to 2^22
 * @property {boolean} [changes] tell how far each core step moved the state
 * @property {AbortSignal} [signal] ends it early; `stats.finish` is then "cancelled"
 */

export class Model {
  /** Use `load`. @param {any} parts */
  constructor(parts) {
    const { manifest, engine, context, generationConfig, tokenizer, chatTemplate } = parts;
    this.forceSteps = parts.forceSteps;
    this.manifest = manifest;
    /** Sizes and constants of the model, frozen. */
    this.config = manifest.model;
    this.context = context;
    this.generationConfig = generationConfig;
    this.engine = engine;
    /** What activations are, and caches unless they are int8. @type {"float16" | "float32"} */
    this.precision = engine.backend.precision ?? "float32";
    this.ownTokenizer = tokenizer;
    this.ownTemplate = chatTemplate;
    /** How deep it goes when it is not told. */
    this.defaultDepth = defaultDepth(manifest.model, manifest.exit);
    /** @type {Sequence[]} */
    this.idle = [];
    this.closed = false;
  }

  get tokenizer() {
    if (this.ownTokenizer === null) {
      throw new InputError("this bundle has no tokenizer.json; give token ids, not text");
    }
    return this.ownTokenizer;
  }

  get chatTemplate() {
    if (this.ownTemplate === null) {
      throw new InputError("this bundle has no chat template; use generate with plain text");
    }
    return this.ownTemplate;
  }

  /**
   * Score a text: the natural logits of every position, float32, S x V.
   * @param {number[]} tokenIds
   * @param {{steps?: number | null, initialState?: string | null, seed?: number | bigint, chunk?: number}} [options]
   * @returns {Promise<Float32Array>}
   */
  async logits(tokenIds, options = {}) {
    checkOptions("logits", options, ["steps", "initialState", "seed", "chunk"]);
    const { steps = null, seed = 0, chunk = CHUNK } = options;
    const ids = this.checkIds(tokenIds);
    const own = this.config.recurrence.initialState;
    const initial = options.initialState ?? (own === "random" ? "zeros" : own);
    const depth = resolveDepth({ maxSteps: steps }, this.config, null, this.forceSteps);
    const controller = new Controller(depth, this.config.vocabSize);
    const start = this.startAt(initial, seed);
    checkInteger("chunk", chunk, 1, 4096);
    const result = new Float32Array(ids.length * this.config.vocabSize);
    await this.borrowing(async (sequence) => {
      const pause = new Pause(null);
      for await (const found of read(sequence, ids, controller, start, chunk, pause)) {
        found.lane.decode(found.steps, found.lane.size);
        if (found.lane.pending) await found.lane.pending;
        const logits = found.lane.logits(found.steps, found.lane.size);
        result.set(logits, sequence.length * this.config.vocabSize);
      }
    });
    return result;
  }

  /**
   * Continue a text, or token ids.
   * @param {string | number[]} promptOrIds @param {GenerateOptions} [options]
   * @returns {Generation}
   */
  generate(promptOrIds, options = {}) {
    const ids = this.encode(promptOrIds);
    const plan = this.plan(options, 64);
    const model = this;
    async function* run() {
      const sequence = model.borrow();
      try {
        yield* generateTokens(sequence, ids, plan);
      } finally {
        model.giveBack(sequence);
      }
    }
    return new Generation(run(), plan);
  }

  /**
   * Start a conversation; what was read stays in its cache between turns.
   * @param {{system?: string | null, depth?: import("./decode/depth.js").Depth | null,
   *   sampling?: import("./decode/sampling.js").Sampling | null, seed?: number | bigint,
   *   history?: import("./history.js").History, templateVariables?: Record<string, any>}} [options]
   *   where a conversation gets longer than the model was trained for, the oldest turns are left
   *   out, unless history is "all"; `templateVariables` are the chat template's own
   */
  chat(options = {}) {
    return new Chat(this, options);
  }

  /** Token ids of a conversation, up to where the model is to answer. @param {{role: string, content: string}[]} messages */
  encodeChat(messages) {
    return this.encode(this.chatTemplate.render(messages), false);
  }

  /** Token ids of a prompt that may be text. @param {string | number[]} promptOrIds @param {boolean} [addSpecialTokens] */
  encode(promptOrIds, addSpecialTokens = true) {
    return this.checkIds(
      typeof promptOrIds === "string"
        ? this.tokenizer.encode(promptOrIds, addSpecialTokens)
        : promptOrIds,
    );
  }

  /** Refuse further use and free memory; what still runs ends first. May be called twice. */
  close() {
    if (this.closed) return;
    this.closed = true;
    this.idle.splice(0).forEach((sequence) => sequence.free());
    this.engine.free();
  }

  // ---- for the parts

  /** Check the options of a generation and make what its loop needs. @param {GenerateOptions} options @param {number} most */
  plan(options, most) {
    checkOptions("generate", options, GENERATE, ELSEWHERE);
    const { depth, sampling, stop = [], chunk = CHUNK, changes = false, signal = null } = options;
    const minTokens = checkInteger("minTokens", options.minTokens ?? 0, 0, 2 ** 22);
    const topLogprobs = checkInteger("topLogprobs", options.topLogprobs ?? 0, 0, 100);
    const { vocabSize } = this.config;
    const stops = typeof stop === "string" ? [stop] : stop;
    if (!Array.isArray(stops) || stops.length > 64 || !stops.every((s) => typeof s === "string" && s)) {
      throw new InputError("stop must be at most 64 texts, none empty");
    }
    const allStops = [...stops, ...this.generationConfig.stopStrings];
    if (allStops.length && this.ownTokenizer === null) {
      throw new InputError("this bundle has no tokenizer.json, so texts cannot stop it");
    }
    const asked = depth ?? this.defaultDepth;
    const resolved = resolveDepth(asked, this.config, this.manifest.exit, this.forceSteps);
    const seed = checkSeed(options.seed ?? 0);
    const { stopIds } = this.generationConfig;
    const chosen = resolveSampling(sampling ?? {}, vocabSize);
    return {
      controller: new Controller(resolved, vocabSize),
      maxTokens: checkInteger("maxTokens", options.maxTokens ?? most, 1, 2 ** 22),
      start: this.startAt(options.initialState ?? "random", seed),
      sampler: new Sampler(chosen, vocabSize, seed, { minTokens, stopIds, topLogprobs }),
      stopIds: new Set(stopIds),
      stream: this.ownTokenizer === null ? null : new TextStream(this.ownTokenizer),
      stops: new StopScanner(allStops),
      minTokens,
      stats: newStats(),
      chunk: checkInteger("chunk", chunk, 1, 4096),
      changes,
      pause: new Pause(signal),
      key: JSON.stringify(resolved) + seed,
    };
  }

  /** What writes the initial states of a lane. @param {string} initialState @param {number | bigint} given */
  startAt(initialState, given) {
    if (!KINDS.includes(initialState)) {
      throw new InputError(`initialState must be one of ${KINDS.join(", ")}, got ${shown(initialState)}`);
    }
    const seed = checkSeed(given);
    const { hiddenSize, recurrence } = this.config;
    const kind = initialState === "random" ? recurrence.initialState : initialState;
    return (/** @type {any} */ lane, /** @type {number} */ position) => {
      const state = lane.stateAfter(0);
      if (kind === "random") fillInitialStates(state, hiddenSize, recurrence.initialStd, seed, position);
      else if (kind === "embeds") state.set(lane.embeds.data);
      else state.fill(0);
    };
  }

  /** @param {any} ids @returns {number[]} */
  checkIds(ids) {
    if (!Array.isArray(ids)) throw new InputError(`a prompt must be text or token ids, got ${shown(ids)}`);
    for (const id of ids) checkInteger("a token id", id, 0, this.config.vocabSize - 1);
    if (ids.length === 0) throw new InputError("the prompt is empty; give at least one token");
    if (ids.length > this.context) {
      throw new ContextError(
        `the prompt has ${ids.length} tokens, the context is ${this.context}; shorten it` +
          (this.context === this.config.contextLength ? "" : " or raise the context"),
      );
    }
    return ids;
  }

  /** A sequence that has read nothing. */
  borrow() {
    if (this.closed) throw new InputError("the model is closed");
    const sequence = this.idle.pop() ?? new Sequence(this.engine, this.context);
    sequence.truncate(0);
    return sequence;
  }

  /** @param {Sequence} sequence */
  giveBack(sequence) {
    if (this.closed || this.idle.length > 0) sequence.free();
    else this.idle.push(sequence);
  }

  /** @template T @param {(sequence: Sequence) => Promise<T>} use @returns {Promise<T>} */
  async borrowing(use) {
    const sequence = this.borrow();
    try {
      return await use(sequence);
    } finally {
      this.giveBack(sequence);
    }
  }
}
