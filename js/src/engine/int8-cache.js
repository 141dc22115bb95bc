// Caches of int8 numbers: what one is worth, by channel, and graphs whose attention keeps them.

import { BundleError, GraphError, InputError } from "../errors.js";
import { Graph, numberAttribute, textAttribute, withType } from "../bundle/graph.js";
import { Num, parseJson } from "../bundle/json.js";
import { messageField, numberField, textField } from "../bundle/protobuf.js";

const { fround } = Math;
const [LOWEST, HIGHEST] = [1e-12, 1e12];
const INT8 = 3; // as ONNX counts its types
const [PASTS, SCALES] = [[3, 4], [12, 13]]; // inputs of GroupQueryAttention

/** By layer, of keys and of values: what an entry of 1 is worth, [K x D]. @typedef {Float32Array[][]} Scales */

/** Scales of prelude, coda, and of as many core steps as have their own; deeper ones have the last's. */
export class CacheScales {
  /** @param {Scales} prelude @param {Scales[]} core @param {Scales} coda */
  constructor(prelude, core, coda) {
    this.prelude = prelude;
    this.core = core;
    this.coda = coda;
  }

  /** Those of the core's slot of this number. @param {number} index */
  ofSlot(index) {
    return this.core[Math.min(index, this.core.length - 1)];
  }

  /**
   * Those of a cache that keeps `share` slots: the largest of a slot's steps. Steps past the last
   * one may fall to any slot, so every slot is as wide as that at least.
   * @param {number} share
   */
  shared(share) {
    const { core } = this;
    const slots = Array.from({ length: Math.min(share, core.length) }, (_, slot) =>
      [...core.filter((_, step) => step % share === slot), core[core.length - 1]].reduce(widest),
    );
    return new CacheScales(this.prelude, slots, this.coda);
  }
}

/** @param {Scales} a @param {Scales} b @returns {Scales} */
const widest = (a, b) =>
  a.map((pair, layer) =>
    pair.map((values, kind) => values.map((value, i) => Math.max(value, b[layer][kind][i]))),
  );

/**
 * Read the file of a bundle's scales: safetensors with prelude, core and coda.
 * @param {any} manifest @param {(name: string, most: number) => Uint8Array | null} file
 * @param {string} where
 */
export function readCacheScales(manifest, file, where) {
  const { model: config, cacheScales: noted, flavour } = manifest;
  if (flavour === "portable") {
    throw new InputError(
      `${where} is portable, and no standard operator keeps an int8 cache; leave bits out, or ` +
        "export the checkpoint with --flavour fused",
    );
  }
  if (noted === null) {
    throw new InputError(
      `${where} has no scales for an int8 cache: run 'rdlite tune' on it to make them, or leave bits out`,
    );
  }
  const { layers, numKeyValueHeads: heads, headDim } = config;
  const width = heads * headDim;
  /** @type {Record<string, number[]>} */
  const shapes = {
    prelude: [layers.prelude, 2, 1, heads, 1, headDim],
    core: [noted.steps, layers.core, 2, 1, heads, 1, headDim],
    coda: [layers.coda, 2, 1, heads, 1, headDim],
  };
  const size = (/** @type {number[]} */ shape) => shape.reduce((product, n) => product * n, 1);
  const most = 4096 + 4 * Object.values(shapes).reduce((sum, shape) => sum + size(shape), 0);
  const name = `${where}/${noted.file}`;
  const data = file(noted.file, most);
  if (data === null) throw new BundleError(`${name} is not listed in the manifest`);
  /** @type {Record<string, Scales[]>} */
  const found = {};
  try {
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    const start = 8 + Number(view.getBigUint64(0, true));
    const header = /** @type {Map<string, any>} */ (
      parseJson(new TextDecoder("utf-8", { fatal: true }).decode(data.subarray(8, start)))
    );
    header.delete("__metadata__");
    if ([...header.keys()].sort().join() !== "coda,core,prelude") throw new Error("it must hold prelude, core, coda");
    const numbers = (/** @type {any} */ list) =>
      list.map((/** @type {any} */ each) => (each instanceof Num ? each.value : NaN));
    for (const [part, shape] of Object.entries(shapes)) {
      const entry = header.get(part);
      const [first, end] = numbers(entry.get("data_offsets"));
      if (entry.get("dtype") !== "F32" || numbers(entry.get("shape")).join() !== shape.join() ||
          !(first >= 0) || end - first !== 4 * size(shape) || start + end > data.length) {
        throw new Error(`${part} must be F32 [${shape.join(", ")}]`);
      }
      const bytes = data.slice(start + first, start + end);
      const values = new Float32Array(bytes.buffer);
      if (!values.every((value) => value >= LOWEST && value <= HIGHEST)) {
        throw new Error(`scales of ${part} must lie between ${LOWEST} and ${HIGHEST}`);
      }
      const [steps, count] = part === "core" ? shape : [1, shape[0]];
      found[part] = Array.from({ length: steps }, (_, step) =>
        Array.from({ length: count }, (_, layer) =>
          [0, 1].map((kind) => {
            const at = ((step * count + layer) * 2 + kind) * width;
            return values.subarray(at, at + width);
          }),
        ),
      );
    }
  } catch (problem) {
    throw new BundleError(`${name} is not usable: ${/** @type {Error} */ (problem).message}`);
  }
  return new CacheScales(found.prelude[0], found.core, found.coda[0]);
}

/**
 * Copy int8 entries between two ends, by the target's scales; rounds as NumPy does.
 * @param {Int8Array} from @param {Int8Array} to @param {number} start @param {number} end
 * @param {Float32Array} fromScales @param {Float32Array} toScales
 * @param {number} first where the head's scales begin @param {number} width of a head
 */
export function rescale(from, to, start, end, fromScales, toScales, first, width) {
  for (let at = start; at < end; at++) {
    const channel = first + ((at - start) % width);
    const value = fround(fround(from[at] * fromScales[channel]) / toScales[channel]);
    let whole = Math.round(value);
    if (whole - value === 0.5 && whole % 2 !== 0) whole--; // halves go to the even one
    to[at] = Math.max(-128, Math.min(127, whole));
  }
}

/**
 * A checked graph whose caches are int8: `cache_scale.0.key` and so on, float32 [1, K, 1, D], are
 * further inputs. ONNX Runtime rounds new entries before it attends to them.
 * @param {Graph} graph
 * @returns {Graph}
 */
export function withInt8Cache(graph) {
  const result = Object.assign(Object.create(Graph.prototype), graph);
  const isCache = (/** @type {string} */ name) => /^(past_key_values|present)\./.test(name);
  const retyped = (/** @type {import("../bundle/graph.js").Named} */ value) =>
    isCache(value.name) ? { ...value, fields: withType(value.fields, INT8) } : value;
  const taken = new Set([...graph.nodes.flatMap(({ outputs }) => outputs), ...graph.tensors.map(({ name }) => name)]);
  result.outputs = graph.outputs.map(retyped);
  result.inputs = graph.inputs.map(retyped);
  result.nodes = graph.nodes.map((node) => {
    if (node.op !== "GroupQueryAttention") return node;
    const inputs = Array.from({ length: SCALES[1] + 1 }, (_, i) => node.inputs[i] ?? "");
    PASTS.forEach((past, kind) => {
      const given = graph.inputs.find(({ name }) => name === inputs[past]);
      if (!given) throw new GraphError(`${graph.part}.onnx: ${inputs[past]} is no input`);
      const name = given.name.replace("past_key_values.", "cache_scale.");
      if (taken.has(name)) {
        throw new GraphError(`${name} is the name of an input, and of a value of ${graph.part}.onnx`);
      }
      result.inputs.push(scaleInput(name, given));
      inputs[SCALES[kind]] = name;
    });
    const kinds = ["k_quant_type", "v_quant_type"].map((name) => textAttribute(name, "PER_CHANNEL"));
    return { ...node, inputs, rest: [...node.rest, ...kinds, numberAttribute("kv_cache_bit_width", 8)] };
  });
  return result;
}

/** @typedef {import("../bundle/protobuf.js").Field} Field */

/** The input that a cache's scales are, [1, K, 1, D]. @param {string} name @param {import("../bundle/graph.js").Named} cache */
function scaleInput(name, cache) {
  const one = messageField(1, [numberField(1, 1)]);
  const dims = (/** @type {Field[]} */ shape) => {
    const given = shape.filter(({ number }) => number === 1);
    return [one, given[1], one, given[3]];
  };
  const fields = withType(cache.fields, 1, dims);
  return { name, fields: fields.map((field) => (field.number === 1 ? textField(1, name) : field)) };
}
