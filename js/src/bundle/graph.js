// The ONNX graphs of a bundle as lists of nodes, tensors and values; what a stranger's may hold.

import { GraphError } from "../errors.js";
import { messageField, messagesOf, numberField, readFields, textField, textsOf, writeFields } from "./protobuf.js";

/** @typedef {import("./protobuf.js").Field} Field */
/**
 * Fields of ONNX: a node's inputs, outputs, operator and what else it has.
 * @typedef {{inputs: string[], outputs: string[], op: string, rest: Field[]}} Node
 * @typedef {{name: string, fields: Field[]}} Named
 * @typedef {{location: string, offset: number, length: number}} External
 */

/** Those of both flavours, as docs/bundle.md says. */
const OPERATORS = new Set(
  (
    "Add Cast Concat Div Expand FusedMatMul Gather GatherBlockQuantized GroupQueryAttention " +
    "LessOrEqual MatMul MatMulNBits Mul Pow QuickGelu Range ReduceL2 ReduceMean ReduceSum " +
    "Reshape ScatterElements Shape Sigmoid SimplifiedLayerNormalization " +
    "SkipSimplifiedLayerNormalization Slice Softmax Split Sqrt Squeeze Sub Transpose " +
    "Unsqueeze Where"
  ).split(" "),
);
const DOMAINS = new Set(["", "ai.onnx", "com.microsoft"]);

export class Graph {
  /** @param {Uint8Array} bytes @param {string} part for messages */
  constructor(bytes, part) {
    this.part = part;
    /** @type {Field[]} */
    this.model = [];
    /** @type {Field[]} */
    this.rest = [];
    /** @type {Node[]} */
    this.nodes = [];
    /** @type {Named[]} */
    this.tensors = [];
    /** @type {Named[]} */
    this.inputs = [];
    /** @type {Named[]} */
    this.outputs = [];
    try {
      this.read(bytes);
    } catch (problem) {
      if (problem instanceof GraphError) throw problem;
      throw new GraphError(`${part}.onnx is not an ONNX graph: ${/** @type {Error} */ (problem).message}`);
    }
  }

  /** @param {Uint8Array} bytes */
  read(bytes) {
    this.model = readFields(bytes);
    const [graph, ...others] = messagesOf(this.model, 7);
    const functions = this.model.some((field) => field.number === 25);
    if (!graph || others.length || functions || graph.some((field) => field.number === 15)) {
      throw new GraphError(`${this.part}.onnx must hold one graph, no functions, no sparse tensors`);
    }
    this.rest = graph.filter((field) => ![1, 5, 11, 12, 13].includes(field.number));
    this.nodes = messagesOf(graph, 1).map((fields) => {
      const [[op], [domain = ""]] = [textsOf(fields, 4), textsOf(fields, 7)];
      // 6 and 11 of an attribute are graphs, 15 and 20 to 23 sparse tensors and types.
      const nested = messagesOf(fields, 5).some((attribute) =>
        attribute.some(({ number }) => [6, 11, 14, 15, 22, 23].includes(number)),
      );
      if (!OPERATORS.has(op) || !DOMAINS.has(domain) || nested) {
        throw new GraphError(`${this.part}.onnx has the operator ${domain}::${op}, or one inside it`);
      }
      return {
        inputs: textsOf(fields, 1),
        outputs: textsOf(fields, 2),
        op,
        rest: fields.filter(({ number }) => number > 3),
      };
    });
    this.tensors = messagesOf(graph, 5).map((fields) => ({ name: textsOf(fields, 8)[0], fields }));
    const named = (/** @type {number} */ number) =>
      messagesOf(graph, number).map((fields) => ({ name: textsOf(fields, 1)[0], fields }));
    this.inputs = named(11);
    this.outputs = named(12);
  }

  /**
   * Hold every tensor outside the graph against the files of the manifest.
   * @param {Map<string, {bytes: number}>} files
   */
  checkData(files) {
    for (const tensor of this.tensors) {
      const data = external(tensor);
      if (data === null) continue;
      const size = files.get(data.location)?.bytes ?? -1;
      if (!data.location.endsWith(".data") || !(data.offset >= 0 && data.length >= 0) ||
          data.offset + data.length > size) {
        throw new GraphError(
          `${this.part}.onnx: ${tensor.name} lies at ${data.offset} in ${JSON.stringify(data.location)}, ` +
            "which is not in a data file of the bundle",
        );
      }
    }
  }

  /** The names of the data files. */
  get dataFiles() {
    return new Set(this.tensors.flatMap((tensor) => external(tensor)?.location ?? []));
  }

  /** @returns {Uint8Array} */
  write() {
    const nodes = this.nodes.map(({ inputs, outputs, rest }) =>
      messageField(1, [
        ...inputs.map((name) => textField(1, name)),
        ...outputs.map((name) => textField(2, name)),
        ...rest,
      ]),
    );
    const graph = messageField(7, [
      ...nodes,
      ...this.rest,
      ...this.tensors.map(({ fields }) => messageField(5, fields)),
      ...this.inputs.map(({ fields }) => messageField(11, fields)),
      ...this.outputs.map(({ fields }) => messageField(12, fields)),
    ]);
    return writeFields(this.model.map((field) => (field.number === 7 ? graph : field)));
  }
}

/** An attribute of a node, a whole number. @param {string} name @param {number} value @returns {Field} */
export const numberAttribute = (name, value) =>
  messageField(5, [textField(1, name), numberField(3, value), numberField(20, 2)]);

/** An attribute of a node, a text. @param {string} name @param {string} value @returns {Field} */
export const textAttribute = (name, value) =>
  messageField(5, [textField(1, name), textField(4, value), numberField(20, 3)]);

/** Where a tensor's data lies outside the graph; null: inside. @param {Named} tensor @returns {External | null} */
export function external(tensor) {
  const entries = new Map(
    messagesOf(tensor.fields, 13).map((entry) => [textsOf(entry, 1)[0], textsOf(entry, 2)[0]]),
  );
  if (!entries.has("location")) return null;
  return {
    location: String(entries.get("location")),
    offset: Number(entries.get("offset") ?? 0),
    length: Number(entries.get("length") ?? -1),
  };
}

/** The tensor type of an input or output. @param {Field[]} fields */
const tensorType = (fields) => messagesOf(messagesOf(fields, 2)[0], 1)[0];

/** The type of an input's or output's numbers, as ONNX counts them. @param {Field[]} fields */
export const typeOf = (fields) => Number(tensorType(fields).find(({ number }) => number === 1)?.value);

/** An input's or output's fields with other numbers in its type. @param {Field[]} fields @param {number} type @param {(shape: Field[]) => Field[]} [reshape] */
export function withType(fields, type, reshape = (shape) => shape) {
  const shape = reshape(messagesOf(tensorType(fields), 2)[0]);
  const changed = messageField(2, [messageField(1, [numberField(1, type), messageField(2, shape)])]);
  return fields.map((field) => (field.number === 2 ? changed : field));
}

/** A tensor, input or output under another name. @param {Named} named @param {string} name @param {number} field */
const renamed = ({ fields }, name, field = 1) => ({
  name,
  fields: fields.map((each) => (each.number === field ? textField(field, name) : each)),
});

/**
 * Chain several core steps in one graph over the same weights. Step t reads the state that step
 * t - 1 wrote; what each writes is an output of its own, and each has its own cache:
 * `next_state.0`, `past_key_values.0.LAYER.key`, `next_state.1` and so on.
 * @param {Graph} core @param {number} count @returns {Graph}
 */
export function unrolled(core, count) {
  const result = Object.assign(Object.create(Graph.prototype), core);
  const fixed = new Set(core.tensors.map(({ name }) => name)); // and what depends on them alone
  const shared = new Set(["embeds", "seqlens_k", "total_sequence_length", ""]);
  const once = core.nodes.filter((node) => {
    const constant = node.inputs.every((name) => fixed.has(name));
    if (constant) node.outputs.forEach((name) => fixed.add(name));
    return constant;
  });
  const stepwise = core.nodes.filter((node) => !once.includes(node));
  const at = (/** @type {string} */ name, /** @type {number} */ step) => {
    if (fixed.has(name) || shared.has(name)) return name;
    if (name === "state") return step === 0 ? "state" : `next_state.${step - 1}`;
    const cache = /^(past_key_values|present|cache_scale)\.(.*)$/.exec(name);
    return cache ? `${cache[1]}.${step}.${cache[2]}` : `${name}.${step}`;
  };
  const steps = Array.from({ length: count }, (_, step) => step);
  result.nodes = [
    ...once,
    ...steps.flatMap((step) =>
      stepwise.map((node) => ({
        ...node,
        inputs: node.inputs.map((name) => at(name, step)),
        outputs: node.outputs.map((name) => at(name, step)),
      })),
    ),
  ];
  const caches = core.inputs.filter(({ name }) => /^(past_key_values|cache_scale)\./.test(name));
  result.inputs = [
    ...core.inputs.filter((input) => !caches.includes(input)),
    ...steps.flatMap((step) => caches.map((input) => renamed(input, at(input.name, step)))),
  ];
  result.outputs = steps.flatMap((step) =>
    core.outputs.map((output) => renamed(output, at(output.name, step))),
  );
  return result;
}
