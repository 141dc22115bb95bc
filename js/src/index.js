// What rdlite/node and rdlite/web have in common.

export {
  BundleError,
  ContextError,
  GraphError,
  InputError,
  RdliteError,
  RuntimeFailure,
} from "./errors.js";
export { RULES, rulesFor } from "./decode/exit-rules.js";
export { Chat } from "./chat.js";
export { Generation } from "./decode/generate.js";
export { Model } from "./model.js";
