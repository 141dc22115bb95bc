// ONNX Runtime's C interface, called through koffi: the library that onnxruntime-node brings. Its own
// binding makes every tensor anew in each call, which takes longer than a small model's core step.

import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { RuntimeFailure } from "../errors.js";

const require = createRequire(import.meta.url);
const VERSION = "1.30."; // whose results were compared with Python's
const API_VERSION = 14; // what is used has been there since 5
const FILES = { linux: "libonnxruntime.so.1", darwin: "libonnxruntime.1.dylib", win32: "onnxruntime.dll" };
const STACK = 8 * 2 ** 20; // koffi's own is 2 MiB, a thread's usual one 8

/** Places in OrtApi, which only ever grows at its end, and what is found there. */
const FUNCTIONS = /** @type {const} */ ({
  getErrorMessage: [2, "str", "p"],
  createEnv: [3, "status", "i", "str", "p"],
  createSessionFromArray: [8, "status", "p", "p", "size", "p", "p"],
  run: [9, "status", "p", "p", "p", "p", "size", "p", "size", "p"],
  createSessionOptions: [10, "status", "p"],
  setLogSeverity: [22, "status", "p", "i"],
  setThreads: [24, "status", "p", "i"],
  createTensor: [49, "status", "p", "p", "size", "p", "size", "i", "p"],
  createCpuMemoryInfo: [69, "status", "i", "i", "p"],
  releaseStatus: [93, "void", "p"],
  releaseSession: [95, "void", "p"],
  releaseValue: [96, "void", "p"],
  releaseSessionOptions: [100, "void", "p"],
  addSessionConfig: [130, "status", "p", "str", "str"],
});
/** @type {Record<string, string>} */
const TYPES = { p: "void *", status: "void *", i: "int", size: "size_t", str: "const char *", void: "void" };

/** @param {unknown} problem */
const line = (problem) => String(/** @type {any} */ (problem)?.message ?? problem).replace(/\s+/g, " ").slice(0, 400);

/** @type {ReturnType<typeof open> | null} */
let opened = null;

/** FUNCTIONS as they are, `make` for those that give an object, and `check`, which throws what a status says. */
export function native() {
  process.env.ORT_DISABLE_TELEMETRY ??= "1";
  try {
    return (opened ??= open());
  } catch (problem) {
    if (problem instanceof RuntimeFailure) throw problem;
    const hint = process.versions.electron
      ? "; keep onnxruntime-node and koffi out of the asar archive (asarUnpack)"
      : "; install it with: npm install --ignore-scripts onnxruntime-node@1.30.0 koffi@3.3.4";
    throw new RuntimeFailure(`onnxruntime-node cannot be loaded: ${line(problem)}${hint}`);
  }
}

function open() {
  const koffi = require("koffi");
  koffi.config({ sync_stack_size: STACK });
  const folder = join(dirname(require.resolve("onnxruntime-node/package.json")), "bin/napi-v6");
  const file = FILES[/** @type {keyof typeof FILES} */ (process.platform)];
  if (!file) throw new Error(`it has no library for ${process.platform}`);
  // Electron's fs looks into archives, the system's loader does not.
  const path = join(folder, process.platform, process.arch, file).replace(/\.asar(?=[\\/])/, ".asar.unpacked");
  const library = koffi.load(path);
  const proto = (/** @type {readonly string[]} */ [result, ...given]) =>
    koffi.proto(TYPES[result], given.map((type) => TYPES[type]));
  const at = (/** @type {any} */ table, /** @type {number} */ index, /** @type {readonly string[]} */ types) =>
    koffi.decode(koffi.decode(table, index * koffi.sizeof("void *"), "void *"), proto(types));
  const base = library.func("OrtGetApiBase", "void *", [])();
  const version = at(base, 1, ["str"])();
  if (!version.startsWith(VERSION)) {
    throw new RuntimeFailure(`onnxruntime-node ${version} was found, 1.30 is needed`);
  }
  const table = at(base, 0, ["p", "i"])(API_VERSION);
  const plain = /** @type {Record<keyof typeof FUNCTIONS, (...given: any[]) => any>} */ (
    Object.fromEntries(Object.entries(FUNCTIONS).map(([name, [index, ...types]]) => [name, at(table, index, types)]))
  );
  /** Throw what a status says. @param {any} status */
  const check = (status) => {
    const said = plain.getErrorMessage(status);
    plain.releaseStatus(status);
    throw new RuntimeFailure(line(said));
  };
  /** Call what gives an object through its last argument. @param {"createEnv" | "createSessionFromArray" |
   * "createSessionOptions" | "createTensor" | "createCpuMemoryInfo"} name @param {any[]} given @returns {bigint} */
  const make = (name, ...given) => {
    const place = new BigUint64Array(new ArrayBuffer(8));
    const status = plain[name](...given, place);
    if (status) check(status);
    return place[0];
  };
  const [arena, usual, fatal] = [1, 0, 4];
  return {
    ...plain,
    library, // whose code goes when koffi's handle does
    check,
    make,
    memory: make("createCpuMemoryInfo", arena, usual),
    env: make("createEnv", fatal, "rdlite"),
    address: /** @type {(data: any) => bigint} */ (koffi.address),
  };
}
