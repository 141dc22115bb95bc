// Reads JSON of strangers: no key twice, no NaN, bounded depth; keeps how numbers were written, so
// that the manifest's own hash, which Python takes over its canonical text, can be compared.

const MAX_DEPTH = 64;

/** A number and its text: whether it is whole is told by how it is written, as in Python. */
export class Num {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
    this.value = Number(text);
    this.whole = /^-?\d+$/.test(text);
  }
}

/**
 * Parse strict JSON; objects become Maps, numbers Nums. Throws SyntaxError.
 * @param {string} text
 */
export function parseJson(text) {
  let at = 0;
  /** @param {string} what @returns {never} */
  const fail = (what) => {
    throw new SyntaxError(`${what} at character ${at}`);
  };
  const space = () => {
    while (" \t\n\r".includes(text[at] ?? "x")) at++;
  };
  /** @param {string} mark */
  const take = (mark) => {
    space();
    if (text[at] !== mark) fail(`${JSON.stringify(mark)} is missing`);
    at++;
  };
  /** @param {RegExp} pattern */
  const match = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    if (found === undefined) fail("no JSON");
    at += /** @type {string} */ (found).length;
    return /** @type {string} */ (found);
  };
  const string = () => {
    const raw = match(/"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y);
    const value = JSON.parse(raw);
    if (!value.isWellFormed()) fail("half a character");
    return /** @type {string} */ (value);
  };
  /** @param {number} depth @returns {any} */
  const value = (depth) => {
    if (depth > MAX_DEPTH) fail("too deep");
    space();
    const start = text[at];
    if (start === "{") {
      at++;
      /** @type {Map<string, any>} */
      const object = new Map();
      space();
      if (text[at] === "}") return at++, object;
      for (;;) {
        space();
        const key = string();
        if (object.has(key)) fail(`the key ${JSON.stringify(key)} stands twice`);
        take(":");
        object.set(key, value(depth + 1));
        space();
        if (text[at] === "}") return at++, object;
        take(",");
      }
    }
    if (start === "[") {
      at++;
      /** @type {any[]} */
      const list = [];
      space();
      if (text[at] === "]") return at++, list;
      for (;;) {
        list.push(value(depth + 1));
        space();
        if (text[at] === "]") return at++, list;
        take(",");
      }
    }
    if (start === '"') return string();
    if (start === "-" || (start >= "0" && start <= "9")) {
      return new Num(match(/-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y));
    }
    return { true: true, false: false, null: null }[match(/true|false|null/y)];
  };
  const result = value(0);
  space();
  if (at < text.length) fail("something follows");
  return result;
}

/**
 * Write what `parseJson` gave as Python's json.dumps does with sorted keys and without spaces.
 * @param {any} value @returns {string}
 */
export function canonicalJson(value) {
  if (value instanceof Num) return value.text;
  if (value instanceof Map) {
    const items = [...value.entries()].sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${items.map(([key, item]) => `${ascii(key)}:${canonicalJson(item)}`).join(",")}}`;
  }
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  return typeof value === "string" ? ascii(value) : `${value}`;
}

/** @param {string} text */
function ascii(text) {
  return JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (unit) =>
      unit === "\u007f" ? unit : `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
