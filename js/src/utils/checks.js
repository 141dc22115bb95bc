// Two bounds on every number that a caller gives.

import { InputError } from "../errors.js";

/** @param {unknown} value */
export const shown = (value) => {
  let text;
  try {
    text = typeof value === "bigint" ? `${value}` : (JSON.stringify(value) ?? String(value));
  } catch {
    text = String(value);
  }
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
};

/**
 * Return `value` if it is a whole number within [low, high], else throw InputError.
 * @param {string} name @param {any} value @param {number} low @param {number} high
 * @returns {number}
 */
export function checkInteger(name, value, low, high) {
  if (!Number.isInteger(value) || value < low || value > high) {
    throw new InputError(
      `${name} must be a whole number from ${low} to ${high}, got ${shown(value)}`,
    );
  }
  return value;
}

/**
 * Return `value` if it is a number within [low, high], else throw InputError.
 * @param {string} name @param {any} value @param {number} low @param {number} high
 * @returns {number}
 */
export function checkNumber(name, value, low, high) {
  if (typeof value !== "number" || !(low <= value && value <= high)) {
    throw new InputError(`${name} must be a number from ${low} to ${high}, got ${shown(value)}`);
  }
  return value;
}

/**
 * Return a seed as a bigint below 2^64; a number must be a safe whole one.
 * @param {any} seed @returns {bigint}
 */
export function checkSeed(seed) {
  const whole = typeof seed === "bigint" ? seed : Number.isSafeInteger(seed) ? BigInt(seed) : -1n;
  if (whole < 0n || whole >= 1n << 64n) {
    throw new InputError(
      `seed must be a whole number from 0 to 2^64 - 1 (a bigint above 2^53), got ${shown(seed)}`,
    );
  }
  return whole;
}

/**
 * Refuse options that are not known, so that a misspelt one is not ignored in silence.
 * @param {string} where @param {any} given @param {readonly string[]} known
 * @param {Record<string, string>} [elsewhere] those of Python alone, and the way out
 */
export function checkOptions(where, given, known, elsewhere = {}) {
  if (given === null || typeof given !== "object") {
    throw new InputError(`the options of ${where} must be an object, got ${shown(given)}`);
  }
  for (const name of Object.keys(given)) {
    if (Object.hasOwn(elsewhere, name)) {
      throw new InputError(`${where} has no option ${shown(name)} in JavaScript; ${elsewhere[name]}`);
    }
    if (!known.includes(name)) {
      throw new InputError(`${where} has no option ${shown(name)}; known are ${known.join(", ")}`);
    }
  }
}
