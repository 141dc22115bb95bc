// The example for Node runs as its first line says.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

test("examples/node answers", () => {
  const script = fileURLToPath(new URL("../../examples/node/answer.js", import.meta.url));
  const said = execFileSync(process.execPath, [script, "What is 48 + 76?"], { encoding: "utf8" });
  assert.match(said, /^124\n4 tokens, \d+ core steps, ended by stop\n$/);
});
