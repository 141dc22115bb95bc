// What a GPU gets: graphs with float16 activations, run here by the CPU (see host-gpu), and refusals.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Graph, typeOf } from "../src/bundle/graph.js";
import { messagesOf, textsOf } from "../src/bundle/protobuf.js";
import { load } from "../src/web/index.js";
import { graphs, real } from "./host-gpu/ort.webgpu.min.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const python = process.env.RDLITE_PYTHON ?? join(root, ".venv/bin/python");
const folder = mkdtempSync(join(tmpdir(), "rdlite-float16-"));
const gated = join(folder, "ouro-tiny");
const [FLOAT, FLOAT16] = [1, 10]; // as ONNX counts its types
const NEAR = real ? 0.02 : 0.01; // of the largest logit; sums of a GPU's products are float16 too

const server = createServer((request, response) => {
  const name = decodeURIComponent(/** @type {string} */ (request.url));
  try {
    response.end(readFileSync(name));
  } catch {
    response.writeHead(404).end();
  }
});

before(async () => {
  execFileSync(python, ["-m", "rdlite", "export", join(root, "tests/data/ouro-tiny"), "-o", gated]);
  await once(server.listen(0, "127.0.0.1"), "listening");
});
after(() => {
  server.close();
  rmSync(folder, { recursive: true });
});

// A real GPU is not asked how many threads it runs in step; 8 are few enough for any.
/** Open a bundle as a page does, by WebAssembly, or on a GPU with these features; null: there is none. */
function open(bundle, options, features = ["shader-f16"], subgroupMinSize = real ? 8 : 32) {
  const gpu = { requestAdapter: async () => features && { features: new Set(features), info: { subgroupMinSize } } };
  Object.defineProperty(globalThis, "navigator", { value: { gpu }, configurable: true });
  const place = options.device === "wasm" ? "../node_modules/onnxruntime-web/dist/" : "host-gpu/";
  const runtime = new URL(place, import.meta.url);
  return load(`http://127.0.0.1:${server.address().port}${bundle}`, { runtime, ...options });
}

const nano = join(root, "rdlite/models/nano");
/** More than a cache first has room for. */
const IDS = Array.from({ length: 300 }, (_, i) => (37 * i) % 512);

/** The logits of a bundle at two depths, [positions x words]. */
async function scores(bundle, ids, options) {
  const model = await open(bundle, options);
  const found = [];
  for (const steps of [1, 4]) found.push(await model.logits(ids, { steps, initialState: "random", seed: 3 }));
  const { precision } = model;
  model.close();
  return { found, precision };
}

for (const [what, bundle, ids] of [
  ["packed weights and a cache that grows", nano, IDS],
  ["float32 weights and an exit gate", gated, IDS.slice(0, 90).map((id) => id % 200)],
]) {
  test(`logits in float16 are float32's, nearly: ${what}`, async () => {
    const { found: exact } = await scores(bundle, ids, { device: "wasm" });
    const half = await scores(bundle, ids, { device: "webgpu" });
    assert.equal(half.precision, "float16");
    for (const [turn, values] of exact.entries()) {
      const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const off = values.reduce((most, value, i) => Math.max(most, Math.abs(value - half.found[turn][i])), 0);
      assert.ok(off < NEAR * largest, `${off} of ${largest}`);
      assert.ok(off > 1e-5 * largest, `${off} of ${largest} is float32's rounding`);
    }
  });
}

test("answers in float16 are float32's", async () => {
  const asked = [];
  for (const options of [{ device: "wasm" }, { device: "webgpu" }, { device: "webgpu", cache: { share: "last" } }]) {
    const model = await open(nano, options);
    const chat = model.chat({ depth: { maxSteps: 16, exit: "latent-diff" } });
    const answers = [];
    for (const text of ["What is 48 + 76?", "Hi"]) answers.push((await chat.send(text).done()).text);
    asked.push(answers);
    chat.close();
    model.close();
  }
  assert.equal(asked[0][0], "124");
  assert.deepEqual(asked.slice(1), [asked[0], asked[0]]);
});

test("sums and what JavaScript reads are float32, caches and products float16", async () => {
  graphs.length = 0;
  (await open(gated, { device: "webgpu" })).close();
  const read = graphs.map((bytes) => new Graph(bytes, "graph"));
  assert.equal(read.length, 6); // prelude, core, coda, and the core's steps 8, 4 and 2 at a time
  for (const { nodes, inputs, outputs } of read) {
    for (const { name, fields } of [...inputs, ...outputs]) {
      const wanted = /^(past_key_values|present)\./.test(name) ? FLOAT16 : FLOAT;
      const whole = /^(input_ids|logit_positions|seqlens_k|total_sequence_length)$/.test(name);
      if (!whole) assert.equal(typeOf(fields), wanted, name);
    }
    /** What each cast value is. */
    const casts = new Map();
    for (const { op, outputs: [name], rest } of nodes) {
      const to = messagesOf(rest, 5).find((fields) => textsOf(fields, 1)[0] === "to");
      if (op === "Cast") casts.set(name, Number(to.find(({ number }) => number === 3).value));
    }
    for (const { op, inputs: given } of nodes) {
      if (op === "ReduceL2" || op === "ReduceSum") assert.equal(casts.get(given[0]), FLOAT, op);
      if (op === "MatMul") assert.notEqual(casts.get(given[0]), FLOAT);
    }
    assert.equal(new Set(casts.keys()).size, nodes.filter(({ op }) => op === "Cast").length);
  }
});

for (const [what, options, features, name, message] of [
  ["asked for", { precision: "float16" }, [], "RuntimeFailure", /no float16 in WebGPU \(shader-f16\); use precision: "float32"/],
  ["no GPU at all", {}, null, "RuntimeFailure", /there is no GPU that WebGPU can use here; use device: "wasm"/],
  ["in WebAssembly", { device: "wasm", precision: "float16" }, [], "InputError", /WebAssembly computes in float32/],
  ["misspelt", { precision: "half" }, [], "InputError", /precision must be "auto", "float16" or "float32", got "half"/],
  ["int8 caches", { cache: { bits: 8 } }, [], "InputError", /a cache on a GPU is not int8/],
]) {
  test(`float16 that cannot be is one clear line: ${what}`, async () => {
    await assert.rejects(open(nano, { device: "webgpu", ...options }, features), { name, message });
  });
}

test("a GPU without float16 computes in float32, and so does one that is told to", async () => {
  for (const [precision, features] of [["auto", []], ["float32", ["shader-f16"]]]) {
    graphs.length = 0;
    const model = await open(nano, { device: "webgpu", precision }, features);
    assert.equal(model.precision, "float32");
    model.close();
    const [prelude] = graphs.map((bytes) => new Graph(bytes, "prelude"));
    assert.ok(prelude.inputs.every(({ fields }) => typeOf(fields) !== FLOAT16));
  }
});
