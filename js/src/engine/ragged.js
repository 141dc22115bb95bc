// Runs positions as one batch and lets each exit at its own step.

/**
 * Neighbouring positions whose prelude has run: their states and how deep each is. Each takes the
 * steps that it would take if it were read alone. What a position sees of those on its left at a
 * step is what they wrote at that step, or at their last one. So positions share a call as long as
 * they are neighbours and equally deep; where one leaves from their midst, those on its left are
 * finished first, and then those on its right.
 */
export class RaggedBatch {
  /** @param {import("../decode/depth.js").Controller} controller @param {number} size @param {number} width */
  constructor(controller, size, width) {
    this.controller = controller;
    this.width = width;
    this.states = new Float32Array(size * width);
    this.embeds = new Float32Array(size * width);
    /** Core steps that each position took. @type {number[]} */
    this.steps = [];
  }

  /** Keep the states of a lane's positions, rows from `low` on. @param {any} lane @param {number} low @param {number} steps */
  take(lane, low, steps) {
    this.states.set(lane.stateAfter(steps), low * this.width);
    for (let row = low; row < low + lane.size; row++) this.steps[row] = steps;
  }

  /**
   * Take over a lane that is to start, and run its positions to their ends; returns a lane of all,
   * which decodes after the last one's steps.
   * @param {any} sequence @param {any} lane @param {import("../decode/pause.js").Pause} pause
   */
  async run(sequence, lane, pause) {
    const { controller, width } = this;
    const { size, start: first } = lane;
    const most = controller.maxSteps;
    controller.start(size);
    this.take(lane, 0, 0);
    this.embeds.set(lane.embeds.data);
    const todo = this.unsettled(0, size, 0);
    for (let run = todo.pop(); run; run = todo.pop()) {
      const [low, high] = run;
      let steps = run[2];
      const part = sequence.lane(first + low, high - low, most);
      part.putState(steps, this.states.subarray(low * width, high * width));
      part.embeds.data.set(this.embeds.subarray(low * width, high * width));
      for (let left = false; steps < most && !left; ) {
        part.run(steps, 1, false);
        if (part.pending) await part.pending;
        part.accept(++steps);
        if (high === size) controller.record(part, steps);
        controller.checkExit(part, steps, low, false);
        for (let row = low; row < high; row++) left ||= controller.settled[row];
        if (pause.isDue()) await pause.take();
      }
      this.take(part, low, steps);
      todo.push(...this.unsettled(low, high, steps));
    }
    controller.changes.length = controller.expected = this.steps[size - 1];
    const whole = sequence.lane(first, size, most);
    whole.putState(this.steps[size - 1], this.states.subarray(0, size * width));
    return whole;
  }

  /** Runs of neighbours that go on, the last one first: [first row, end, steps]. @param {number} low @param {number} high @param {number} steps */
  unsettled(low, high, steps) {
    /** @type {[number, number, number][]} */
    const runs = [];
    if (steps >= this.controller.maxSteps) return runs;
    for (let row = low; row < high; row++) {
      if (this.controller.settled[row]) continue;
      const last = runs[0];
      if (last?.[1] === row) last[1]++;
      else runs.unshift([row, row + 1, steps]);
    }
    return runs;
  }
}
