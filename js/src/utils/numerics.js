// Sums, exponentials and logarithms in float32 as NumPy takes them on x86-64 (AVX2 and AVX-512), so that exit
// rules whose thresholds lie near the rounding error stop at the same step.

const { fround } = Math;
const LOG2E = fround(1.44269504088896341);
const [LN2_HIGH, LN2_LOW] = [fround(-6.93145752e-1), fround(-1.42860677e-6)];
const P = [
  9.999999999980870924916e-1, 7.257664613233124478488e-1, 2.473615434895520810817e-1,
  5.114512081637298353406e-2, 6.757896990527504603057e-3, 5.082762527590693718096e-4,
].map(fround);
const Q = [1, -2.742335390411667452936e-1, 2.159509375685829852307e-2].map(fround);

/** The exponential of a float32 number. @param {number} x */
export function exp32(x) {
  if (x < -103.97208404541015625) return 0;
  if (x > 88.72283935546875) return Infinity;
  const power = fround(fround(fround(x * LOG2E) + 12582912) - 12582912);
  let r = fround(power * LN2_HIGH + x);
  r = fround(power * LN2_LOW + r);
  let top = fround(P[5] * r + P[4]);
  for (let i = 3; i >= 0; i--) top = fround(top * r + P[i]);
  let bottom = fround(Q[2] * r + Q[1]);
  bottom = fround(bottom * r + Q[0]);
  return fround(fround(top / bottom) * 2 ** power);
}

const LN2 = fround(Math.LN2);
const SQRT2 = fround(Math.SQRT2);
const LOG_P = [
  0, 9.999999999999998702752e-1, 2.112677543073053063722, 1.480000633576506585156,
  3.808837741388407920751e-1, 2.589979117907922693523e-2,
].map(fround);
const LOG_Q = [
  1, 2.612677543073109236779, 2.453006071784736363091, 9.864942958519418960339e-1,
  1.546476374983906719538e-1, 5.875095403124574342950e-3,
].map(fround);

/** The natural logarithm of a positive float32 number. @param {number} value */
export function log32(value) {
  if (!(value > 0 && value < Infinity)) return Math.log(value);
  let exponent = Math.floor(Math.log2(value));
  let x = value / 2 ** exponent;
  if (x >= 2) [x, exponent] = [x / 2, exponent + 1];
  if (x < 1) [x, exponent] = [x * 2, exponent - 1];
  if (x > SQRT2) [x, exponent] = [x / 2, exponent + 1];
  x = fround(x - 1);
  let top = fround(LOG_P[5] * x + LOG_P[4]);
  let bottom = fround(LOG_Q[5] * x + LOG_Q[4]);
  for (let i = 3; i >= 0; i--) {
    top = fround(top * x + LOG_P[i]);
    bottom = fround(bottom * x + LOG_Q[i]);
  }
  return fround(exponent * LN2 + fround(top / bottom));
}

/**
 * The sum of float32 numbers, pairwise.
 * @param {Float32Array} a @param {number} [start] @param {number} [n]
 * @returns {number}
 */
export function sum32(a, start = 0, n = a.length) {
  if (n < 8) {
    let sum = -0;
    for (let i = start; i < start + n; i++) sum = fround(sum + a[i]);
    return sum;
  }
  if (n > 128) {
    const half = (n >> 1) - ((n >> 1) % 8);
    return fround(sum32(a, start, half) + sum32(a, start + half, n - half));
  }
  let [r0, r1, r2, r3] = [a[start], a[start + 1], a[start + 2], a[start + 3]];
  let [r4, r5, r6, r7] = [a[start + 4], a[start + 5], a[start + 6], a[start + 7]];
  let i = start + 8;
  for (; i <= start + n - 8; i += 8) {
    r0 = fround(r0 + a[i]);
    r1 = fround(r1 + a[i + 1]);
    r2 = fround(r2 + a[i + 2]);
    r3 = fround(r3 + a[i + 3]);
    r4 = fround(r4 + a[i + 4]);
    r5 = fround(r5 + a[i + 5]);
    r6 = fround(r6 + a[i + 6]);
    r7 = fround(r7 + a[i + 7]);
  }
  const left = fround(fround(r0 + r1) + fround(r2 + r3));
  let sum = fround(left + fround(fround(r4 + r5) + fround(r6 + r7)));
  for (; i < start + n; i++) sum = fround(sum + a[i]);
  return sum;
}

/** The sum of the products of float32 numbers. @param {Float32Array} a @param {Float32Array} b */
export function dot32(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return fround(sum);
}

/** @param {Float32Array} a */
export function argmax(a) {
  let best = 0;
  for (let i = 1; i < a.length; i++) if (a[i] > a[best]) best = i;
  return best;
}

/** The largest; NaN if there is one. @param {Float32Array | Float64Array} a */
export function max(a) {
  let most = a[0];
  for (let i = 1; i < a.length; i++) if (a[i] > most || a[i] !== a[i]) most = a[i];
  return most;
}

/** The natural logarithm of the sum of the exponentials of logits. @param {Float32Array} logits */
export function logSum(logits) {
  const top = max(logits);
  if (scratch.length < logits.length) scratch = new Float32Array(logits.length);
  for (let i = 0; i < logits.length; i++) scratch[i] = exp32(fround(logits[i] - top));
  return top + log32(sum32(scratch, 0, logits.length));
}

let scratch = new Float32Array(0);
