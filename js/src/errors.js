// Every error a user can cause, in one tree; messages name the value, the rule and the way out.

/** Base of every error that a user of rdlite can cause. */
export class RdliteError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/** A value given to rdlite breaks a rule; the message names both. */
export class InputError extends RdliteError {}

/** A prompt is longer than the context; the message says both numbers. */
export class ContextError extends InputError {}

/** A bundle is missing, damaged, tampered with, or of another contract version. */
export class BundleError extends RdliteError {}

/** An ONNX graph of a bundle breaks the graph contract. */
export class GraphError extends BundleError {}

/** ONNX Runtime is missing, cannot do what was asked for, or failed while running a graph. */
export class RuntimeFailure extends RdliteError {}
