// The package as its user gets it: packed, installed in an empty folder, its README followed; and the
// model's process of the example for Electron, as far as plain Node goes.

import assert from "node:assert/strict";
import { execFileSync, fork } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import vm from "node:vm";

const root = fileURLToPath(new URL("../..", import.meta.url));
const nano = join(root, "rdlite/models/nano");
const electron = join(root, "examples/electron");
const folder = mkdtempSync(join(tmpdir(), "rdlite-package-"));
after(() => rmSync(folder, { recursive: true }));

const run = (program, given, cwd = folder) => execFileSync(program, given, { cwd, encoding: "utf8" });

before(() => {
  run("npm", ["pack", "--silent", "--pack-destination", folder], join(root, "js"));
  writeFileSync(join(folder, "package.json"), '{"type": "module"}');
  const quiet = ["--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--silent"];
  run("npm", ["install", ...quiet, "./rdlite-0.1.0.tgz"]);
});

test("the README's program answers", () => {
  const [, program] = /```js\n(.*?)```/s.exec(readFileSync(join(folder, "node_modules/rdlite/README.md"), "utf8"));
  writeFileSync(join(folder, "answer.mjs"), program);
  const said = run(process.execPath, ["answer.mjs", nano, "What is 48 + 76?"]);
  assert.match(said, /^"1" \d+ steps\n"2" \d+ steps\n"4" \d+ steps\n"" \d+ steps\n124 stop\n$/);
});

test("the types say what may be given", () => {
  const program = `
    import { load, type Model } from "rdlite/node";
    import { load as loadPage } from "rdlite/web";
    const model: Model = await load("bundle", { threads: 1, cache: { share: "last", bits: 8 } });
    for await (const token of model.generate("Hi", { depth: { exit: "kl" }, signal: AbortSignal.timeout(9) })) {
      const steps: number = token.steps;
      const value: number | null = token.exitValue;
      console.log(steps, value, token.text.length);
    }
    const page = await loadPage(new URL("https://example.org/model"), { runtime: "ort/", precision: "auto" });
    const precision: "float16" | "float32" = page.precision;
    console.log(precision, page.chat({ system: "Be brief." }));
    // @ts-expect-error: there is no such precision
    await loadPage("model/", { device: "webgpu", precision: "half" });
    // @ts-expect-error: a depth is an object
    model.generate("Hi", { depth: 8 });
    // @ts-expect-error: tokens have no such field
    for await (const { step } of model.generate("Hi")) console.log(step);
  `;
  writeFileSync(join(folder, "types.mts"), program);
  const compiler = join(root, "js/node_modules/typescript/bin/tsc");
  const options = ["--strict", "--noEmit", "--module", "nodenext", "--target", "es2022", "--skipLibCheck"];
  const types = ["--typeRoots", join(root, "js/node_modules/@types"), "--types", "node", "--ignoreConfig"];
  run(process.execPath, [compiler, ...options, ...types, "types.mts"]);
});

/** A child with its messages, which are awaited one after another. */
function started() {
  cpSync(electron, join(folder, "electron"), { recursive: true });
  const child = fork(join(folder, "electron/model.js"));
  const [waiting, wanted] = [[], []];
  child.on("message", (message) => (wanted.length ? wanted.shift()(message) : waiting.push(message)));
  const next = () => (waiting.length ? waiting.shift() : new Promise((resolve) => wanted.push(resolve)));
  return { child, next };
}

test("the model's process of examples/electron answers, stops and goes on", async () => {
  const { child, next } = started();
  try {
    child.send({ type: "open", bundle: join(folder, "nothing") });
    assert.match((await next()).message, /nothing\/rdlite\.json cannot be read: ENOENT/);
    child.send({ type: "open", bundle: nano });
    assert.deepEqual(await next(), { type: "opened", name: "nano" });
    child.send({ type: "ask", id: 1, text: "What can you do?" });
    child.send({ type: "cancel" });
    let last;
    do last = await next();
    while (last.type === "token");
    assert.deepEqual(last, { type: "ended", id: 1, finish: "cancelled" });
    child.send({ type: "ask", id: 2, text: "What is 48 + 76?" });
    let text = "";
    for (last = await next(); last.type === "token"; last = await next()) {
      assert.ok(last.steps >= 1);
      text += last.text;
    }
    assert.deepEqual([text, last], ["124", { type: "ended", id: 2, finish: "stop" }]);
  } finally {
    child.kill();
  }
});

test("the window of examples/electron can ask, cancel and listen, and nothing else", () => {
  const [sent, exposed] = [[], {}];
  const parts = {
    contextBridge: { exposeInMainWorld: (name, value) => (exposed[name] = value) },
    ipcRenderer: { send: (...given) => sent.push(given), on: () => {} },
  };
  const source = readFileSync(join(electron, "preload.cjs"), "utf8");
  vm.runInNewContext(source, { require: (name) => (name === "electron" ? parts : assert.fail(name)), Number, String });
  assert.deepEqual(Object.keys(exposed), ["rdlite"]);
  assert.deepEqual(Object.keys(exposed.rdlite), ["ask", "cancel", "listen"]);
  exposed.rdlite.ask(1, { toString: () => "Hi" });
  assert.deepEqual(JSON.stringify(sent), '[["model",{"type":"ask","id":1,"text":"Hi"}]]');
  const main = readFileSync(join(electron, "main.js"), "utf8");
  assert.match(main, /contextIsolation: true, sandbox: true, nodeIntegration: false/);
  run(process.execPath, ["--check", join(electron, "main.js")]);
});
