// The only module that uses onnxruntime-node. Calls go to its native part directly: its own `run`
// waits a turn of the event loop for each, which takes longer than a small model's core step.

import { createRequire } from "node:module";

import { RuntimeFailure } from "../errors.js";

const require = createRequire(import.meta.url);
const ARRAYS = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array };
const VERSION = /^1\.30\./; // the one whose native interface this was written for

/** @typedef {{tensor: any, data: any, free: () => void}} Buffer */

function loadRuntime() {
  process.env.ORT_DISABLE_TELEMETRY ??= "1";
  let ort, native;
  try {
    ort = require("onnxruntime-node");
    native = require("onnxruntime-node/dist/binding.js");
    native.initOrt();
  } catch (problem) {
    const hint = process.versions.electron
      ? "; keep onnxruntime-node out of the asar archive (asarUnpack)"
      : "; install it with: npm install --ignore-scripts onnxruntime-node@1.30.0";
    throw new RuntimeFailure(`onnxruntime-node cannot be loaded: ${line(problem)}${hint}`);
  }
  const version = ort.env.versions.node ?? require("onnxruntime-node/package.json").version;
  if (!VERSION.test(version)) {
    throw new RuntimeFailure(`onnxruntime-node ${version} was found, 1.30 is needed`);
  }
  return { Tensor: ort.Tensor, InferenceSession: native.binding.InferenceSession };
}

/** @param {unknown} problem */
const line = (problem) => String(/** @type {any} */ (problem)?.message ?? problem).replace(/\s+/g, " ").slice(0, 400);

export class NodeBackend {
  /** @param {string} folder of the data files @param {number | null} threads */
  constructor(folder, threads) {
    this.folder = folder;
    this.threads = threads;
    this.runtime = loadRuntime();
  }

  /** @param {"float32" | "int32" | "int64"} type @param {number[]} shape @returns {Buffer} */
  alloc(type, shape) {
    const size = shape.reduce((product, n) => product * n, 1);
    let data;
    try {
      data = new ARRAYS[type](size);
    } catch {
      throw new RuntimeFailure(
        `there is no memory for another ${4 * size} bytes; use a smaller context, fewer steps, or ` +
          "cache: {share: 1}",
      );
    }
    return { data, tensor: new this.runtime.Tensor(type, data, shape), free() {} };
  }

  /** Load a checked graph. @param {string} part @param {import("../graph.js").Graph} graph */
  async session(part, graph) {
    const session = new this.runtime.InferenceSession();
    const bytes = graph.write();
    try {
      session.loadModel(bytes.buffer, bytes.byteOffset, bytes.byteLength, {
        logSeverityLevel: 4,
        ...(this.threads === null ? {} : { intraOpNumThreads: this.threads }),
        extra: {
          session: {
            model_external_initializers_file_folder_path: this.folder,
            force_spinning_stop: "1",
          },
        },
      });
    } catch (problem) {
      throw new RuntimeFailure(`ONNX Runtime refuses ${part}.onnx: ${line(problem)}`);
    }
    return new NodeSession(part, session);
  }
}

class NodeSession {
  /** @param {string} part @param {any} session */
  constructor(part, session) {
    this.part = part;
    this.session = session;
  }

  /**
   * Bind buffers to all inputs and outputs; returns a call that works on them in place.
   * @param {Record<string, Buffer>} inputs @param {Record<string, Buffer>} outputs
   */
  bind(inputs, outputs) {
    const tensors = (/** @type {Record<string, Buffer>} */ buffers) =>
      Object.fromEntries(Object.entries(buffers).map(([name, buffer]) => [name, buffer.tensor]));
    const [feeds, fetches, options] = [tensors(inputs), tensors(outputs), {}];
    const { session, part } = this;
    return () => {
      try {
        session.run(feeds, fetches, options);
      } catch (problem) {
        throw new RuntimeFailure(`ONNX Runtime failed in ${part}: ${line(problem)}`);
      }
    };
  }

  release() {
    this.session.dispose();
  }
}
