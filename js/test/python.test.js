// The same bits, texts and step counts as the Python runtime, which is asked here and now.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

import { load } from "../src/node/index.js";
import { splitThinking } from "../src/text/thinking.js";

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

test("what was thought is told from what was answered as in Python", () => {
  for (const [text, opened, reasoning, content] of reference.splits) {
    assert.deepEqual(splitThinking(text, opened), { reasoning, content }, text);
  }
});

for (const name of new Set(reference.texts.map((text) => text.name))) {
  test(`texts are Python's, token for token: ${name}`, async () => {
    const wanted = reference.texts.filter((text) => text.name === name);
    const { bundle, cache } = wanted[0];
    const model = await load(bundle, { threads: 1, cache });
    for (const { turns, prompt, chunk, depth, sampling, seed, ...expected } of wanted) {
      const options = { depth, sampling, seed: BigInt(seed) };
      const chat = turns && model.chat(options);
      for (const [turn, ids] of expected.ids.entries()) {
        const answer = turns
          ? chat.send(turns[turn], { maxTokens: 24 })
          : model.generate(prompt, { ...options, chunk, maxTokens: 12 });
        const [steps, logprobs] = [[], []];
        for await (const token of answer) {
          steps.push(token.steps);
          logprobs.push(token.logprob);
        }
        assert.deepEqual(
          [answer.ids, answer.text, steps, answer.stats.promptSteps],
          [ids, ...["text", "steps", "promptSteps"].map((key) => expected[key][turn])],
          `${turns ?? prompt}, seed ${seed}`,
        );
        logprobs.forEach((value, i) => assert.ok(Math.abs(value - expected.logprobs[turn][i]) < 1e-6));
      }
      chat?.close();
    }
    model.close();
  });
}
