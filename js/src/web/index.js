// rdlite/web: bundles from a web server, graphs on onnxruntime-web's WebAssembly build. Calls block
// the thread they are made on, so a page runs this in a worker.

import { shown } from "../utils/checks.js";
import { BundleError, InputError, RuntimeFailure } from "../errors.js";
import { open } from "../load.js";
import { WebBackend } from "./backend.js";
import { WebGpuBackend } from "./webgpu.js";

export * from "../index.js";

const WIDE = 16; // threads that a GPU runs in step (a subgroup); see `longest` in webgpu.js
const MOST_BYTES = 2 ** 31; // WebAssembly's heap ends at 4 GiB, and weights grow there

/**
 * Of a page alone.
 * @typedef {object} WebOptions
 * @property {string | URL} [runtime] where these of onnxruntime-web 1.30 are served:
 *   ort-wasm-simd-threaded.mjs and .wasm, or, for a GPU, ort.webgpu.min.mjs and
 *   ort-wasm-simd-threaded.asyncify.mjs and .wasm
 * @property {"auto" | "float16" | "float32"} [precision] of activations and caches on a GPU; "auto":
 *   float16 if it can (WebGPU's shader-f16), else float32. `model.precision` says which it is
 */

/**
 * Open a bundle.
 * @param {string | URL} bundle where its folder is served
 * @param {import("../load.js").LoadOptions & WebOptions} [options] `device` is "wasm" or "webgpu"
 * @returns {Promise<import("../model.js").Model>}
 */
export async function load(bundle, options = {}) {
  const { runtime, precision = "auto", ...rest } = options;
  const device = options.device ?? "wasm";
  if (!["wasm", "webgpu"].includes(device)) {
    throw new InputError(`device must be "wasm" or "webgpu", got ${shown(device)}`);
  }
  if (!["auto", "float16", "float32"].includes(precision)) {
    throw new InputError(`precision must be "auto", "float16" or "float32", got ${shown(precision)}`);
  }
  if (device === "wasm" && precision === "float16") {
    throw new InputError('WebAssembly computes in float32; leave precision out, or use device: "webgpu"');
  }
  if (device === "webgpu" && (options.cache?.bits ?? null) !== null) {
    throw new InputError('a cache on a GPU is not int8; leave bits out, or use device: "wasm"');
  }
  const gpu = device === "webgpu" ? await findGpu(precision) : null;
  const base = new URL(`${bundle}`.replace(/\/?$/, "/"), globalThis.location?.href);
  return open(
    {
      where: base.pathname.replace(/\/$/, ""),
      read: (name, most) => get(new URL(name, base), most, () => {}),
      check: async (name, entry, progress) => {
        const data = await get(new URL(name, base), entry.bytes, progress);
        const where = new URL(name, base).pathname;
        if (data.length !== entry.bytes) {
          throw new BundleError(`${where} has ${data.length} bytes, the manifest says ${entry.bytes}`);
        }
        const digest = await sha256(data);
        if (digest !== entry.sha256) {
          throw new BundleError(
            `${where} is damaged or was changed: its SHA-256 is ${digest.slice(0, 16)}…, the ` +
              `manifest says ${entry.sha256.slice(0, 16)}…; copy or export the bundle again`,
          );
        }
        return data;
      },
      sha256,
      backend: async ({ threads }, data, manifest) => {
        const folder = new URL(runtime ?? "ort/", base);
        if (gpu !== null) {
          if (manifest.flavour === "portable") {
            throw new InputError(
              'a portable bundle runs on a CPU; use device: "wasm", or export the checkpoint with --flavour fused',
            );
          }
          return makeGpuBackend(folder, data, gpu);
        }
        const need = memoryNeeded(manifest);
        if (need > MOST_BYTES) {
          throw new RuntimeFailure(
            `this model needs about ${need} bytes of memory, a tab gives ${MOST_BYTES}; use Node`,
          );
        }
        return makeBackend(folder, threads ?? null, data);
      },
    },
    rest,
  );
}

/**
 * What the GPU is to compute in, and whether it runs few threads in step. It is asked for as
 * onnxruntime-web does, so that it is the same.
 * @param {"auto" | "float16" | "float32"} wanted
 */
async function findGpu(wanted) {
  const { gpu } = /** @type {any} */ (globalThis.navigator ?? {});
  const adapter = await gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new RuntimeFailure('there is no GPU that WebGPU can use here; use device: "wasm"');
  const half = adapter.features.has("shader-f16");
  if (wanted === "float16" && !half) {
    throw new RuntimeFailure(
      'this GPU or browser has no float16 in WebGPU (shader-f16); use precision: "float32", or leave it out',
    );
  }
  const precision = /** @type {"float16" | "float32"} */ (half && wanted !== "float32" ? "float16" : "float32");
  return { precision, narrow: adapter.info?.subgroupMinSize < WIDE };
}

/** Bytes that the weights take once they are float32. @param {any} manifest */
export function memoryNeeded(manifest) {
  let numbers = 0;
  for (const count of manifest.parameters.values()) numbers += count;
  return 4 * numbers;
}

/** @param {URL} folder @param {Map<string, Uint8Array | null>} data @param {Awaited<ReturnType<typeof findGpu>>} gpu */
async function makeGpuBackend(folder, data, gpu) {
  try {
    const ort = await import(new URL("ort.webgpu.min.mjs", folder).href);
    Object.assign(ort.env.wasm, { wasmPaths: folder.href, numThreads: 1 });
    return new WebGpuBackend(ort, data, gpu);
  } catch (problem) {
    throw new RuntimeFailure(
      `onnxruntime-web cannot be loaded from ${folder.pathname}: ${/** @type {Error} */ (problem).message}`,
    );
  }
}

/** @param {URL} folder @param {number | null} threads @param {Map<string, Uint8Array | null>} data */
async function makeBackend(folder, threads, data) {
  const isolated = globalThis.crossOriginIsolated === true;
  if (threads !== null && threads > 1 && !isolated) {
    throw new RuntimeFailure(
      `${threads} threads need a page that is cross-origin isolated; serve it with the headers ` +
        "Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp",
    );
  }
  const count = threads ?? 1;
  let wasm;
  try {
    const { default: factory } = await import(new URL("ort-wasm-simd-threaded.mjs", folder).href);
    wasm = await factory({ numThreads: count });
  } catch (problem) {
    throw new RuntimeFailure(
      `onnxruntime-web cannot be loaded from ${folder.pathname}: ${/** @type {Error} */ (problem).message}`,
    );
  }
  return new WebBackend(wasm, data, count);
}

/** @param {Uint8Array} data */
async function sha256(data) {
  const digest = await crypto.subtle.digest("SHA-256", /** @type {BufferSource} */ (data));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {URL} url @param {number} most @param {(bytes: number) => void} progress */
async function get(url, most, progress) {
  let response;
  try {
    response = await fetch(url);
  } catch (problem) {
    throw new BundleError(`${url.pathname} cannot be read: ${/** @type {Error} */ (problem).message}`);
  }
  if (!response.ok || response.body === null) {
    throw new BundleError(`${url.pathname} cannot be read: status ${response.status}`);
  }
  const pieces = [];
  let size = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    progress((size += value.length));
    if (size > most) {
      await reader.cancel();
      throw new BundleError(`${url.pathname} has more than the ${most} bytes that it may have`);
    }
  }
  const data = new Uint8Array(size);
  pieces.reduce((at, piece) => (data.set(piece, at), at + piece.length), 0);
  return data;
}
