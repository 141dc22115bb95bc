// How deep to go: what a caller asks for, and the controller that stops a loop of core steps.

import { checkInteger, checkNumber, checkOptions, shown } from "../utils/checks.js";
import { InputError } from "../errors.js";
import { RULES, rulesFor } from "./exit-rules.js";

const OPTIONS = ["maxSteps", "minSteps", "exit", "threshold", "checkEvery", "prompt"];
const PROMPTS = ["mean", "each"];

/**
 * How often the core runs on each position.
 * @typedef {object} Depth
 * @property {number | null} [maxSteps] the most core steps; null: the model's default. 1 to 1024
 * @property {number} [minSteps] the fewest, after which the rule is first asked. 1 to 1024
 * @property {string | null} [exit] the rule that says when to stop before `maxSteps`; null: none
 * @property {number | null} [threshold] the rule's; null: what was tuned for the model, or its own
 * @property {number} [checkEvery] steps from one question to the next. 1 to 1024
 * @property {"mean" | "each"} [prompt] how the positions of a prompt stop: "mean": those of a chunk
 *   together, by the mean of their values; "each": each at its own step, as new tokens do, so that
 *   the result does not depend on how the prompt is cut; only for rules that look at states
 */

/**
 * Check a depth against a model's config and fill in what is left out.
 * @param {Depth} depth @param {any} config @param {any} tuned @param {boolean} [forceSteps]
 */
export function resolveDepth(depth, config, tuned, forceSteps = false) {
  checkOptions("depth", depth, OPTIONS);
  const { maxSteps = null, minSteps = 1, exit = null, checkEvery = 1, prompt = "mean" } = depth;
  let { threshold = null } = depth;
  if (maxSteps !== null) checkInteger("maxSteps", maxSteps, 1, 1024);
  checkInteger("minSteps", minSteps, 1, maxSteps ?? 1024);
  checkInteger("checkEvery", checkEvery, 1, 1024);
  if (!PROMPTS.includes(prompt)) {
    throw new InputError(`prompt must be one of ${PROMPTS.join(", ")}, got ${shown(prompt)}`);
  }
  const most = config.recurrence.maxSteps;
  if (most !== null && (maxSteps ?? 0) > most && !forceSteps) {
    throw new InputError(
      `${maxSteps} steps were asked for; the model was made for ${most} at most, and more ruin its ` +
        `answers: ask for 1 to ${most}, or force it (load with forceSteps: true)`,
    );
  }
  if (exit === null) {
    if (threshold !== null) throw new InputError("a threshold needs an exit rule; give exit too");
    if (prompt === "each") throw new InputError('prompt: "each" needs an exit rule; give exit too');
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
    if (prompt === "each" && kind.decodes) {
      const latent = Object.keys(RULES).filter((name) => !RULES[name].decodes);
      throw new InputError(
        `prompt: "each" needs a rule that looks at states (${latent.join(", ")}), not ${exit}, which ` +
          'looks at the last position\'s predictions; or read with prompt: "mean"',
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
  return {
    ...{ maxSteps: maxSteps ?? config.recurrence.meanSteps, minSteps, exit },
    ...{ threshold, checkEvery, prompt },
  };
}

/** How deep a model goes when it is not told. @param {any} config @param {any} tuned @returns {Depth} */
export function defaultDepth(config, tuned) {
  if (tuned) {
    return { maxSteps: tuned.steps, exit: tuned.rule, threshold: tuned.thresholds.get(tuned.rule) };
  }
  const published = config.recurrence.exitThreshold;
  return published !== null && published < 1 ? { exit: "gate", threshold: published } : {};
}

/**
 * Runs core steps on a group of positions until its rule, or the depth, says stop. Positions are rows
 * of the group, from 0 on.
 */
export class Controller {
  /** @param {ReturnType<typeof resolveDepth>} depth @param {number} vocabSize */
  constructor(depth, vocabSize) {
    this.maxSteps = depth.maxSteps;
    /** Whether the positions of a prompt stop each at its own step. */
    this.each = depth.prompt === "each";
    this.minSteps = Math.min(depth.minSteps, depth.maxSteps);
    this.every = depth.checkEvery;
    this.rule =
      depth.exit === null ? null : RULES[depth.exit].make(Number(depth.threshold), vocabSize);
    this.decodes = depth.exit !== null && RULES[depth.exit].decodes === true;
    /** By row: whether the rule was met, what it said last, how often in a row it was met. */
    this.settled = [false];
    this.values = [Infinity];
    this.hits = [0];
    this.expected = this.minSteps; // steps that the position before took
    /** How far each step moved the state of the last position. @type {number[]} */
    this.changes = [];
  }

  /** What the rule said last of a row; null without a rule, or while it has nothing to say. @param {number} [row] */
  valueAt(row = 0) {
    return Number.isFinite(this.values[row]) ? this.values[row] : null;
  }

  /** Forget what was seen of the first `size` rows. @param {number} size */
  start(size) {
    for (let row = 0; row < size; row++) {
      [this.settled[row], this.values[row], this.hits[row]] = [false, Infinity, 0];
    }
    this.rule?.start(0, size);
  }

  /** @param {number} steps */
  isDue(steps) {
    return steps >= this.minSteps && (steps - this.minSteps) % this.every === 0;
  }

  /**
   * Ask the rule after a step; `settled` says then which rows may leave the loop.
   * @param {any} lane the rows from `first` on @param {number} steps @param {number} first
   * @param {boolean} together whether they leave as one, row `first`
   */
  checkExit(lane, steps, first, together) {
    const { rule } = this;
    const due = this.isDue(steps);
    if (rule === null || !(due || rule.everyStep)) return;
    const values = rule.measure(lane, steps, first);
    if (!due) return;
    if (together) this.judge(first, values.length > 1 ? rule.combine(values) : values[0]);
    else for (let row = 0; row < lane.size; row++) this.judge(first + row, values[row]);
  }

  /** @param {number} row @param {number} value */
  judge(row, value) {
    this.values[row] = value;
    this.hits[row] = this.rule.isMet(value) ? this.hits[row] + 1 : 0;
    this.settled[row] = this.hits[row] >= this.rule.patience;
  }

  /**
   * Run core steps on the lane, whose positions stop together; returns how many it took.
   * @param {import("../engine/lane.js").Lane} lane @param {import("./pause.js").Pause} pause
   */
  async runSteps(lane, pause) {
    const { rule, maxSteps } = this;
    this.start(lane.size);
    let [ready, steps] = [0, 0]; // steps that were computed, and that were looked at
    while (steps < maxSteps) {
      if (steps === ready) {
        // Without a rule all steps are sure to be taken; with one, as many as the token before
        // took are likely, and a step too many changes nothing that is looked at.
        const likely = rule === null ? maxSteps : Math.min(this.expected, maxSteps);
        ready += lane.run(steps, Math.max(1, likely - steps), rule === null);
        if (lane.pending) await lane.pending;
        if (pause.isDue()) await pause.take();
      }
      steps++;
      lane.accept(steps);
      this.record(lane, steps);
      if (lane.remote && this.decodes && this.isDue(steps)) {
        lane.decode(steps, 1);
        await lane.pending;
      }
      this.checkExit(lane, steps, 0, true);
      if (this.settled[0]) break;
    }
    this.expected = this.changes.length = steps;
    return steps;
  }

  /** Note how far a step moved the lane's last position. @param {any} lane @param {number} steps */
  record(lane, steps) {
    this.changes[steps - 1] = lane.changeAfter(steps)[lane.size - 1];
  }
}
