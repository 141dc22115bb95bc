// The model, in a process of its own: its calls block, and a crash of native code ends only this.
// Runs as Electron's utility process and as a plain child of Node; speaks in the same messages.

import { RdliteError, load } from "rdlite/node";

const { parentPort } = process; // Electron's; child_process.fork gives process.send instead
const post = (message) => (parentPort ? parentPort.postMessage(message) : process.send(message));
let model = null;
let chat = null;
let running = null;

const handlers = {
  async open({ bundle }) {
    const next = await load(bundle); // the old one stays until the new one is there
    chat?.close();
    model?.close();
    [model, chat] = [next, next.chat()];
    post({ type: "opened", name: model.manifest.name });
  },

  async ask({ id, text, signal }) {
    if (chat === null) throw new RdliteError("no model is open; open one first");
    const answer = chat.send(text, { signal });
    for await (const { text: piece, steps } of answer) post({ type: "token", id, text: piece, steps });
    post({ type: "ended", id, finish: answer.stats.finish });
  },
};

let last = Promise.resolve();

(parentPort ?? process).on("message", (event) => {
  const message = parentPort ? event.data : event;
  if (message.type === "cancel") return running?.abort();
  running = new AbortController(); // at once: a cancel may come before its turn
  const { signal } = running;
  last = last.then(() => handle({ ...message, signal }));
});

async function handle(message) {
  try {
    await handlers[message.type](message);
  } catch (problem) {
    if (!(problem instanceof RdliteError)) throw problem; // a fault of ours: the process ends, main tells
    post({ type: "failed", id: message.id, message: problem.message });
  }
}
