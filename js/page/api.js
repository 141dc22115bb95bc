// Stands in for the page's api.js where there is no server: the model runs in a worker of this tab.

/** What went wrong, in one line. */
export class ApiError extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** No key is asked for here. */
export function useKey() {}

const worker = new Worker("worker.js", { type: "module" });
const listeners = new Map();
let count = 0;
let loaded = null;

worker.onmessage = ({ data }) => listeners.get(data.id)?.(data);
worker.onerror = (event) => {
  const problem = { error: `The model's worker failed: ${event.message ?? "it did not load"}` };
  listeners.forEach((tell) => tell(problem));
};

if ("serviceWorker" in navigator) {
  navigator.serviceWorker.register("sw.js").catch((problem) => console.warn(problem.message));
}

function listen(id) {
  const waiting = [];
  let wake = () => {};
  listeners.set(id, (data) => {
    waiting.push(data);
    wake();
  });
  return async () => {
    while (waiting.length === 0) await new Promise((resolve) => (wake = resolve));
    const data = waiting.shift();
    if (data.error) throw new ApiError(data.error);
    return data;
  };
}

/** Load the model, telling how far it is; returns what the page wants to know of it. */
export function loadModel() {
  loaded ??= load().catch((problem) => {
    loaded = null;
    throw problem;
  });
  return loaded;
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

async function load() {
  const id = ++count;
  const next = listen(id);
  worker.postMessage({ id, load: true });
  for (;;) {
    const { progress, model } = await next();
    if (model) return model;
    const { done, total, memory } = progress;
    const part = Math.floor((100 * done) / total);
    document.getElementById("model").textContent =
      `loading ${megabytes(total)}, ${part}%; it will take about ${megabytes(memory)} of memory`;
  }
}

/** Yield the chunks of an answer; throws ApiError, or AbortError after `signal`. */
export async function* streamChat(body, signal) {
  const id = ++count;
  const next = listen(id);
  const abort = () => worker.postMessage({ id, abort: true });
  signal.addEventListener("abort", abort);
  worker.postMessage({ id, body });
  try {
    for (;;) {
      const { chunk, ended } = await next();
      signal.throwIfAborted();
      if (ended) return;
      yield chunk;
    }
  } finally {
    signal.removeEventListener("abort", abort);
    listeners.delete(id);
    abort();
  }
}
