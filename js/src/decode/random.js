// Random numbers as pure functions of (seed, position): initial states, and draws of tokens. The
// same bits as NumPy's Philox and its ziggurat give in Python.

import { DENSITY, INSIDE, WIDTH } from "./ziggurat.js";

export const STATES = 0n; // what the numbers are for; each has a stream of its own
export const TOKENS = 1n;
const CUTOFF = 3; // initial states are normal, cut off at this many standard deviations
const TAIL = Math.fround(3.6541528853610088);
const INVERSE_TAIL = Math.fround(0.27366123732975828);
const { fround, imul } = Math;

/** The high half of a product of two unsigned 32-bit numbers. @param {number} a @param {number} b */
function high(a, b) {
  const a0 = a & 0xffff;
  const a1 = a >>> 16;
  const b0 = b & 0xffff;
  const b1 = b >>> 16;
  const low = a0 * b0;
  const mid = a1 * b0 + (low >>> 16);
  const rest = a0 * b1 + (mid & 0xffff);
  return (a1 * b1 + Math.floor(mid / 65536) + Math.floor(rest / 65536)) >>> 0;
}

/** Philox4x64-10, a number of 32 bits at a time. */
export class Philox {
  /** @param {bigint} seed @param {number} position @param {bigint} purpose */
  constructor(seed, position, purpose) {
    const low = (/** @type {bigint} */ n) => Number(n & 0xffffffffn);
    this.key = [low(seed), low(seed >> 32n), low(purpose), 0];
    this.position = position;
    this.block = 0;
    this.words = new Uint32Array(8); // of the current block: four numbers, low half first
    this.at = 8;
  }

  refill() {
    this.block++;
    const [lo, hi] = [this.position >>> 0, Math.floor(this.position / 2 ** 32)];
    let [a0, a1, b0, b1, c0, c1, d0, d1] = [this.block, 0, lo, hi, 0, 0, 0, 0];
    let [k0, k1, l0, l1] = this.key;
    for (let round = 0; round < 10; round++) {
      if (round > 0) {
        let sum = k0 + 0x7f4a7c15;
        k1 = (k1 + 0x9e3779b9 + (sum > 0xffffffff ? 1 : 0)) >>> 0;
        k0 = sum >>> 0;
        sum = l0 + 0x84caa73b;
        l1 = (l1 + 0xbb67ae85 + (sum > 0xffffffff ? 1 : 0)) >>> 0;
        l0 = sum >>> 0;
      }
      multiply(a0, a1, 0xe14c6c93, 0xd2e7470e, FIRST);
      multiply(c0, c1, 0x95121157, 0xca5a8263, SECOND);
      a0 = (SECOND[2] ^ b0 ^ k0) >>> 0;
      a1 = (SECOND[3] ^ b1 ^ k1) >>> 0;
      c0 = (FIRST[2] ^ d0 ^ l0) >>> 0;
      c1 = (FIRST[3] ^ d1 ^ l1) >>> 0;
      b0 = SECOND[0];
      b1 = SECOND[1];
      d0 = FIRST[0];
      d1 = FIRST[1];
    }
    const { words } = this;
    words[0] = a0;
    words[1] = a1;
    words[2] = b0;
    words[3] = b1;
    words[4] = c0;
    words[5] = c1;
    words[6] = d0;
    words[7] = d1;
    this.at = 0;
  }

  /** A whole number below 2^32. */
  next() {
    if (this.at === 8) this.refill();
    return this.words[this.at++];
  }

  /** float64 in [0, 1); only where an even count of 32-bit numbers was taken. */
  random() {
    const low = this.next();
    const top = this.next();
    return (top * 2 ** 21 + (low >>> 11)) / 2 ** 53;
  }

  float() {
    return (this.next() >>> 8) / 2 ** 24;
  }

  /** A float32 number of the standard normal distribution. */
  normal() {
    for (;;) {
      const drawn = this.next();
      const layer = drawn & 0xff;
      const size = (drawn >>> 9) & 0x7fffff;
      const edge = fround(size * WIDTH[layer]);
      const x = drawn & 0x100 ? -edge : edge;
      if (size < INSIDE[layer]) return x;
      if (layer === 0) {
        for (;;) {
          const far = fround(-INVERSE_TAIL * fround(Math.log1p(-this.float())));
          const rare = fround(-Math.log1p(-this.float()));
          if (fround(rare + rare) > fround(far * far)) {
            return (size >>> 8) & 1 ? -fround(TAIL + far) : fround(TAIL + far);
          }
        }
      }
      const slope = fround(DENSITY[layer - 1] - DENSITY[layer]);
      const height = fround(fround(slope * fround(this.float())) + DENSITY[layer]);
      if (height < Math.exp(-0.5 * x * x)) return x;
    }
  }
}

const FIRST = new Uint32Array(4);
const SECOND = new Uint32Array(4);

/**
 * Write a 64 x 64 bit product, four 32-bit words, lowest first.
 * @param {number} a0 @param {number} a1 @param {number} b0 @param {number} b1
 * @param {Uint32Array} out
 */
function multiply(a0, a1, b0, b1, out) {
  out[0] = imul(a0, b0);
  let sum = high(a0, b0) + (imul(a0, b1) >>> 0) + (imul(a1, b0) >>> 0);
  out[1] = sum; // modulo 2^32
  let carry = Math.floor(sum / 2 ** 32);
  sum = carry + high(a0, b1) + high(a1, b0) + (imul(a1, b1) >>> 0);
  out[2] = sum;
  carry = Math.floor(sum / 2 ** 32);
  out[3] = high(a1, b1) + carry;
}

/**
 * Write the random initial states of the positions from `start` on: normal numbers of a standard
 * deviation `std`, cut off at three of them.
 * @param {Float32Array} out S x E numbers @param {number} width E @param {number} std
 * @param {bigint} seed @param {number} start the position of the first row
 */
export function fillInitialStates(out, width, std, seed, start) {
  const factor = fround(std);
  for (let row = 0; row * width < out.length; row++) {
    const state = out.subarray(row * width, (row + 1) * width);
    const source = new Philox(seed, start + row, STATES);
    for (let i = 0; i < width; i++) state[i] = source.normal();
    for (let far = true; far; ) {
      far = false;
      for (let i = 0; i < width; i++) {
        if (Math.abs(state[i]) > CUTOFF) {
          state[i] = source.normal();
          far ||= Math.abs(state[i]) > CUTOFF;
        }
      }
    }
    for (let i = 0; i < width; i++) state[i] *= factor;
  }
}
