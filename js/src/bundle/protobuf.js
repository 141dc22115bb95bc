// Protocol buffers by the wire: a message is a list of fields that can be read, changed, written.

/** @typedef {{number: number, wire: number, value: Uint8Array | bigint}} Field */

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

/** @param {Uint8Array} bytes @returns {Field[]} */
export function readFields(bytes) {
  const fields = [];
  let at = 0;
  const varint = () => {
    let [value, shift] = [0n, 0n];
    for (;;) {
      if (at >= bytes.length || shift > 63n) throw new RangeError("a number is cut off");
      const byte = bytes[at++];
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
      shift += 7n;
    }
  };
  while (at < bytes.length) {
    const key = Number(varint());
    const [number, wire] = [key >>> 3, key & 7];
    if (wire === 0) {
      fields.push({ number, wire, value: varint() });
      continue;
    }
    const size = wire === 2 ? Number(varint()) : wire === 1 ? 8 : wire === 5 ? 4 : -1;
    if (size < 0 || at + size > bytes.length) throw new RangeError("a field is cut off");
    fields.push({ number, wire, value: bytes.subarray(at, (at += size)) });
  }
  return fields;
}

/** @param {Field[]} fields @returns {Uint8Array} */
export function writeFields(fields) {
  /** @type {Uint8Array[]} */
  const pieces = [];
  const varint = (/** @type {bigint} */ value) => {
    const out = [];
    for (; value > 127n; value >>= 7n) out.push(Number(value & 127n) | 128);
    pieces.push(Uint8Array.from([...out, Number(value)]));
  };
  for (const { number, wire, value } of fields) {
    varint(BigInt((number << 3) | wire));
    if (typeof value === "bigint") varint(value);
    else {
      if (wire === 2) varint(BigInt(value.length));
      pieces.push(value);
    }
  }
  const result = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    result.set(piece, at);
    at += piece.length;
  }
  return result;
}

/** @param {number} number @param {string} text @returns {Field} */
export const textField = (number, text) => ({ number, wire: 2, value: encoder.encode(text) });

/** @param {number} number @param {Field[]} fields @returns {Field} */
export const messageField = (number, fields) => ({ number, wire: 2, value: writeFields(fields) });

/** @param {number} number @param {number | bigint} value @returns {Field} */
export const numberField = (number, value) => ({ number, wire: 0, value: BigInt(value) });

/** @param {Field} field */
export const textOf = (field) => decoder.decode(/** @type {Uint8Array} */ (field.value));

/** @param {Field[]} fields @param {number} number */
export const textsOf = (fields, number) =>
  fields.filter((field) => field.number === number).map(textOf);

/** @param {Field[]} fields @param {number} number @returns {Field[][]} */
export const messagesOf = (fields, number) =>
  fields
    .filter((field) => field.number === number)
    .map((field) => readFields(/** @type {Uint8Array} */ (field.value)));
