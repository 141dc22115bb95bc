// Stands in for onnxruntime-web's WebGPU build, which needs a browser: buffers are JavaScript's memory, and
// onnxruntime-node runs the very graphs that the GPU would get. With RDLITE_GPU=1 it runs them by its own
// WebGPU kernels, which are the browser's, on the GPU that Vulkan, Metal or Direct3D finds; else on the CPU.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import ort from "onnxruntime-node";

/** Whether a GPU runs them. */
export const real = process.env.RDLITE_GPU === "1";
const ARRAYS = { float16: Uint16Array, float32: Float32Array };

const device = {
  limits: { maxBufferSize: 2 ** 28, maxStorageBufferBindingSize: 2 ** 27 },
  createBuffer: ({ size }) => ({ memory: new ArrayBuffer(size), destroy: () => {} }),
  createCommandEncoder: () => ({
    copyBufferToBuffer(from, start, to, at, length) {
      assert.ok([start, at, length].every((bytes) => bytes % 4 === 0), "WebGPU copies words of 4 bytes");
      new Uint8Array(to.memory).set(new Uint8Array(from.memory, start, length), at);
    },
    finish: () => {},
  }),
  queue: { submit: () => {} },
};

export const env = { wasm: {}, webgpu: { device } };
/** The graphs that were loaded. @type {Uint8Array[]} */
export const graphs = [];

export class Tensor extends ort.Tensor {
  static fromGpuBuffer({ memory }, { dataType, dims }) {
    const size = dims.reduce((product, n) => product * n, 1);
    return new ort.Tensor(dataType, new ARRAYS[dataType](memory, 0, size), dims);
  }
}

export const InferenceSession = {
  async create(bytes, { externalData }) {
    graphs.push(bytes);
    const folder = mkdtempSync(join(tmpdir(), "rdlite-gpu-"));
    for (const { path, data } of externalData) writeFileSync(join(folder, path), data);
    const session = { model_external_initializers_file_folder_path: folder };
    const where = real
      ? { executionProviders: ["webgpu"], extra: { session: { ...session, disable_cpu_ep_fallback: "1" } } }
      : { executionProviders: ["cpu"], extra: { session } };
    try {
      return await ort.InferenceSession.create(bytes, { ...where, logSeverityLevel: 4, intraOpNumThreads: 1 });
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
};
