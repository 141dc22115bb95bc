// Quantized weights become float32 when a graph is loaded: WebAssembly has no fast product of small
// integers (MatMulNBits unpacks the whole weight in each call). Downloads stay small.

import { GraphError } from "../errors.js";
import { external } from "../bundle/graph.js";
import { messageField, messagesOf, numberField, textField, textsOf } from "../bundle/protobuf.js";

/** @param {any} node @param {string} name @param {number} missing */
function attribute(node, name, missing) {
  const found = messagesOf(node.rest, 5).find((fields) => textsOf(fields, 1)[0] === name);
  return found ? Number(found.find(({ number }) => number === 3)?.value ?? 0) : missing;
}

/** @param {number} half a float16's bits */
function fromHalf(half) {
  const [sign, exponent, part] = [half >> 15 ? -1 : 1, (half >> 10) & 31, half & 1023];
  if (exponent === 0) return (sign * part) / 2 ** 24;
  return sign * (1 + part / 1024) * 2 ** (exponent - 15);
}

/**
 * Replace MatMulNBits by MatMul and GatherBlockQuantized by Gather, in place.
 * @param {import("../bundle/graph.js").Graph} graph
 * @param {(name: string) => Uint8Array} file gives a data file
 * @returns {Uint8Array | null} the data of the new weights; null: nothing was quantized
 */
export function dequantize(graph, file) {
  const tensors = new Map(graph.tensors.map((tensor) => [tensor.name, tensor]));
  const casts = new Map(
    graph.nodes.filter(({ op }) => op === "Cast").map(({ inputs, outputs }) => [outputs[0], inputs[0]]),
  );
  const bytes = (/** @type {string} */ name) => {
    const tensor = tensors.get(name);
    const place = tensor && external(tensor);
    if (!place) throw new GraphError(`${graph.part}.onnx: ${name} is no stored weight`);
    const data = file(place.location);
    return data.slice(place.offset, place.offset + place.length);
  };
  /** @type {Uint8Array[]} */
  const weights = [];
  let size = 0;
  const made = new Map();
  const location = `${graph.part}.float32.data`;
  const add = (/** @type {string} */ name, /** @type {Float32Array} */ values, /** @type {number[]} */ dims) => {
    if (!made.has(name)) {
      const entry = (/** @type {string} */ key, /** @type {string} */ value) =>
        messageField(13, [textField(1, key), textField(2, value)]);
      const where = [entry("location", location), entry("offset", `${size}`), entry("length", `${values.byteLength}`)];
      const shape = dims.map((dim) => numberField(1, dim));
      graph.tensors.push({
        name,
        fields: [...shape, numberField(2, 1), textField(8, name), ...where, numberField(14, 1)],
      });
      weights.push(new Uint8Array(values.buffer));
      size += values.byteLength;
      made.set(name, true);
    }
    return name;
  };
  graph.nodes = graph.nodes.map((node) => {
    if (node.op !== "MatMulNBits" && node.op !== "GatherBlockQuantized") return node;
    const gather = node.op === "GatherBlockQuantized";
    const [packed, scales] = gather ? [node.inputs[0], node.inputs[2]] : [node.inputs[1], node.inputs[2]];
    const [bits, block] = [attribute(node, "bits", 4), attribute(node, "block_size", 128)];
    const dims = /** @type {any} */ (tensors.get(packed)).fields
      .filter((/** @type {any} */ field) => field.number === 1)
      .flatMap((/** @type {any} */ { value }) => (typeof value === "bigint" ? Number(value) : varints(value)));
    const rows = dims[0];
    const raw = bytes(packed);
    const width = gather ? ((raw.length / rows) * 8) / bits : attribute(node, "K", 0);
    const values = unpack(raw, bytes(casts.get(scales) ?? scales), rows, width, bits, block, !gather);
    const name = add(`${packed}.float32.${gather ? "rows" : "columns"}`, values, gather ? [rows, width] : [width, rows]);
    const inputs = gather ? [name, node.inputs[1]] : [node.inputs[0], name];
    const op = gather ? "Gather" : "MatMul";
    return { inputs, outputs: node.outputs, op, rest: [textField(4, op)] };
  });
  const used = new Set(graph.nodes.flatMap(({ inputs }) => inputs));
  graph.nodes = graph.nodes.filter(({ op, outputs }) => op !== "Cast" || used.has(outputs[0]));
  const needed = new Set(graph.nodes.flatMap(({ inputs }) => inputs));
  graph.tensors = graph.tensors.filter(({ name }) => needed.has(name));
  if (size === 0) return null;
  const all = new Uint8Array(size);
  weights.reduce((at, piece) => (all.set(piece, at), at + piece.length), 0);
  return all;
}

/** @param {Uint8Array} bytes */
function varints(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length; ) {
    let [value, factor] = [0, 1];
    do {
      value += (bytes[at] & 127) * factor;
      factor *= 128;
    } while (bytes[at++] > 127);
    found.push(value);
  }
  return found;
}

/**
 * Signed integers times the scale of their block, float32 [rows, width], or its transpose.
 * @param {Uint8Array} packed @param {Uint8Array} scaleBytes float16 or float32 @param {number} rows
 * @param {number} width @param {number} bits @param {number} block @param {boolean} transposed
 */
function unpack(packed, scaleBytes, rows, width, bits, block, transposed) {
  const blocks = Math.ceil(width / block);
  const halves = scaleBytes.length === 2 * rows * blocks;
  const view = new DataView(scaleBytes.buffer);
  const result = new Float32Array(rows * width);
  const perRow = (blocks * block * bits) / 8;
  const zero = 2 ** (bits - 1);
  for (let row = 0; row < rows; row++) {
    const start = packed.length === (rows * width * bits) / 8 ? (row * width * bits) / 8 : row * perRow;
    for (let column = 0; column < width; column++) {
      const index = row * blocks + Math.floor(column / block);
      const scale = halves ? fromHalf(view.getUint16(2 * index, true)) : view.getFloat32(4 * index, true);
      const byte = packed[start + (bits === 8 ? column : column >> 1)];
      const whole = bits === 8 ? byte : column & 1 ? byte >> 4 : byte & 15;
      result[transposed ? column * rows + row : row * width + column] = (whole - zero) * scale;
    }
  }
  return result;
}
