// What is refused: files that were changed, numbers out of bounds; and how an answer is ended.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { BundleError, ContextError, InputError, load } from "../src/node/index.js";
import { canonicalJson, parseJson } from "../src/bundle/json.js";
import { ChatTemplate } from "../src/text/tokenizer.js";

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

test("a bundle without scales has no int8 cache", async () => {
  const made = copy();
  const path = join(made, "rdlite.json");
  const text = readFileSync(path, "utf8");
  const body = text.replace(/"cache_scales": \{[^}]*\}/, '"cache_scales": null');
  assert.notEqual(body, text);
  const unsigned = parseJson(body);
  unsigned.delete("sha256");
  const hash = createHash("sha256").update(canonicalJson(unsigned)).digest("hex");
  writeFileSync(path, body.replace(/"sha256": "[0-9a-f]*"\s*\}\s*$/, `"sha256": "${hash}"}`));
  (await load(made)).close();
  await assert.rejects(load(made, { cache: { bits: 8 } }), { name: "InputError", message: /run 'rdlite tune'/ });
});

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
    [{ depth: { prompt: "each" } }, /needs an exit rule/],
    [{ depth: { exit: "kl", prompt: "each" } }, /a rule that looks at states \(latent-diff, .*, not kl/],
    [{ depth: { prompt: "first" } }, /prompt must be one of mean, each, got "first"/],
    [{ sampling: { presencePenalty: 3 } }, /presencePenalty must be a number from -2 to 2/],
    [{ topLogprobs: 101 }, /topLogprobs must be a whole number from 0 to 100/],
    [{ speculate: "auto" }, /no option "speculate" in JavaScript; leave it out/],
    [{ constraint: {} }, /no option "constraint" in JavaScript; ask rdlite serve/],
  ];
  for (const [options, message] of bad) {
    assert.throws(() => model.generate("Hi", options), { name: "InputError", message });
  }
  assert.throws(() => model.generate(Array(1025).fill(1)), ContextError);
  assert.throws(() => model.generate([512]), InputError);
  await assert.rejects(load(nano, { device: "cuda" }), /device must be "cpu"/);
  await assert.rejects(load(nano, { cache: { share: "first" } }), /share must be null, a number or "last"/);
  await assert.rejects(load(nano, { cache: { bits: 4 } }), /bits must be null \(float32\) or 8/);
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

test("a chat that gets too long leaves out its oldest turns, as Python does", async () => {
  const model = await load(nano, { threads: 1 });
  assert.equal(model.manifest.trainedLength, 896); // what a chat is held to unless another length is given
  const chat = model.chat({ history: 128 });
  const cuts = [];
  for (let n = 20; n < 34; n++) {
    assert.equal((await chat.send(`What is ${n} + ${n}?`).done()).text, `${2 * n}`);
    cuts.push(chat.leftOut);
  }
  assert.deepEqual(cuts, [0, 0, 0, 0, 4, 6, 6, 10, 12, 12, 16, 18, 18, 22]);
  assert.equal(chat.messages.length, 28);
  assert.throws(() => model.chat({ history: "some" }), /history must be trained, all or a number/);
  const whole = model.chat({ history: "all" });
  whole.messages = chat.messages;
  await whole.send("What is 48 + 76?").done();
  assert.equal(whole.leftOut, 0);
  chat.close();
  whole.close();
  model.close();
});

test("a chat template's variables are set, and its own are not", async () => {
  const model = await load(nano, { threads: 1 });
  const source = "{{ messages[0].content }}{{ '<think>' if enable_thinking else '' }}";
  model.ownTemplate = new ChatTemplate(new TextEncoder().encode(source), new Map());
  const chat = model.chat({ templateVariables: { enable_thinking: true } });
  await chat.send("Hi", { maxTokens: 4 }).done();
  assert.deepEqual(chat.messages.at(-1), { role: "assistant", content: "" }); // all of it is thought
  chat.close();
  for (const [templateVariables, message] of [
    [{ messages: [] }, /"messages" cannot be set/],
    [{ "a b": 1 }, /"a b" is not a name/],
  ]) {
    assert.throws(() => model.chat({ templateVariables }), { name: "InputError", message });
  }
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

test("an abort ends a prompt whose positions leave one by one", async () => {
  const model = await load(nano, { threads: 1 });
  const controller = new AbortController();
  const depth = { maxSteps: 1000, minSteps: 1000, exit: "latent-diff", prompt: "each" };
  const answer = model.generate(Array(512).fill(7), { depth, signal: controller.signal });
  setTimeout(() => controller.abort(), 30);
  await answer.done();
  assert.deepEqual([answer.ids, answer.stats.finish], [[], "cancelled"]);
  model.close();
});

test("stop tokens and stop texts wait for minTokens, and alternatives are told", async () => {
  const model = await load(nano, { threads: 1 });
  const prompt = model.encodeChat([{ role: "user", content: "What is 48 + 76?" }]);
  const tokens = [];
  for await (const token of model.generate(prompt, { minTokens: 9, topLogprobs: 3 })) tokens.push(token);
  assert.ok(tokens.length >= 9);
  for (const { id, logprob, alternatives } of tokens.slice(0, 3)) {
    assert.equal(alternatives.length, 3);
    assert.deepEqual(alternatives[0], { id, logprob });
  }
  const kept = await model.generate(prompt, { minTokens: 3, stop: "124" }).done();
  assert.deepEqual([kept.text, kept.stats.finish], ["124", "stop"]);
  const stopped = await model.generate(prompt, { minTokens: 2, stop: "124" }).done();
  assert.deepEqual([stopped.text, stopped.stats.finish], ["", "stop-string"]);
  model.close();
});
