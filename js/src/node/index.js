// rdlite/node: bundles in folders, graphs on onnxruntime-node.

import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { open as openFile } from "node:fs/promises";
import { join, resolve } from "node:path";

import { shown } from "../utils/checks.js";
import { BundleError, InputError } from "../errors.js";
import { open } from "../load.js";
import { NodeBackend } from "./backend.js";

export * from "../index.js";

const KEPT_BYTES = 64 * 2 ** 20; // files up to this size are read whole, unless they are weights
const PIECE = 4 * 2 ** 20;

/**
 * Open a bundle.
 * @param {string} bundle its folder
 * @param {import("../load.js").LoadOptions} [options] `device` is "cpu"
 * @returns {Promise<import("../model.js").Model>}
 */
export async function load(bundle, options = {}) {
  if (typeof bundle !== "string") {
    throw new InputError(`the bundle must be the path of a folder, got ${shown(bundle)}`);
  }
  if ((options.device ?? "cpu") !== "cpu") {
    throw new InputError(`device must be "cpu" in Node, got ${shown(options.device)}`);
  }
  const folder = resolve(bundle);
  return open(
    {
      where: folder,
      read: async (name, most) => {
        const file = await regular(join(folder, name));
        try {
          const { size } = await file.stat();
          if (size > most) throw new BundleError(`${join(folder, name)} has ${size} bytes; at most ${most}`);
          return new Uint8Array(await file.readFile());
        } finally {
          await file.close();
        }
      },
      check: (name, entry, progress) => check(join(folder, name), entry, progress),
      sha256: async (data) => createHash("sha256").update(data).digest("hex"),
      backend: async (given) => new NodeBackend(folder, given.threads ?? null),
    },
    options,
  );
}

/** Open a file, refusing links and what is no file. @param {string} path */
async function regular(path) {
  let file;
  try {
    file = await openFile(path, constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0));
  } catch (problem) {
    const { code } = /** @type {NodeJS.ErrnoException} */ (problem);
    const what = code === "ELOOP" ? "is a symbolic link; a bundle holds its files itself" : `cannot be read: ${code}`;
    throw new BundleError(`${path} ${what}`);
  }
  if (!(await file.stat()).isFile()) {
    await file.close();
    throw new BundleError(`${path} is not a regular file`);
  }
  return file;
}

/** @param {string} path @param {{bytes: number, sha256: string}} entry @param {(n: number) => void} progress */
async function check(path, entry, progress) {
  const file = await regular(path);
  try {
    const { size } = await file.stat();
    if (size !== entry.bytes) {
      throw new BundleError(
        `${path} has ${size} bytes, the manifest says ${entry.bytes}; copy or export the bundle again`,
      );
    }
    const kept = size <= KEPT_BYTES && !path.endsWith(".data") ? new Uint8Array(size) : null;
    const piece = Buffer.alloc(Math.min(PIECE, Math.max(size, 1)));
    const hash = createHash("sha256");
    for (let done = 0; done < size; ) {
      const { bytesRead } = await file.read(piece, 0, piece.length, done);
      if (bytesRead === 0) throw new BundleError(`${path} changed while it was read`);
      hash.update(piece.subarray(0, bytesRead));
      kept?.set(piece.subarray(0, Math.min(bytesRead, size - done)), done);
      progress((done += bytesRead));
    }
    const digest = hash.digest("hex");
    if (digest !== entry.sha256) {
      throw new BundleError(
        `${path} is damaged or was changed: its SHA-256 is ${digest.slice(0, 16)}…, the manifest ` +
          `says ${entry.sha256.slice(0, 16)}…; copy or export the bundle again`,
      );
    }
    return kept;
  } finally {
    await file.close();
  }
}
