// Which turns of a long conversation are left out: models go wrong past their trained length.

import { checkInteger, shown } from "./utils/checks.js";
import { InputError } from "./errors.js";

/** @typedef {number | "trained" | "all"} History */
/** @typedef {{role: string, content: string}} Message */

/**
 * How many tokens a conversation may have; null: as many as fit in the context.
 * @param {History} history @param {number | null} trained
 */
export function historyLength(history, trained) {
  if (history === "all") return null;
  if (history === "trained") return trained;
  if (typeof history === "number") return checkInteger("history", history, 16, 2 ** 22);
  throw new InputError(`history must be trained, all or a number of tokens, got ${shown(history)}`);
}

/**
 * Leave out the oldest turns of a conversation that is too long, as rdlite/api/history.py does.
 * @param {Message[]} messages @param {number | null} length @param {number} maxTokens
 * @param {(messages: Message[]) => number} count tokens that messages are
 * @returns {Message[]}
 */
export function recent(messages, length, maxTokens, count) {
  if (length === null) return messages;
  const most = length - Math.min(maxTokens, Math.floor(length / 4));
  if (count(messages) <= most) return messages;
  const start = messages.findIndex(({ role }) => role !== "system");
  const [system, said] = [messages.slice(0, start), messages.slice(start)];
  const turns = said.flatMap(({ role }, i) => (role === "user" ? [i] : []));
  let first = 0;
  turns.forEach((_, turn) => {
    const end = turns[turn + 1] ?? said.length;
    const size = () => count([...system, ...said.slice(turns[first], end)]);
    if (size() <= most) return;
    while (first < turn && size() > Math.floor(length / 2)) first++;
  });
  return [...system, ...said.slice(turns[first])];
}
