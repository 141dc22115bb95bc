// Graphs on a GPU, by onnxruntime-web's WebGPU build. Caches stay in the GPU's memory; states, changes
// and logits, which rules and samplers look at, come back after each call.

import { RuntimeFailure } from "../errors.js";
import { Graph } from "../bundle/graph.js";
import { numberField, messageField, messagesOf, textField, textsOf } from "../bundle/protobuf.js";
import { withFloat16 } from "./float16.js";

const TYPES = { float16: Uint16Array, float32: Float32Array, int32: Int32Array, int64: BigInt64Array };
const [STORAGE, COPY_SOURCE, COPY_TARGET] = [128, 4, 8]; // of a GPUBuffer

/** @typedef {{tensor: any, data?: any, buffer?: any, take?: (...given: any[]) => void, free: () => void}} Buffer */

export class WebGpuBackend {
  /** Calls go on after they return. */
  remote = true;
  /** @type {any} */
  device = null;

  /**
   * @param {any} ort the module @param {Map<string, Uint8Array | null>} files
   * @param {{precision: "float16" | "float32", narrow: boolean}} gpu what activations and caches are in,
   *   and whether fewer than 16 threads may run in step
   */
  constructor(ort, files, { precision, narrow }) {
    this.ort = ort;
    this.files = files;
    this.precision = precision;
    // From 32 positions on onnxruntime-web 1.30 attends with a shader that is wrong on those.
    this.longest = narrow ? 31 : Infinity;
  }

  /**
   * @param {keyof typeof TYPES} type @param {number[]} shape
   * @param {boolean} [cache] stays on the GPU, in the precision of caches @returns {Buffer}
   */
  alloc(type, shape, cache = false) {
    const size = shape.reduce((product, n) => product * n, 1);
    if (!cache) {
      const data = new TYPES[type](size);
      return { data, tensor: new this.ort.Tensor(type, data, shape), free: () => {} };
    }
    const { device, precision } = this;
    const width = TYPES[precision].BYTES_PER_ELEMENT;
    const most = Math.min(device.limits.maxBufferSize, device.limits.maxStorageBufferBindingSize);
    if (size * width > most) {
      throw new RuntimeFailure(
        `a cache of ${size * width} bytes is more than this GPU takes in one piece, ${most}; use a smaller context`,
      );
    }
    const usage = STORAGE | COPY_SOURCE | COPY_TARGET;
    const buffer = device.createBuffer({ size: Math.max(16, size * width), usage });
    return {
      buffer,
      tensor: this.ort.Tensor.fromGpuBuffer(buffer, { dataType: precision, dims: shape }),
      take: (/** @type {Buffer} */ from, /** @type {number[][]} */ ranges) => {
        const encoder = device.createCommandEncoder();
        for (const [start, at, length] of ranges) {
          encoder.copyBufferToBuffer(from.buffer, start * width, buffer, at * width, length * width);
        }
        device.queue.submit([encoder.finish()]);
      },
      free: () => buffer.destroy(),
    };
  }

  /** Load a checked graph. @param {string} part @param {Graph} graph */
  async session(part, graph) {
    const plain = withPlainProducts(graph);
    const given = this.precision === "float16" ? withFloat16(plain) : plain;
    const externalData = [...given.dataFiles].map((path) => ({ path, data: this.files.get(path) }));
    const options = {
      executionProviders: ["webgpu"],
      externalData,
      logSeverityLevel: 4,
      extra: { session: { disable_cpu_ep_fallback: "1" } }, // what the GPU cannot do is an error
    };
    let session;
    try {
      session = await this.ort.InferenceSession.create(given.write(), options);
    } catch (problem) {
      const said = String(/** @type {Error} */ (problem).message).replace(/\s+/g, " ").slice(0, 300);
      const operators = [...new Set(given.nodes.map(({ op }) => op))].join(", ");
      const other = `${given === plain ? "" : 'precision: "float32" or '}device: "wasm"`;
      throw new RuntimeFailure(
        `this GPU cannot run ${part}.onnx; use ${other}. It has the operators ${operators}; ` +
          `onnxruntime-web says: ${said}`,
      );
    }
    this.device ??= await this.ort.env.webgpu.device;
    return new WebGpuSession(part, session);
  }
}

class WebGpuSession {
  /** @param {string} part @param {any} session */
  constructor(part, session) {
    this.part = part;
    this.session = session;
  }

  /** @param {Record<string, Buffer>} inputs @param {Record<string, Buffer>} outputs */
  bind(inputs, outputs) {
    const tensors = (/** @type {Record<string, Buffer>} */ buffers) =>
      Object.fromEntries(Object.entries(buffers).map(([name, { tensor }]) => [name, tensor]));
    const feeds = tensors(inputs);
    const back = Object.entries(outputs).filter(([, { data }]) => data);
    const fetches = { ...tensors(outputs), ...Object.fromEntries(back.map(([name]) => [name, null])) };
    return async () => {
      let found;
      try {
        found = await this.session.run(feeds, fetches);
      } catch (problem) {
        const said = String(/** @type {Error} */ (problem).message).replace(/\s+/g, " ").slice(0, 300);
        throw new RuntimeFailure(`onnxruntime-web failed in ${this.part} on the GPU: ${said}`);
      }
      for (const [name, { data }] of back) data.set(found[name].data);
    };
  }

  release() {
    void this.session.release();
  }
}

/**
 * WebGPU has no FusedMatMul: its weights are turned around when the graph is loaded.
 * @param {Graph} graph @returns {Graph}
 */
function withPlainProducts(graph) {
  const result = Object.assign(Object.create(Graph.prototype), graph);
  result.nodes = graph.nodes.flatMap((node) => {
    if (node.op !== "FusedMatMul") return [node];
    const turns = messagesOf(node.rest, 5).some(
      (fields) => textsOf(fields, 1)[0] === "transB" && fields.some(({ number, value }) => number === 3 && value === 1n),
    );
    const product = { ...node, op: "MatMul", rest: [textField(4, "MatMul")] };
    if (!turns) return [product];
    const turned = `${node.inputs[1]}.turned.${node.outputs[0]}`;
    const axes = [1, 0].map((axis) => numberField(8, axis));
    const order = messageField(5, [textField(1, "perm"), ...axes, numberField(20, 7)]);
    return [
      { op: "Transpose", inputs: [node.inputs[1]], outputs: [turned], rest: [textField(4, "Transpose"), order] },
      { ...product, inputs: [node.inputs[0], turned] },
    ];
  });
  return result;
}
