// rdlite.json: what a bundle says of itself, checked before anything else of it is read.

import { BundleError } from "../errors.js";
import { Num, canonicalJson, parseJson } from "./json.js";
import {
  bool,
  line,
  list,
  mapping,
  number,
  object,
  oneOf,
  optional,
  orNull,
  text,
  whole,
} from "./schema.js";

export const CONTRACT_VERSION = 1;
export const MANIFEST = "rdlite.json";
export const MAX_MANIFEST_BYTES = 2 ** 20;
export const PARTS = Object.freeze(["prelude", "core", "coda"]);
export const RULE_NAMES = Object.freeze([
  "latent-diff",
  "acceleration",
  "cosine",
  "kl",
  "gated-kl",
  "minp-kl",
  "entropy-diff",
  "argmax-stability",
  "gate",
]);
const BARE_NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const SHA256 = /^[0-9a-f]{64}$/;
const MOST = 2 ** 53;

const layers = object({ prelude: whole(0, 1024), core: whole(1, 1024), coda: whole(0, 1024) });
const scaling = object({
  factor: number(1, 1e6),
  low_frequency: number(1e-6, 1e6),
  high_frequency: number(1e-6, 1e6),
  original_context: whole(1, 2 ** 22),
});
const rotary = object({
  base: number(1, 1e12),
  interleaved: optional(bool, false),
  scaling: optional(orNull(scaling), null),
});
const recurrence = object({
  initial_state: oneOf("random", "zeros", "embeds"),
  initial_std: number(0, 1e6),
  mean_steps: whole(1, 1024),
  max_steps: optional(orNull(whole(1, 1024)), null),
  exit_threshold: optional(orNull(number(0, 1)), null),
  norm_each_step: optional(bool, true),
});
const model = object({
  family: text,
  vocab_size: whole(1, 2 ** 22),
  hidden_size: whole(1, 2 ** 17),
  intermediate_size: whole(1, 2 ** 19),
  num_attention_heads: whole(1, 4096),
  num_key_value_heads: whole(1, 4096),
  head_dim: whole(2, 1024),
  context_length: whole(1, 2 ** 22),
  norm_eps: number(0, 1),
  embedding_scale: number(0, 1e6),
  qk_bias: bool,
  tied_embedding: bool,
  layers,
  rotary,
  recurrence,
});
const quantization = object({
  scheme: line,
  bits: optional(mapping(oneOf(4, 8)), new Map()),
  block_size: optional(oneOf(16, 32, 64, 128, 256), 32),
  block_sizes: optional(mapping(oneOf(16, 32, 64, 128, 256)), new Map()),
  accuracy_level: optional(oneOf(1, 4), 4),
});
const point = object({
  threshold: number(0, 1024),
  steps: number(1, 1024),
  agreement: number(0, 1),
});
const exit = object({
  rule: oneOf(...RULE_NAMES),
  steps: whole(1, 1024),
  thresholds: mapping(number(0, 1024)),
  loss: number(0, 1),
  measured_on: line,
  curve: optional(list(point), []),
});
const manifest = object({
  contract_version: whole(CONTRACT_VERSION, CONTRACT_VERSION),
  producer: line,
  name: line,
  model,
  weights: mapping(text),
  parameters: mapping(whole(0, MOST)),
  files: mapping(object({ bytes: whole(0, MOST), sha256: text })),
  special_tokens: optional(mapping(text), new Map()),
  quantization: optional(orNull(quantization), null),
  cache_scales: optional(orNull(object({ file: text, steps: whole(1, 1024) })), null),
  exit: optional(orNull(exit), null),
  flavour: optional(oneOf("fused", "portable"), "fused"),
  trained_length: optional(orNull(whole(1, 2 ** 22)), null),
  sha256: text,
});
const generation = object({
  stop_ids: optional(list(whole(0, 2 ** 22)), []),
  stop_strings: optional(list(text), []),
  temperature: optional(number(0, 100), 0),
  top_k: optional(whole(0, 2 ** 22), 0),
  top_p: optional(number(0, 1), 1),
  min_p: optional(number(0, 1), 0),
  repetition_penalty: optional(number(0.01, 100), 1),
  stop_sources: optional(mapping(text), new Map()),
  stops_ignored: optional(mapping(text), new Map()),
});

/** @param {Uint8Array} data @param {string} where */
function parsed(data, where) {
  try {
    return parseJson(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data));
  } catch (problem) {
    throw new BundleError(`${where} is not valid JSON: ${/** @type {Error} */ (problem).message}`);
  }
}

/**
 * Read and check a manifest.
 * @param {Uint8Array} data @param {string} where
 * @param {(data: Uint8Array) => Promise<string>} sha256
 * @returns {Promise<any>}
 */
export async function readManifest(data, where, sha256) {
  if (data.length > MAX_MANIFEST_BYTES) {
    throw new BundleError(`${where} has ${data.length} bytes; at most ${MAX_MANIFEST_BYTES}`);
  }
  const raw = parsed(data, where);
  const version = raw instanceof Map ? raw.get("contract_version") : undefined;
  if (!(version instanceof Num) || version.text !== `${CONTRACT_VERSION}`) {
    throw new BundleError(
      `${where}: contract_version is ${version?.text ?? version}, this rdlite reads ` +
        `${CONTRACT_VERSION}; export the checkpoint again, or use another version of rdlite`,
    );
  }
  const result = manifest(raw, where);
  const rest = new Map(raw);
  rest.delete("sha256");
  if ((await sha256(new TextEncoder().encode(canonicalJson(rest)))) !== result.sha256) {
    throw new BundleError(
      `${where} is damaged or was changed: its own SHA-256 does not match; ` +
        "copy or export the bundle again",
    );
  }
  for (const [name, entry] of result.files) {
    if (!BARE_NAME.test(name)) {
      throw new BundleError(`${where} lists ${JSON.stringify(name)}; files have bare names`);
    }
    if (!SHA256.test(entry.sha256)) throw new BundleError(`${where}: ${name} has no valid sha256`);
  }
  for (const part of PARTS) {
    if (!result.files.has(`${part}.onnx`)) {
      throw new BundleError(`${where} does not list ${part}.onnx; a bundle needs it`);
    }
  }
  if (result.exit !== null && !result.exit.thresholds.has(result.exit.rule)) {
    throw new BundleError(`${where}.exit: thresholds lacks that of ${result.exit.rule}`);
  }
  /** @type {number[]} */
  const steps = (result.exit?.curve ?? []).map((/** @type {any} */ point) => point.steps);
  if (steps.length > 64 || steps.some((count, i) => i > 0 && count > steps[i - 1])) {
    throw new BundleError(`${where}.exit: curve has over 64 points, or its steps grow`);
  }
  checkModel(result.model, where);
  return result;
}

/** Positions that a bundle's rotary tables have. @param {any} config @returns {number} */
export const rotaryPositions = (config) =>
  Math.min(config.contextLength, Math.floor(2 ** 24 / config.headDim));

/** @param {any} config @param {string} where */
function checkModel(config, where) {
  const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = config;
  for (const [name, value, limit] of [
    ["num_key_value_heads x head_dim", kvHeads * headDim, 2 ** 16],
    ["layers.core x mean_steps", config.layers.core * config.recurrence.meanSteps, 2 ** 14],
  ]) {
    if (value > limit) throw new BundleError(`${where}: ${name} must be at most ${limit}, got ${value}`);
  }
  const { scaling } = config.rotary;
  if (scaling !== null && scaling.highFrequency <= scaling.lowFrequency) {
    throw new BundleError(
      `${where}: rotary.scaling.high_frequency (${scaling.highFrequency}) must be above ` +
        `low_frequency (${scaling.lowFrequency})`,
    );
  }
  if (heads % kvHeads || headDim % 16) {
    throw new BundleError(
      `${where}: num_attention_heads (${heads}) must be a multiple of num_key_value_heads ` +
        `(${kvHeads}), and head_dim (${headDim}) one of 16`,
    );
  }
}

/** @param {Uint8Array | null} data @param {number} vocabSize */
export function readGenerationConfig(data, vocabSize) {
  const where = "generation_config.json";
  const config = generation(data === null ? new Map() : parsed(data, where), where);
  if (config.stopIds.length + config.stopStrings.length > 64 || config.stopStrings.includes("")) {
    throw new BundleError(`${where} has more than 64 stops, or an empty one`);
  }
  if (config.stopIds.some((/** @type {number} */ id) => id >= vocabSize) || config.topP === 0) {
    throw new BundleError(`${where}: a stop id is outside the vocabulary, or top_p is 0`);
  }
  return config;
}
