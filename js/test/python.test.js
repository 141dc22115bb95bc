// The same bits, texts and step counts as the Python runtime, which is asked here and now.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

import { load } from "../src/node/index.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const python = process.env.RDLITE_PYTHON ?? join(root, ".venv/bin/python");
const folder = mkdtempSync(join(tmpdir(), "rdlite-js-"));
after(() => rmSync(folder, { recursive: true }));
const script = join(root, "js/test/reference.py");
execFileSync(python, [script, folder, process.env.RDLITE_PROMPTS ?? "6"], { stdio: "inherit" });
const reference = JSON.parse(readFileSync(join(folder, "reference.json"), "utf8"));

for (const { bundle, ids, steps, seed, file } of reference.logits) {
  test(`logits of ${bundle.split("/").at(-1)} have Python's bits, ${ids.length} at once`, async () => {
    const model = await load(bundle, { threads: 1 });
    const bytes = readFileSync(file);
    const wanted = new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    const size = wanted.length / steps.length;
    for (const [index, depth] of steps.entries()) {
      const given = await model.logits(ids, { steps: depth, initialState: "random", seed });
      const bits = new Uint32Array(given.buffer);
      const expected = wanted.subarray(index * size, (index + 1) * size);
      const differ = bits.filter((value, i) => value !== expected[i]).length;
      assert.equal(differ, 0, `${differ} of ${size} logits differ at ${depth} steps`);
    }
    model.close();
  });
}

const rules = new Set(reference.answers.map(({ depth }) => depth.exit));
for (const rule of rules) {
  test(`answers under ${rule ?? "no rule"} are Python's, token for token`, async () => {
    const model = await load(join(root, "rdlite/models/nano"), { threads: 1 });
    for (const wanted of reference.answers.filter(({ depth }) => depth.exit === rule)) {
      const { depth, sampling } = wanted;
      const chat = model.chat({ depth, sampling, seed: BigInt(wanted.seed) });
      const [steps, logprobs] = [[], []];
      const answer = chat.send(wanted.question, { maxTokens: 24 });
      for await (const token of answer) {
        steps.push(token.steps);
        logprobs.push(token.logprob);
      }
      chat.close();
      assert.deepEqual([answer.ids, answer.text, steps], [wanted.ids, wanted.text, wanted.steps], wanted.question);
      logprobs.forEach((value, i) => assert.ok(Math.abs(value - wanted.logprobs[i]) < 1e-6));
    }
    model.close();
  });
}
