// Graphs on onnxruntime-web's WebAssembly build, driven through its C interface: buffers are made
// once on its heap and bound, so that nothing is copied in or out of a call.

import { Graph } from "../bundle/graph.js";
import { RuntimeFailure } from "../errors.js";
import { dequantize } from "./dequantize.js";

const TYPES = {
  float32: { code: 1, array: Float32Array },
  int8: { code: 3, array: Int8Array },
  int32: { code: 6, array: Int32Array },
  int64: { code: 7, array: BigInt64Array },
};
const CPU = 1; // where a tensor's data lies

/** @typedef {{pointer: number, handle: number, readonly data: any, free: () => void}} Buffer */

export class WebBackend {
  /**
   * @param {any} wasm the module of onnxruntime-web @param {Map<string, Uint8Array | null>} files
   * @param {number} threads
   */
  constructor(wasm, files, threads) {
    this.wasm = wasm;
    this.files = files;
    /** @type {Map<string, {data: Uint8Array | null, graph: Graph}>} */
    this.float32 = new Map();
    if (wasm._OrtInit(threads, 4) !== 0) this.fail("WebAssembly cannot be started");
  }

  /** @param {string} what @returns {never} */
  fail(what) {
    const { wasm } = this;
    const place = wasm._malloc(8);
    wasm._OrtGetLastError(place, place + 4);
    const text = this.view(Int32Array, place, 2)[1];
    const said = text ? wasm.UTF8ToString(text) : "no reason given";
    wasm._free(place);
    throw new RuntimeFailure(`${what}: ${said.replace(/\s+/g, " ").slice(0, 400)}`);
  }

  /** @param {any} type @param {number} pointer @param {number} size */
  view(type, pointer, size) {
    return new type(this.wasm.HEAPU8.buffer, pointer, size);
  }

  /** @param {number} bytes */
  malloc(bytes) {
    let pointer = 0;
    try {
      pointer = this.wasm._malloc(Math.max(bytes, 8));
    } catch {
      // said below
    }
    if (!pointer) {
      throw new RuntimeFailure(
        `this tab has no memory for another ${bytes} bytes; use a smaller context, fewer steps, or ` +
          "cache: {share: 1}",
      );
    }
    return pointer;
  }

  /** @param {keyof typeof TYPES} type @param {number[]} shape @returns {Buffer} */
  alloc(type, shape) {
    const { code, array } = TYPES[type];
    const size = shape.reduce((product, n) => product * n, 1);
    const bytes = size * array.BYTES_PER_ELEMENT;
    const pointer = this.malloc(bytes);
    this.view(Uint8Array, pointer, bytes).fill(0);
    const dims = this.malloc(4 * shape.length);
    this.view(Int32Array, dims, shape.length).set(shape);
    const handle = this.wasm._OrtCreateTensor(code, pointer, bytes, dims, shape.length, CPU);
    this.wasm._free(dims);
    if (!handle) this.fail("a tensor cannot be made");
    const backend = this;
    let view = this.view(array, pointer, size);
    return {
      pointer,
      handle,
      get data() {
        if (view.buffer !== backend.wasm.HEAPU8.buffer) view = backend.view(array, pointer, size);
        return view; // the heap may have grown
      },
      free() {
        backend.wasm._OrtReleaseTensor(handle);
        backend.wasm._free(pointer);
      },
    };
  }

  /** Load a checked graph. @param {string} part @param {Graph} given */
  async session(part, given) {
    const { wasm } = this;
    const graph = Object.assign(Object.create(Graph.prototype), given);
    graph.nodes = [...given.nodes];
    graph.tensors = [...given.tensors];
    const file = (/** @type {string} */ name) => /** @type {Uint8Array} */ (this.files.get(name));
    const weights = dequantize(graph, file);
    for (const name of graph.dataFiles) {
      wasm.mountExternalData(name, this.files.get(name) ?? weights);
    }
    const bytes = graph.write();
    const pointer = this.malloc(bytes.length);
    this.view(Uint8Array, pointer, bytes.length).set(bytes);
    const options = wasm._OrtCreateSessionOptions(99, true, true, 0, false, 0, 0, 4, 0, 0);
    const session = options ? await wasm._OrtCreateSession(pointer, bytes.length, options) : 0;
    wasm._free(pointer);
    wasm.unmountExternalData();
    if (!session) this.fail(`onnxruntime-web refuses ${part}.onnx`);
    wasm._OrtReleaseSessionOptions(options);
    return new WebSession(this, part, session);
  }
}

class WebSession {
  /** @param {WebBackend} backend @param {string} part @param {number} handle */
  constructor(backend, part, handle) {
    this.backend = backend;
    this.part = part;
    this.handle = handle;
    /** @type {Map<string, number>} */
    this.names = new Map();
  }

  /** @param {string} name */
  name(name) {
    let pointer = this.names.get(name);
    if (pointer === undefined) {
      const bytes = new TextEncoder().encode(`${name}\0`);
      pointer = this.backend.malloc(bytes.length);
      this.backend.view(Uint8Array, pointer, bytes.length).set(bytes);
      this.names.set(name, pointer);
    }
    return pointer;
  }

  /** @param {Record<string, Buffer>} inputs @param {Record<string, Buffer>} outputs */
  bind(inputs, outputs) {
    const { backend, handle, part } = this;
    const table = (/** @type {number[]} */ pointers) => {
      const place = backend.malloc(4 * pointers.length);
      backend.view(Int32Array, place, pointers.length).set(pointers);
      return place;
    };
    const tables = (/** @type {Record<string, Buffer>} */ buffers) => [
      table(Object.keys(buffers).map((name) => this.name(name))),
      table(Object.values(buffers).map((buffer) => buffer.handle)),
      Object.keys(buffers).length,
    ];
    const [inNames, inValues, inCount] = tables(inputs);
    const [outNames, outValues, outCount] = tables(outputs);
    const { wasm } = backend;
    return () => {
      const code = wasm._OrtRun(handle, inNames, inValues, inCount, outNames, outCount, outValues, 0);
      if (code !== 0) backend.fail(`onnxruntime-web failed in ${part}`);
    };
  }

  release() {
    this.backend.wasm._OrtReleaseSession(this.handle);
    for (const pointer of this.names.values()) this.backend.wasm._free(pointer);
  }
}
