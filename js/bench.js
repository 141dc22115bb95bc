// Times a core step of a bundle: node js/bench.js BUNDLE; bench/javascript.py runs it, and the same in a
// worker of a browser. Gives microseconds a step, one step a call and eight.

const WARM = 1500; // milliseconds, in which a browser compiles WebAssembly anew, and better
const TIMED = 700;

/** @param {any} model @returns {number[]} medians */
function timeSteps(model) {
  const lane = model.borrow().begin([5], 8);
  model.startAt("random", 0)(lane, 0);
  return [1, 8].map((count, turn) => {
    const start = performance.now() + (turn === 0 ? WARM : 0);
    const times = [];
    for (let now = performance.now(); now < start + TIMED; ) {
      const clock = now;
      let taken = 0; // several calls between two looks at a clock that is coarse
      for (let call = 0; call < 8; call++) taken += lane.run(0, count, true);
      now = performance.now();
      if (clock >= start) times.push(((now - clock) * 1000) / taken);
    }
    times.sort((a, b) => a - b);
    return times[times.length >> 1];
  });
}

if (globalThis.process) {
  const { load } = await import("./src/node/index.js");
  const model = await load(process.argv[2], { threads: 1 });
  console.log(JSON.stringify(timeSteps(model)));
  model.close();
} else {
  const { load } = await import(new URL("rdlite/web/index.js", self.location.href).href);
  self.onmessage = async ({ data: threads }) => {
    const runtime = new URL("ort/", self.location.href);
    const model = await load(new URL("model/", self.location.href), { runtime, threads });
    postMessage(timeSteps(model));
  };
  postMessage(null); // ready to be asked
}
