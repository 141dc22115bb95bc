// node examples/node/answer.js "What is 48 + 76?" [BUNDLE]

import { fileURLToPath } from "node:url";

import { RdliteError, load } from "../../js/src/node/index.js"; // an app: "rdlite/node"

const nano = fileURLToPath(new URL("../../rdlite/models/nano", import.meta.url));
const [question = "What is 48 + 76?", bundle = nano] = process.argv.slice(2);

try {
  const model = await load(bundle);
  const answer = model.chat().send(question);
  for await (const { text } of answer) process.stdout.write(text);
  const { newTokens, coreSteps, finish } = answer.stats;
  console.log(`\n${newTokens} tokens, ${coreSteps} core steps, ended by ${finish}`);
  model.close();
} catch (problem) {
  if (!(problem instanceof RdliteError)) throw problem;
  console.error(problem.message);
  process.exitCode = 1;
}
