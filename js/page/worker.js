// The model of the page, in a worker: calls into WebAssembly would stop the page itself.

import { RdliteError, load, memoryNeeded, rulesFor } from "./rdlite/web/index.js";

const FOLDER = new URL("./", self.location.href);
const running = new Map();
let model = null;
let chat = null;
let last = Promise.resolve();

self.onmessage = ({ data }) => {
  if (data.abort) running.get(data.id)?.abort();
  else if (data.load) report(data.id, open(data.id));
  else {
    const controller = new AbortController();
    running.set(data.id, controller);
    last = last.then(() => report(data.id, answer(data.id, data.body, controller.signal)));
  }
};

async function report(id, work) {
  try {
    await work;
  } catch (problem) {
    if (!(problem instanceof RdliteError)) console.error(problem);
    postMessage({ id, error: problem.message });
  }
  running.delete(id);
}

async function open(id) {
  const manifest = await (await fetch(new URL("model/rdlite.json", FOLDER))).json();
  const memory = memoryNeeded({ parameters: new Map(Object.entries(manifest.parameters)) });
  const onProgress = (done, total) => postMessage({ id, progress: { done, total, memory } });
  const options = { runtime: new URL("ort/", FOLDER), onProgress };
  model = await load(new URL("model/", FOLDER), options);
  const { config, defaultDepth, generationConfig } = model;
  const { parameters, name } = model.manifest;
  const rdlite = {
    parameters: [...parameters.values()].reduce((sum, number) => sum + number, 0),
    chat: model.ownTokenizer !== null && model.ownTemplate !== null,
    steps: defaultDepth.maxSteps ?? config.recurrence.meanSteps,
    max_steps: config.recurrence.maxSteps,
    exit: defaultDepth.exit ?? null,
    rules: rulesFor(config),
    temperature: generationConfig.temperature,
  };
  postMessage({ id, model: { id: name, rdlite } });
}

async function answer(id, body, signal) {
  const said = body.messages.slice(0, -1);
  // Its cache is kept: what is the same as before is not read again.
  chat ??= model.chat();
  chat.messages = said;
  const { max_steps: maxSteps, exit } = body.depth;
  const usual = model.defaultDepth;
  const rule = exit === "off" ? null : (exit ?? usual.exit ?? null);
  const threshold = rule !== null && rule === usual.exit ? usual.threshold : null;
  const sampling = { ...chat.options.sampling };
  if (body.temperature !== undefined) sampling.temperature = body.temperature;
  const generation = chat.send(body.messages.at(-1).content, {
    depth: { maxSteps, exit: rule, threshold },
    sampling,
    signal,
    changes: true,
  });
  for await (const { text, steps, exitValue, changes } of generation) {
    const depth = { steps: [steps], exit_values: [exitValue], changes: [changes] };
    post(id, [{ delta: { content: text }, finish_reason: null, depth }]);
  }
  const { finish, promptTokens, reusedTokens } = generation.stats;
  const reason = finish === "stop-string" ? "stop" : finish === "context" ? "length" : finish;
  const ended = { delta: {}, finish_reason: reason };
  post(id, [chat.leftOut ? { ...ended, left_out_messages: chat.leftOut } : ended], {
    prompt_tokens: promptTokens,
    prompt_tokens_details: { cached_tokens: reusedTokens },
  });
  postMessage({ id, ended: true });
}

function post(id, choices, usage = null) {
  postMessage({ id, chunk: { choices, usage } });
}
