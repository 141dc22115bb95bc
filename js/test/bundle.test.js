// What is refused: files that were changed, numbers out of bounds; and how an answer is ended.

import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { BundleError, ContextError, InputError, load } from "../src/node/index.js";

const nano = fileURLToPath(new URL("../../rdlite/models/nano", import.meta.url));
let folder;
before(() => (folder = mkdtempSync(join(tmpdir(), "rdlite-js-"))));
after(() => rmSync(folder, { recursive: true }));

let count = 0;
function copy() {
  const made = join(folder, `nano${count++}`);
  cpSync(nano, made, { recursive: true });
  return made;
}

test("a changed byte of the weights is one clear error", async () => {
  const made = copy();
  const path = join(made, "core.onnx.data");
  const data = readFileSync(path);
  data[1000] ^= 1;
  writeFileSync(path, data);
  await assert.rejects(load(made), (problem) => {
    assert.ok(problem instanceof BundleError);
    assert.match(problem.message, /core\.onnx\.data is damaged or was changed: its SHA-256 is/);
    return true;
  });
});

for (const [what, from, to, message] of [
  ["its own hash", '"name": "nano"', '"name": "nanu"', /its own SHA-256 does not match/],
  ["another version", '"contract_version": 1', '"contract_version": 2', /is 2, this rdlite reads 1/],
  ["a key twice", '"name": "nano"', '"name": "nano", "name": "x"', /"name" stands twice/],
  ["an unknown key", '"name": "nano"', '"name": "nano", "nom": 1', /unknown key "nom"/],
  ["a number too large", '"vocab_size": 512', '"vocab_size": 99999999', /vocab_size must lie between/],
  ["a whole number written as a float", '"vocab_size": 512', '"vocab_size": 512.0', /whole number/],
]) {
  test(`a manifest with ${what} is refused`, async () => {
    const made = copy();
    const path = join(made, "rdlite.json");
    const text = readFileSync(path, "utf8");
    assert.ok(text.includes(from));
    writeFileSync(path, text.replace(from, to));
    await assert.rejects(load(made), { name: "BundleError", message });
  });
}

test("a symbolic link is refused", async () => {
  const made = copy();
  rmSync(join(made, "coda.onnx"));
  symlinkSync(join(nano, "coda.onnx"), join(made, "coda.onnx"));
  await assert.rejects(load(made), { name: "BundleError", message: /is a symbolic link/ });
});

test("a cut file is refused", async () => {
  const made = copy();
  writeFileSync(join(made, "tokenizer.json"), "{}");
  await assert.rejects(load(made), { name: "BundleError", message: /has 2 bytes, the manifest says/ });
});

test("options out of bounds are refused, and misspelt ones", async () => {
  const model = await load(nano);
  const bad = [
    [{ maxTokens: 0 }, /maxTokens must be a whole number from 1/],
    [{ maxtokens: 5 }, /generate has no option "maxtokens"/],
    [{ depth: { maxSteps: 4, minSteps: 5 } }, /minSteps must be a whole number from 1 to 4, got 5/],
    [{ depth: { exit: "gate" } }, /needs a model with an exit gate/],
    [{ sampling: { topP: 0 } }, /topP must be above 0/],
    [{ seed: -1 }, /seed must be/],
    [{ stop: [""] }, /none empty/],
  ];
  for (const [options, message] of bad) {
    assert.throws(() => model.generate("Hi", options), { name: "InputError", message });
  }
  assert.throws(() => model.generate(Array(1025).fill(1)), ContextError);
  assert.throws(() => model.generate([512]), InputError);
  await assert.rejects(load(nano, { device: "cuda" }), /device must be "cpu"/);
  model.close();
  await assert.rejects(model.generate("Hi").done(), /the model is closed/);
});

test("an abort ends an answer, and the conversation goes on", async () => {
  const model = await load(nano, { threads: 1 });
  const chat = model.chat();
  const controller = new AbortController();
  const answer = chat.send("What can you do?", { signal: controller.signal });
  let seen = 0;
  for await (const _ of answer) if (++seen === 3) controller.abort();
  assert.deepEqual([seen, answer.stats.finish], [3, "cancelled"]);
  assert.equal(chat.messages.at(-1).content, answer.text);
  assert.equal((await chat.send("What is 48 + 76?").done()).text, "124");
  chat.close();
  model.close();
});

test("a stop string ends a text and is no part of it", async () => {
  const model = await load(nano, { threads: 1 });
  const prompt = model.encodeChat([{ role: "user", content: "What can you do?" }]);
  const whole = await model.generate(prompt).done();
  const stopped = await model.generate(prompt, { stop: "subtract" }).done();
  assert.equal(stopped.stats.finish, "stop-string");
  assert.equal(stopped.text, whole.text.slice(0, whole.text.indexOf("subtract")));
  model.close();
});

test("a shared cache takes less memory and still answers", async () => {
  const model = await load(nano, { threads: 1, cache: { share: 1 } });
  const answer = await model.chat().send("What is 48 + 76?").done();
  assert.equal(answer.stats.finish, "stop");
  model.close();
});
