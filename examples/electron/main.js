// The main process: a window, the model's process, and messages between them; nothing else.
// npm install --ignore-scripts && npx install-electron && npm start -- BUNDLE

import { fileURLToPath } from "node:url";
import { BrowserWindow, app, ipcMain, utilityProcess } from "electron";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const bundle = process.argv.slice(app.isPackaged ? 1 : 2)[0] ?? here("../../rdlite/models/nano");

let window = null;
let model = null;

function start() {
  model = utilityProcess.fork(here("model.js"), [], { serviceName: "rdlite" });
  model.on("message", (message) => window?.webContents.send("model", message));
  model.on("exit", (code) => {
    model = null;
    window?.webContents.send("model", { type: "failed", message: `the model's process ended with ${code}` });
  });
  model.postMessage({ type: "open", bundle });
}

/** Messages from the window, checked: what a page shows is not trusted with more. */
const fromWindow = {
  ask: ({ id, text }) => Number.isSafeInteger(id) && typeof text === "string" && { type: "ask", id, text },
  cancel: () => ({ type: "cancel" }),
};

ipcMain.on("model", (event, message) => {
  if (event.senderFrame !== window?.webContents.mainFrame) return;
  const checked = Object.hasOwn(fromWindow, message?.type) && fromWindow[message.type](message);
  if (!checked) return;
  if (model === null) start(); // it had ended; a new one begins without the conversation
  model.postMessage(checked);
});

app.whenReady().then(() => {
  window = new BrowserWindow({
    width: 720,
    height: 560,
    webPreferences: { preload: here("preload.cjs"), contextIsolation: true, sandbox: true, nodeIntegration: false },
  });
  window.webContents.setWindowOpenHandler(() => ({ action: "deny" }));
  window.webContents.on("will-navigate", (event) => event.preventDefault());
  window.webContents.once("did-finish-load", start);
  window.on("closed", () => (window = null));
  window.loadFile(here("index.html"));
});

app.on("window-all-closed", () => app.quit());
