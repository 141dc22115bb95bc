// Opens a bundle: everything is checked before ONNX Runtime, the tokenizer or a template sees it.

import { resolveCache } from "./engine/cache.js";
import { checkInteger, checkOptions } from "./utils/checks.js";
import { Engine } from "./engine/engine.js";
import { BundleError, InputError } from "./errors.js";
import { Graph } from "./bundle/graph.js";
import { readCacheScales } from "./engine/int8-cache.js";
import { MANIFEST, PARTS, readGenerationConfig, readManifest, rotaryPositions } from "./bundle/manifest.js";
import { Model } from "./model.js";
import { ChatTemplate, Tokenizer } from "./text/tokenizer.js";

const OPTIONS = ["device", "threads", "context", "cache", "forceSteps", "onProgress"];
const MAX_TEXT_FILE_BYTES = 64 * 2 ** 20;
const MAX_GRAPH_BYTES = 4 * 2 ** 20;

/**
 * @typedef {object} LoadOptions
 * @property {string} [device] "cpu" in Node, "wasm" or "webgpu" in a browser
 * @property {number | null} [threads] for one operator, 1 to 256; null: as is usual there
 * @property {number | null} [context] the longest text in tokens; null: as many as the bundle has
 *   rotary tables for, which is nearly always the model's own
 * @property {import("./engine/cache.js").Cache} [cache]
 * @property {boolean} [forceSteps] allow more core steps than the model was made for
 * @property {(done: number, total: number) => void} [onProgress] bytes that were read and checked
 */

/**
 * How a place gives the files of a bundle and runs its graphs.
 * @typedef {object} Place
 * @property {string} where for messages
 * @property {(name: string, most: number) => Promise<Uint8Array>} read a small file, whole
 * @property {(name: string, entry: {bytes: number, sha256: string},
 *   progress: (bytes: number) => void) => Promise<Uint8Array | null>} check compares size and
 *   SHA-256 and throws BundleError; returns the bytes, or null if they stay in their file
 * @property {(data: Uint8Array) => Promise<string>} sha256
 * @property {(options: LoadOptions, data: Map<string, Uint8Array | null>, manifest: any) => Promise<any>} backend
 */

/** @param {Place} place @param {LoadOptions} options @returns {Promise<Model>} */
export async function open(place, options) {
  checkOptions("load", options, OPTIONS);
  const { threads = null, context = null, onProgress = () => {} } = options;
  if (threads !== null) checkInteger("threads", threads, 1, 256);
  const { share, bits } = resolveCache(options.cache ?? {});
  const where = `${place.where}/${MANIFEST}`;
  const manifest = await readManifest(await place.read(MANIFEST, 2 ** 20), where, place.sha256);
  const config = manifest.model;
  const positions = rotaryPositions(config);
  if (context !== null && checkInteger("context", context, 1, config.contextLength) > positions) {
    throw new InputError(
      `context must be at most ${positions}, got ${context}: the bundle's rotary tables end there, ` +
        "and longer ones are made in Python only (rdlite.load, rdlite serve)",
    );
  }

  /** @type {[string, any][]} */
  const files = [...manifest.files];
  const total = files.reduce((sum, [, entry]) => sum + entry.bytes, 0);
  /** @type {Map<string, Uint8Array | null>} */
  const data = new Map();
  let done = 0;
  for (const [name, entry] of files) {
    const checked = await place.check(name, entry, (bytes) => onProgress(done + bytes, total));
    data.set(name, checked);
    onProgress((done += entry.bytes), total);
  }
  const small = (/** @type {string} */ name, /** @type {number} */ most) => {
    const bytes = data.get(name);
    if (!manifest.files.has(name)) return null;
    if (!bytes || bytes.length > most) throw new BundleError(`${place.where}/${name} is too large`);
    return bytes;
  };
  /** @type {Record<string, Graph>} */
  const graphs = {};
  for (const part of PARTS) {
    const bytes = /** @type {Uint8Array} */ (small(`${part}.onnx`, MAX_GRAPH_BYTES));
    graphs[part] = new Graph(bytes, part);
    graphs[part].checkData(manifest.files);
  }
  const special = manifest.specialTokens;
  const text = (/** @type {string} */ name) => small(name, MAX_TEXT_FILE_BYTES);
  const generationConfig = readGenerationConfig(text("generation_config.json"), config.vocabSize);
  const [tokens, template] = [text("tokenizer.json"), text("chat_template.jinja")];
  const scales = bits === null ? null : readCacheScales(manifest, small, place.where);
  const backend = await place.backend(options, data, manifest);
  const engine = new Engine(backend, config, graphs, share, scales);
  await engine.open(manifest.files.get("core.onnx.data")?.bytes ?? 0);
  return new Model({
    manifest,
    engine,
    context: context ?? positions,
    forceSteps: options.forceSteps ?? false,
    generationConfig,
    tokenizer: tokens && new Tokenizer(tokens, special, config.vocabSize),
    chatTemplate: template && new ChatTemplate(template, special),
  });
}
