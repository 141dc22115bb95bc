// Decodes parsed JSON by a table of fields: exact keys, exact types, two bounds on every number.

import { shown } from "../utils/checks.js";
import { BundleError } from "../errors.js";
import { Num } from "./json.js";

/** @typedef {(value: any, where: string) => any} Rule */

/** @param {string} message @returns {never} */
const fail = (message) => {
  throw new BundleError(message);
};

/** @param {any} value */
const plain = (value) => (value instanceof Num ? value.value : value);

/** @param {number} low @param {number} high @returns {Rule} */
export const whole = (low, high) => (value, where) => {
  if (!(value instanceof Num) || !value.whole) {
    fail(`${where} must be a whole number, got ${shown(plain(value))}`);
  }
  return number(low, high)(value, where);
};

/** @param {number} low @param {number} high @returns {Rule} */
export const number = (low, high) => (value, where) => {
  if (!(value instanceof Num)) fail(`${where} must be a number, got ${shown(plain(value))}`);
  if (!(low <= value.value && value.value <= high)) {
    fail(`${where} must lie between ${low} and ${high}, got ${value.text.slice(0, 40)}`);
  }
  return value.value;
};

/** @type {Rule} */
export const bool = (value, where) =>
  typeof value === "boolean" ? value : fail(`${where} must be true or false`);

/** @type {Rule} */
export const text = (value, where) =>
  typeof value === "string" ? value : fail(`${where} must be text, got ${shown(plain(value))}`);

/** @type {Rule} */
export const line = (value, where) => {
  const given = text(value, where);
  return given.length <= 200 && !/[\p{C}\p{Zl}\p{Zp}]/u.test(given)
    ? given
    : fail(`${where} must be a printable line of up to 200 characters`);
};

/** @param {readonly any[]} choices @returns {Rule} */
export const oneOf = (...choices) => (value, where) =>
  choices.includes(plain(value))
    ? plain(value)
    : fail(`${where} must be one of ${choices.join(", ")}; got ${shown(plain(value))}`);

/** @param {Rule} rule @returns {Rule} */
export const orNull = (rule) => (value, where) => (value === null ? null : rule(value, where));

/** @param {Rule} rule @returns {Rule} */
export const list = (rule) => (value, where) =>
  Array.isArray(value)
    ? value.map((item) => rule(item, `${where}[]`))
    : fail(`${where} must be a list`);

/** A mapping from any names to what `rule` takes. @param {Rule} rule @returns {Rule} */
export const mapping = (rule) => (value, where) =>
  value instanceof Map
    ? new Map([...value].map(([key, item]) => [key, rule(item, `${where}.${key}`)]))
    : fail(`${where} must be an object`);

/** Marks a field that may be left out. @param {Rule} rule @param {any} missing */
export const optional = (rule, missing) => ({ rule, missing });

/**
 * An object with exactly these keys, in snake_case; its fields become camelCase.
 * @param {Record<string, Rule | {rule: Rule, missing: any}>} fields @returns {Rule}
 */
export const object = (fields) => (value, where) => {
  if (!(value instanceof Map)) fail(`${where} must be an object, got ${shown(plain(value))}`);
  for (const key of value.keys()) {
    if (!Object.hasOwn(fields, key)) {
      fail(`${where} has an unknown key ${shown(key)}; known are ${Object.keys(fields).join(", ")}`);
    }
  }
  /** @type {Record<string, any>} */
  const result = {};
  for (const [key, field] of Object.entries(fields)) {
    const rule = typeof field === "function" ? field : field.rule;
    const name = key.replace(/_(\w)/g, (_, letter) => letter.toUpperCase());
    if (value.has(key)) result[name] = rule(value.get(key), `${where}.${key}`);
    else if (typeof field === "function") fail(`${where} lacks the key ${shown(key)}`);
    else result[name] = field.missing;
  }
  return Object.freeze(result);
};
