// Graphs on onnxruntime-node's library, through its C interface: tensors are made once over arrays of
// JavaScript's, and a call names them by their addresses.

import { RuntimeFailure } from "../errors.js";
import { withInt8Halves } from "./int8-halves.js";
import { native } from "./native.js";

const TYPES = {
  float32: { code: 1, array: Float32Array },
  int8: { code: 3, array: Int8Array },
  int32: { code: 6, array: Int32Array },
  int64: { code: 7, array: BigInt64Array },
};

/**
 * An array that is not on V8's heap, where small ones are and move; its address stays good.
 * @param {any} type @param {ArrayLike<any>} values
 */
function unmoved(type, values) {
  const result = new type(new ArrayBuffer(Math.max(8, values.length * type.BYTES_PER_ELEMENT)));
  result.set(values);
  return result;
}

/** @typedef {{data: any, handle: bigint, free: () => void}} Buffer */

export class NodeBackend {
  /** @param {string} folder of the data files @param {number | null} threads */
  constructor(folder, threads) {
    this.folder = folder;
    this.threads = threads;
    this.native = native();
    // Only a tensor's few bytes are the library's; its data is an array's.
    this.left = new FinalizationRegistry(this.native.releaseValue);
  }

  /** @param {keyof typeof TYPES} type @param {number[]} shape @returns {Buffer} */
  alloc(type, shape) {
    const { code, array } = TYPES[type];
    const bytes = shape.reduce((product, n) => product * n, array.BYTES_PER_ELEMENT);
    let data;
    try {
      data = new array(new ArrayBuffer(bytes)); // not on V8's heap, so it never moves
    } catch {
      throw new RuntimeFailure(
        `there is no memory for another ${bytes} bytes; use a smaller context, fewer steps, or ` +
          "cache: {share: 1}",
      );
    }
    const { native, left } = this;
    const dims = BigInt64Array.from(shape, BigInt);
    const handle = native.make("createTensor", native.memory, data, bytes, dims, dims.length, code);
    const buffer = { data, handle, free: () => left.unregister(buffer) && native.releaseValue(handle) };
    left.register(buffer, handle, buffer);
    return buffer;
  }

  /** Load a checked graph. @param {string} part @param {import("../bundle/graph.js").Graph} graph */
  async session(part, graph) {
    const { native, threads } = this;
    const bytes = withInt8Halves(graph).write();
    const options = native.make("createSessionOptions");
    try {
      const entries = {
        "session.model_external_initializers_file_folder_path": this.folder,
        "session.force_spinning_stop": "1",
      };
      const settings = [
        native.setLogSeverity(options, 4),
        ...(threads === null ? [] : [native.setThreads(options, threads)]),
        ...Object.entries(entries).map(([key, value]) => native.addSessionConfig(options, key, value)),
      ];
      settings.filter(Boolean).forEach(native.check);
      const session = native.make("createSessionFromArray", native.env, bytes, bytes.length, options);
      return new NodeSession(native, part, session);
    } catch (problem) {
      throw new RuntimeFailure(`ONNX Runtime refuses ${part}.onnx: ${/** @type {Error} */ (problem).message}`);
    } finally {
      native.releaseSessionOptions(options);
    }
  }
}

class NodeSession {
  /** @param {ReturnType<typeof native>} api @param {string} part @param {bigint} handle */
  constructor(api, part, handle) {
    this.native = api;
    this.part = part;
    this.handle = handle;
    /** @type {Map<string, Uint8Array>} */
    this.names = new Map();
  }

  /** @param {string} name */
  name(name) {
    const known = this.names.get(name) ?? unmoved(Uint8Array, new TextEncoder().encode(`${name}\0`));
    this.names.set(name, known);
    return this.native.address(known);
  }

  /**
   * Bind buffers to all inputs and outputs; returns a call that works on them in place.
   * @param {Record<string, Buffer>} inputs @param {Record<string, Buffer>} outputs
   */
  bind(inputs, outputs) {
    const { native, part } = this;
    const addresses = (/** @type {bigint[]} */ pointers) => unmoved(BigUint64Array, pointers);
    const table = (/** @type {Record<string, Buffer>} */ buffers) => ({
      names: addresses(Object.keys(buffers).map((name) => this.name(name))),
      values: addresses(Object.values(buffers).map(({ handle }) => handle)),
      count: Object.keys(buffers).length,
      buffers, // which live as long as the call
    });
    const [given, made] = [table(inputs), table(outputs)];
    const [inNames, inValues] = [native.address(given.names), native.address(given.values)];
    const [outNames, outValues] = [native.address(made.names), native.address(made.values)];
    return () => {
      const { handle } = this;
      if (!handle) throw new RuntimeFailure(`${part} was closed`);
      const status = native.run(handle, null, inNames, inValues, given.count, outNames, made.count, outValues);
      if (!status) return;
      try {
        native.check(status);
      } catch (problem) {
        throw new RuntimeFailure(`ONNX Runtime failed in ${part}: ${/** @type {Error} */ (problem).message}`);
      }
    };
  }

  release() {
    this.native.releaseSession(this.handle);
    this.handle = 0n;
  }
}
