// 8-bit weights with float32 activations (accuracy level 1) as two 4-bit products, as in Python: ONNX
// Runtime has fast kernels for those. The halves follow from the stored bytes when a graph is loaded.

import { Graph, numberAttribute, textAttribute } from "../bundle/graph.js";
import { messagesOf, numberField, textField, textsOf } from "../bundle/protobuf.js";

/** @typedef {import("../bundle/graph.js").Node} Node */
const BASE = 16; // what a high half counts
const [UINT8, INT64, FLOAT] = [2, 7, 1]; // as ONNX counts its types

/** A node's whole numbers by their names. @param {Node} node @returns {Record<string, number>} */
const numbersOf = ({ rest }) =>
  Object.fromEntries(
    messagesOf(rest, 5).map((fields) => [
      textsOf(fields, 1)[0],
      Number(fields.find(({ number }) => number === 3)?.value ?? 0),
    ]),
  );

/** @param {Node} node */
function isWide(node) {
  if (node.op !== "MatMulNBits" || node.inputs.filter(Boolean).length !== 3) return false;
  const { bits = 4, accuracy_level: level = 0 } = numbersOf(node);
  return bits === 8 && level === 1;
}

/** The graph with such products as sums of two; the same where it has none. @param {Graph} graph @returns {Graph} */
export function withInt8Halves(graph) {
  if (!graph.nodes.some(isWide)) return graph;
  const writer = new Writer(graph);
  for (const node of graph.nodes) {
    if (isWide(node)) writer.split(node);
    else writer.nodes.push(node);
  }
  const changed = { nodes: writer.nodes, tensors: [...graph.tensors, ...writer.constants.values()] };
  return Object.assign(Object.create(Graph.prototype), graph, changed);
}

/** Adds nodes and small constants under names that the graph does not have. */
class Writer {
  /** @param {Graph} graph */
  constructor(graph) {
    /** @type {Node[]} */
    this.nodes = [];
    /** @type {Map<string, import("../bundle/graph.js").Named>} */
    this.constants = new Map();
    this.taken = new Set([
      ...graph.nodes.flatMap(({ inputs, outputs }) => [...inputs, ...outputs]),
      ...graph.tensors.map(({ name }) => name),
    ]);
  }

  /** Add what stands for one product. @param {Node} node */
  split(node) {
    const [x, packed, scales] = node.inputs;
    const { N: rows, K: width, block_size: block } = numbersOf(node);
    const blocks = Math.ceil(width / block);
    const byte = (/** @type {string} */ name, /** @type {number} */ value) =>
      this.constant(name, UINT8, [], Uint8Array.of(value));
    const [low, high, four] = [byte("low_bits", 15), byte("high_bits", 240), byte("four", 4)];
    const [even, odd] = [0, 1].map((first) => {
      const bounds = [first, block, 2, 2].map((value) => this.integer(value)); // axis 2, every second
      return this.add("Slice", [packed, ...bounds]);
    });
    // Neighbours share a byte, the first of them in its lower bits.
    const shift = (/** @type {string} */ bytes, /** @type {string} */ direction) =>
      this.add("BitShift", [bytes, four], [textAttribute("direction", direction)]);
    const highs = this.add("BitwiseOr", [shift(even, "RIGHT"), this.add("BitwiseAnd", [odd, high])]);
    const lows = this.add("BitwiseOr", [this.add("BitwiseAnd", [even, low]), shift(odd, "LEFT")]);
    const shape = [rows, (blocks + 1) >> 1];
    const zeros = this.constant("zero_points", UINT8, shape, new Uint8Array(shape[0] * shape[1]));
    const base = this.constant("base", FLOAT, [], new Uint8Array(Float32Array.of(BASE).buffer));
    const rest = node.rest.map((field) => {
      if (field.number !== 5) return field;
      const [own] = messagesOf([field], 5);
      return textsOf(own, 1)[0] === "bits" ? numberAttribute("bits", 4) : field;
    });
    const product = (/** @type {string[]} */ inputs) => {
      const output = this.name(`${packed}.half`);
      this.nodes.push({ ...node, inputs: [x, ...inputs], outputs: [output], rest });
      return output;
    };
    // 8 means zero where no zero point is given.
    const halves = [product([highs, this.add("Mul", [scales, base])]), product([lows, scales, zeros])];
    this.add("Add", halves, [], node.outputs[0]);
  }

  /** @param {string} op @param {string[]} inputs @param {any[]} [attributes] @param {string} [output] */
  add(op, inputs, attributes = [], output = this.name(`${inputs[0]}.${op}`)) {
    this.nodes.push({ op, inputs, outputs: [output], rest: [textField(4, op), ...attributes] });
    return output;
  }

  /** @param {number} value */
  integer(value) {
    return this.constant(`int.${value}`, INT64, [1], new Uint8Array(BigInt64Array.of(BigInt(value)).buffer));
  }

  /** @param {string} name @param {number} type @param {number[]} dims @param {Uint8Array} data */
  constant(name, type, dims, data) {
    const key = `${name}/${dims}`;
    let tensor = this.constants.get(key);
    if (tensor === undefined) {
      const unique = this.name(name);
      const raw = { number: 9, wire: 2, value: data };
      const shape = dims.map((dim) => numberField(1, dim));
      tensor = { name: unique, fields: [...shape, numberField(2, type), textField(8, unique), raw] };
      this.constants.set(key, tensor);
    }
    return tensor.name;
  }

  /** @param {string} name */
  name(name) {
    let unique = `halves.${name}`;
    while (this.taken.has(unique)) unique += "_";
    this.taken.add(unique);
    return unique;
  }
}
