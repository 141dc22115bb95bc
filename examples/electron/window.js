// The window: asks through the bridge of preload.cjs and shows tokens, tinted by their steps.

const at = (id) => document.getElementById(id);
const DEEP = 32; // steps at which the tint ends
let [count, answer] = [0, null];

function show(kind) {
  const line = document.createElement("p");
  line.className = kind;
  at("talk").append(line);
  return line;
}

function ready(can, status) {
  at("question").disabled = at("send").disabled = !can;
  at("stop").hidden = can || answer === null;
  at("status").textContent = status;
  if (can) at("question").focus();
}

const told = {
  opened: ({ name }) => ready(true, `${name} is ready.`),
  token({ text, steps }) {
    const token = document.createElement("span");
    token.className = "token";
    token.textContent = text; // what a model says is text, never HTML
    token.title = `${steps} steps`;
    token.style.setProperty("--depth", Math.min(steps / DEEP, 1));
    answer.append(token);
  },
  ended({ finish }) {
    answer = null;
    ready(true, finish === "cancelled" ? "Stopped." : "");
  },
  failed({ message }) {
    answer = null;
    ready(true, message);
  },
};

window.rdlite.listen((message) => {
  if (message.id === undefined || message.id === count) told[message.type]?.(message);
});

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("question").value.trim();
  if (!text || answer !== null) return;
  at("question").value = "";
  show("question").textContent = text;
  answer = show("answer");
  ready(false, "The model thinks.");
  window.rdlite.ask(++count, text);
});
at("stop").addEventListener("click", () => window.rdlite.cancel());
