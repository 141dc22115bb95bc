// How deep to go: what a caller asks for, and the controller that stops a loop of core steps.

import { checkInteger, checkNumber, checkOptions, shown } from "./checks.js";
import { InputError } from "./errors.js";
import { RULES, rulesFor } from "./exit-rules.js";

const OPTIONS = ["maxSteps", "minSteps", "exit", "threshold", "checkEvery"];

/**
 * How often the core runs on each position.
 * @typedef {object} Depth
 * @property {number | null} [maxSteps] the most core steps; null: the model's default. 1 to 1024
 * @property {number} [minSteps] the fewest, after which the rule is first asked. 1 to 1024
 * @property {string | null} [exit] the rule that says when to stop before `maxSteps`; null: none
 * @property {number | null} [threshold] the rule's; null: what was tuned for the model, or its own
 * @property {number} [checkEvery] steps from one question to the next. 1 to 1024
 */

/**
 * Check a depth against a model's config and fill in what is left out.
 * @param {Depth} depth @param {any} config @param {any} tuned @param {boolean} [forceSteps]
 */
export function resolveDepth(depth, config, tuned, forceSteps = false) {
  checkOptions("depth", depth, OPTIONS);
  const { maxSteps = null, minSteps = 1, exit = null, checkEvery = 1 } = depth;
  let { threshold = null } = depth;
  if (maxSteps !== null) checkInteger("maxSteps", maxSteps, 1, 1024);
  checkInteger("minSteps", minSteps, 1, maxSteps ?? 1024);
  checkInteger("checkEvery", checkEvery, 1, 1024);
  const most = config.recurrence.maxSteps;
  if (most !== null && (maxSteps ?? 0) > most && !forceSteps) {
    throw new InputError(
      `${maxSteps} steps were asked for; the model was made for ${most} at most, and more ruin its ` +
        `answers: ask for 1 to ${most}, or force it (load with forceSteps: true)`,
    );
  }
  if (exit === null) {
    if (threshold !== null) throw new InputError("a threshold needs an exit rule; give exit too");
  } else {
    if (!Object.hasOwn(RULES, exit)) {
      throw new InputError(
        `exit must be one of ${Object.keys(RULES).join(", ")}, got ${shown(exit)}`,
      );
    }
    const kind = RULES[exit];
    if (kind.gated && !rulesFor(config).includes(exit)) {
      throw new InputError(
        `exit ${exit} needs a model with an exit gate, as Ouro has; for this one there are ` +
          rulesFor(config).join(", "),
      );
    }
    const published = config.recurrence.exitThreshold;
    if (threshold === null) {
      threshold = tuned?.thresholds.get(exit) ?? null;
      if (threshold === null && exit === "gate" && published !== 1) threshold = published;
      threshold ??= kind.default;
    }
    checkNumber(`the threshold of ${exit}`, threshold, kind.low, kind.high);
  }
  return { maxSteps: maxSteps ?? config.recurrence.meanSteps, minSteps, exit, threshold, checkEvery };
}

/** How deep a model goes when it is not told. @param {any} config @param {any} tuned @returns {Depth} */
export function defaultDepth(config, tuned) {
  if (tuned) {
    return { maxSteps: tuned.steps, exit: tuned.rule, threshold: tuned.thresholds.get(tuned.rule) };
  }
  const published = config.recurrence.exitThreshold;
  return published !== null && published < 1 ? { exit: "gate", threshold: published } : {};
}

/** Runs core steps on positions that stop together until its rule, or the depth, says stop. */
export class Controller {
  /** @param {ReturnType<typeof resolveDepth>} depth @param {number} vocabSize */
  constructor(depth, vocabSize) {
    this.maxSteps = depth.maxSteps;
    this.minSteps = Math.min(depth.minSteps, depth.maxSteps);
    this.every = depth.checkEvery;
    this.rule =
      depth.exit === null ? null : RULES[depth.exit].make(Number(depth.threshold), vocabSize);
    this.last = Infinity;
    this.hits = 0;
    this.expected = this.minSteps; // steps that the position before took
    /** How far each step moved the state of the last position. @type {number[]} */
    this.changes = [];
  }

  /** What the rule said last; null without a rule, or while it has nothing to say. */
  get value() {
    return Number.isFinite(this.last) ? this.last : null;
  }

  /**
   * Ask the rule after a step; returns whether the positions leave the loop.
   * @param {any} lane @param {number} steps
   */
  checkExit(lane, steps) {
    const { rule } = this;
    const due = steps >= this.minSteps && (steps - this.minSteps) % this.every === 0;
    if (rule === null || !(due || rule.everyStep)) return false;
    const values = rule.measure(lane, steps, 0);
    if (!due) return false;
    this.last = values.length > 1 ? rule.combine(values) : values[0];
    this.hits = rule.isMet(this.last) ? this.hits + 1 : 0;
    return this.hits >= rule.patience;
  }

  /**
   * Run core steps on the lane; returns how many it took.
   * @param {import("./lane.js").Lane} lane @param {import("./pause.js").Pause} pause
   */
  async runSteps(lane, pause) {
    const { rule, maxSteps } = this;
    [this.last, this.hits] = [Infinity, 0];
    rule?.start(0, lane.size);
    let [ready, steps] = [0, 0]; // steps that were computed, and that were looked at
    while (steps < maxSteps) {
      if (steps === ready) {
        // Without a rule all steps are sure to be taken; with one, as many as the token before
        // took are likely, and a step too many changes nothing that is looked at.
        const likely = rule === null ? maxSteps : Math.min(this.expected, maxSteps);
        ready += lane.run(steps, Math.max(1, likely - steps), rule === null);
        if (pause.isDue()) await pause.take();
      }
      steps++;
      lane.accept(steps);
      this.changes[steps - 1] = lane.changeAfter(steps)[lane.size - 1];
      if (this.checkExit(lane, steps)) break;
    }
    this.expected = this.changes.length = steps;
    return steps;
  }
}
