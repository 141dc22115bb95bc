// Asks for the API key of a server that has one.

import { useKey } from "./api.js";

const at = (id) => document.getElementById(id);

/** Ask for a key; `wrong` says that one was tried. */
export function askKey(wrong) {
  at("wrong").textContent = wrong ? "That key was not accepted." : "";
  at("lock").showModal();
}

/** Whether a key is being asked for. */
export function asksKey() {
  return at("lock").open;
}

/** Have a function called when a key was given. */
export function onKey(given) {
  at("unlock").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = at("key").value.trim();
    if (!/^[ -~]+$/.test(key)) {
      at("wrong").textContent = "A key has printable ASCII characters only.";
      return;
    }
    useKey(key);
    at("key").value = "";
    at("lock").close();
    given();
  });
}
