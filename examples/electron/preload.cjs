// All that the window can do: ask, cancel, and hear what the model says.

const { contextBridge, ipcRenderer } = require("electron");

contextBridge.exposeInMainWorld("rdlite", {
  ask: (id, text) => ipcRenderer.send("model", { type: "ask", id: Number(id), text: String(text) }),
  cancel: () => ipcRenderer.send("model", { type: "cancel" }),
  listen: (told) => void ipcRenderer.on("model", (_, message) => told(message)),
});
