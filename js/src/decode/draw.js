// Drawing a token by its chance: from a whole vocabulary in a few passes over it, without sorting. The
// sums are taken as in Python, so that a draw near the edge of two tokens falls to the same one.

import { exp32, max, sum32 } from "../utils/numerics.js";

const { fround } = Math;
const BLOCK = 256; // chances that are summed up together
const TRIES = 16; // before the nucleus is sorted out
const LEAST_TEMPERATURE = 1e-30;

/**
 * Draw from all tokens. One outside the nucleus is drawn again: what the first that lies in it is
 * has the chances that it had if all others were left out.
 * @param {Float32Array} work logits; overwritten
 * @param {{temperature: number, topP: number, minP: number}} sampling @param {{random: () => number}} source
 */
export function drawFromAll(work, { temperature, topP, minP }, source) {
  const [top, divisor] = [max(work), fround(Math.max(temperature, LEAST_TEMPERATURE))];
  for (let i = 0; i < work.length; i++) work[i] = exp32(fround(fround(work[i] - top) / divisor));
  const least = fround(minP);
  if (minP && topP === 1) for (let i = 0; i < work.length; i++) if (work[i] < least) work[i] = 0;
  const blocks = Array.from({ length: Math.ceil(work.length / BLOCK) }, (_, block) => {
    const chances = work.subarray(block * BLOCK, (block + 1) * BLOCK);
    if (chances.length === BLOCK) return chances;
    const whole = new Float32Array(BLOCK); // the last, filled up with zeros
    whole.set(chances);
    return whole;
  });
  const sums = blocks.map((chances) => sum32(chances));
  let end = 0;
  const ends = sums.map((sum) => (end += sum));
  const wanted = topP * end;
  for (let turn = 0; turn < TRIES; turn++) {
    const draw = source.random() * end;
    const found = ends.findIndex((reached) => reached > draw);
    const block = found < 0 ? ends.length - 1 : found;
    const share = sums[block] ? (draw - ends[block]) / sums[block] + 1 : 0;
    const index = block * BLOCK + pick(blocks[block], share);
    if (topP === 1 || (work[index] >= minP && chancesBefore(work, index) < wanted)) return index;
  }
  const ids = nucleus(work, topP);
  const chances = ids.map((id) => work[id]);
  const edge = minP * chances.reduce((a, b) => Math.max(a, b));
  return ids[pick(chances.map((chance) => (chance < edge ? 0 : chance)), source.random())];
}

/** Which of some chances lies at a share of their sum; one that is not 0. @param {ArrayLike<number>} chances @param {number} share */
export function pick(chances, share) {
  const sums = [];
  let sum = 0;
  for (let i = 0; i < chances.length; i++) sums.push((sum += chances[i]));
  const found = sums.findIndex((reached) => reached > share * sum);
  return found < 0 ? sums.indexOf(sum) : Math.min(found, sums.indexOf(sum));
}

/** The indices of the largest values, largest first; of equal ones the first. @param {ArrayLike<number>} values @param {number} count */
export function likeliest(values, count) {
  const least = Float64Array.from(values).sort()[Math.max(0, values.length - count)];
  const order = [];
  for (let index = 0; index < values.length; index++) if (values[index] >= least) order.push(index);
  return order.sort((a, b) => values[b] - values[a]).slice(0, count); // sorts are stable
}

/** Indices of the fewest chances that sum to `topP` of all, the likeliest first. @param {ArrayLike<number>} chances @param {number} topP */
export function nucleus(chances, topP) {
  const order = likeliest(chances, chances.length);
  const wanted = topP * Array.from(chances).reduce((all, chance) => all + chance, 0);
  let [sum, count] = [0, 0];
  while (count < order.length) {
    sum += chances[order[count++]];
    if (sum >= wanted) break;
  }
  return order.slice(0, count);
}

/** The sum of the chances that are likelier, or equal and first. @param {Float32Array} chances @param {number} index */
function chancesBefore(chances, index) {
  const chance = chances[index];
  let [below, equal] = [0, 0];
  const most = chances.map((each, i) => {
    if (each <= chance) below++;
    if (each === chance && i < index) equal++;
    return Math.max(each, chance);
  });
  return sum32(most) - chance * below + chance * equal;
}
