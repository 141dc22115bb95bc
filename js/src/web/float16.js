// A checked graph with float16 activations, as GPUs run it fast, changed as rdlite/graphs/float16.py does
// it for CUDA, but with plain operators. Sums, which float16 could not hold, stay float32, and so does what
// JavaScript reads and writes: embeds, states, changes, exit probabilities and logits. Caches are float16.

import { Graph, numberAttribute, typeOf, withType } from "../bundle/graph.js";
import { messagesOf, textField, textsOf } from "../bundle/protobuf.js";

/** @typedef {import("../bundle/graph.js").Node} Node */
const [FLOAT, FLOAT16, BFLOAT16] = [1, 10, 16]; // as ONNX counts its types
/** What sums over many numbers; what follows from it stays float32 too. */
const SUMS = ["ReduceL2", "ReduceSum"];
/** What takes any float type, so that it follows its inputs. */
const FOLLOWS = ["Add", "Sub", "Mul", "Div", "Sigmoid"];

/**
 * The graph with float16 activations. Weights are narrowed once, when the graph is loaded; packed ones are
 * as they were.
 * @param {Graph} graph @returns {Graph}
 */
export function withFloat16(graph) {
  const retyped = (/** @type {import("../bundle/graph.js").Named} */ value) =>
    /^(past_key_values|present)\./.test(value.name) ? { ...value, fields: withType(value.fields, FLOAT16) } : value;
  const result = Object.assign(Object.create(Graph.prototype), graph);
  result.inputs = graph.inputs.map(retyped);
  result.outputs = graph.outputs.map(retyped);
  const writer = new Writer(result);
  graph.nodes.forEach((node) => writer.convert(node));
  result.nodes = writer.nodes;
  return result;
}

/** Goes through the nodes in their order, and casts where types would not go together. */
class Writer {
  /** @param {Graph} graph whose inputs and outputs have their new types */
  constructor(graph) {
    /** @type {Node[]} */
    this.nodes = [];
    /** What the values that nodes read have become: other values, or themselves. @type {Map<string, string>} */
    this.now = new Map();
    /** @type {Map<string, string>} */
    this.casts = new Map();
    this.stored = new Set(graph.tensors.map(({ name }) => name));
    this.types = new Map(graph.inputs.map(({ name, fields }) => [name, typeOf(fields)]));
    for (const { name, fields } of graph.tensors) {
      this.types.set(name, Number(fields.find(({ number }) => number === 2)?.value));
    }
    this.wanted = new Map(graph.outputs.map(({ name, fields }) => [name, typeOf(fields)]));
    this.taken = new Set([...this.types.keys(), ...graph.nodes.flatMap(({ outputs }) => outputs)]);
    for (const { name } of graph.inputs) this.now.set(name, this.as(name, FLOAT16));
  }

  /** Add a node that reads float16, or float32 if it sums or goes on from a sum. @param {Node} node */
  convert(node) {
    if (node.op === "Cast") {
      this.now.set(node.outputs[0], this.at(node.inputs[0])); // whoever reads it casts as it needs
      return;
    }
    const given = node.inputs.map((name) => this.at(name));
    const sums =
      SUMS.includes(node.op) ||
      (FOLLOWS.includes(node.op) && given.some((name) => !this.stored.has(name) && this.types.get(name) === FLOAT));
    const kind = sums ? FLOAT : FLOAT16;
    const inputs = given.map((name) => this.as(name, kind));
    const back = /** @type {[string, string][]} */ ([]);
    const outputs = node.outputs.map((name) => {
      const cast = (this.wanted.get(name) ?? kind) !== kind;
      const made = cast ? this.name(name, kind) : name;
      if (cast) back.push([made, name]);
      this.now.set(name, made);
      this.types.set(made, kind);
      return made;
    });
    // An accuracy level may ask for activations that are rounded to int8.
    const rest = node.rest.filter(
      (field) => field.number !== 5 || textsOf(messagesOf([field], 5)[0], 1)[0] !== "accuracy_level",
    );
    this.nodes.push({ ...node, inputs, outputs, rest });
    for (const [made, name] of back) this.cast(made, name, /** @type {number} */ (this.wanted.get(name)));
  }

  /** @param {string} name */
  at(name) {
    return this.now.get(name) ?? name;
  }

  /** A value as float16 or float32, if it holds such numbers at all. @param {string} name @param {number} kind */
  as(name, kind) {
    const type = this.types.get(name) ?? 0;
    if (![FLOAT, FLOAT16, BFLOAT16].includes(type) || type === kind) return name;
    const key = `${kind} ${name}`;
    let made = this.casts.get(key);
    if (made === undefined) {
      made = this.name(name, kind);
      this.casts.set(key, made);
      this.cast(name, made, kind);
    }
    return made;
  }

  /** @param {string} source @param {string} target @param {number} kind */
  cast(source, target, kind) {
    const rest = [textField(4, "Cast"), numberAttribute("to", kind)];
    this.nodes.push({ op: "Cast", inputs: [source], outputs: [target], rest });
    this.types.set(target, kind);
  }

  /** @param {string} name @param {number} kind */
  name(name, kind) {
    let unique = `${name}.float${kind === FLOAT ? 32 : 16}`;
    while (this.taken.has(unique)) unique += "_";
    this.taken.add(unique);
    return unique;
  }
}
