// Times a core step of a bundle: node js/bench.js BUNDLE node|web COUNT; see bench/javascript.py.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";

import { load as loadNode } from "./src/node/index.js";
import { load as loadWeb } from "./src/web/index.js";

const [bundle, place, count] = process.argv.slice(2);
let model;
if (place === "node") model = await loadNode(bundle, { threads: 1 });
else {
  const server = createServer((request, response) => {
    response.end(readFileSync(join(bundle, decodeURIComponent(String(request.url).split("/").at(-1) ?? ""))));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(null)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  const runtime = new URL("node_modules/onnxruntime-web/dist/", import.meta.url);
  model = await loadWeb(`http://127.0.0.1:${port}/model`, { runtime });
  server.close();
}
const lane = model.borrow().begin([5], 8);
model.startAt("random", 0)(lane, 0);
const wanted = Number(count);
const times = [];
for (let turn = 0; turn < 1500; turn++) {
  const clock = performance.now();
  const taken = lane.run(0, wanted, true);
  times.push(((performance.now() - clock) * 1000) / taken);
}
times.sort((a, b) => a - b);
console.log(times[times.length / 2].toFixed(2));
process.exit(0);
