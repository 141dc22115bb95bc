// Lets the event loop run in between, so that a caller can abort: calls into ONNX Runtime block it.

const LONGEST = 12; // milliseconds between two pauses, unless one call takes longer

/** @type {() => Promise<void>} */
const turn =
  typeof setImmediate === "function"
    ? () => new Promise((resolve) => setImmediate(resolve))
    : () =>
        new Promise((resolve) => {
          const { port1, port2 } = new MessageChannel();
          port1.onmessage = () => (port1.close(), resolve());
          port2.postMessage(0);
        });

/** Thrown where a generation was aborted; callers never see it, the iteration just ends. */
export class Aborted extends Error {}

export class Pause {
  /** @param {AbortSignal | undefined | null} signal */
  constructor(signal) {
    this.signal = signal;
    this.since = performance.now();
  }

  isDue() {
    return this.signal?.aborted || performance.now() - this.since > LONGEST;
  }

  /** Wait for the event loop; throws Aborted if the signal says so. */
  async take() {
    await turn();
    if (this.signal?.aborted) throw new Aborted();
    this.since = performance.now();
  }
}
