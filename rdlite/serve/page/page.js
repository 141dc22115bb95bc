// The page: a conversation, what is shown of it, and what is typed and pressed.

import { ApiError, loadModel, streamChat } from "./api.js";
import { Curve } from "./curve.js";
import { fillLegend } from "./levels.js";
import { askKey, asksKey, onKey } from "./lock.js";
import { chosen, mostSteps, offer, onSteps } from "./settings.js";
import { Turn } from "./turn.js";

const SIZES = new Intl.NumberFormat("en", {
  notation: "compact",
  compactDisplay: "long",
  maximumSignificantDigits: 2,
});
const ENDS = { length: "cut off: no room for more tokens", null: "ended by the server" };

const at = (id) => document.getElementById(id);
const [log, input] = [at("log"), at("question")];
const curve = new Curve(at("curve"));
const turns = [];
let model = null; // what the server tells of it
let running = null; // the AbortController of the answer that streams
let shown = null; // the turn whose curve is shown

// ---- the model

async function connect() {
  model = await loadModel();
  const { parameters, chat } = model.rdlite;
  const size = SIZES.format(parameters); // like 3.5 billion
  at("model").textContent = `${model.id}, ${size} parameters`;
  document.title = `${model.id} · rdlite`;
  offer(model.rdlite);
  show(shown);
  if (!chat) {
    throw new ApiError(`${model.id} cannot chat: it has no tokenizer or no chat template.`);
  }
}

async function start() {
  at("error").textContent = "";
  try {
    await connect();
    input.focus({ preventScroll: true });
  } catch (problem) {
    complain(problem);
  }
}

function complain(problem) {
  if (!(problem instanceof ApiError)) {
    console.error(problem);
  }
  at("error").textContent = problem.message.replace(/\s+/g, " ").trim();
  if (problem.status === 404) {
    model = null; // another one is served by now
  } else if (problem.status === 401) {
    askKey(problem.code === "wrong_api_key");
  }
}

// ---- asking

async function ask(question) {
  const own = (running = new AbortController());
  let turn = null;
  at("error").textContent = "";
  turns.filter((old) => !old.usable).forEach(remove);
  setBusy(true);
  try {
    if (model === null) {
      await connect();
    }
    turn = new Turn(question, mostSteps(), point);
    const body = { model: model.id, messages: messages(question), ...chosen() };
    turns.push(turn);
    at("turns").append(turn.element);
    show(turn);
    keepInView(true);
    await answer(turn, body, own.signal);
  } catch (problem) {
    if (turn && own.signal.aborted) {
      stopped(turn);
    } else {
      failed(turn, question, problem);
    }
  }
  running = null;
  setBusy(false);
  keepInView(false);
}

function messages(question) {
  const said = turns.flatMap((turn) => [
    { role: "user", content: turn.question },
    { role: "assistant", content: turn.text },
  ]);
  return [...said, { role: "user", content: question }];
}

async function answer(turn, body, signal) {
  turn.answer.ariaBusy = "true";
  let [first, last, finish, usage, leftOut] = [0, 0, null, null, 0];
  try {
    for await (const chunk of streamChat(body, signal)) {
      usage = chunk.usage ?? usage;
      const choice = chunk.choices[0];
      finish = choice?.finish_reason ?? finish;
      leftOut = choice?.left_out_messages ?? leftOut;
      if (choice?.depth) {
        last = performance.now();
        first ||= last;
        take(turn, choice);
      }
    }
    turn.usable = true;
    turn.complete = finish === "stop";
    const forgotten = `without the ${leftOut} oldest messages: the model was trained on less`;
    turn.note.textContent = ENDS[finish] ?? (leftOut ? forgotten : "");
  } finally {
    turn.answer.ariaBusy = "false";
    turn.summarize(last - first, usage);
    point(turn);
    at("spoken").textContent = turn.text;
  }
}

function take(turn, { delta, depth }) {
  depth.steps.forEach((steps, i) => {
    const token = {
      text: i === 0 ? delta.content : "",
      steps,
      exitValue: depth.exit_values[i],
      changes: depth.changes[i],
    };
    turn.add(token);
    if (shown === turn) {
      curve.add(token);
    }
  });
  keepInView(false);
}

function stopped(turn) {
  if (!turns.includes(turn)) {
    return; // the chat was cleared
  }
  if (turn.tokens.length) {
    turn.usable = true;
    turn.note.textContent = "stopped";
  } else {
    remove(turn);
    giveBack(turn.question);
  }
}

function failed(turn, question, problem) {
  complain(problem);
  giveBack(question);
  if (turn?.tokens.length) {
    turn.note.textContent = "broke off; not a part of the conversation";
    turn.element.classList.add("failed");
  } else if (turn) {
    remove(turn);
  }
}

function giveBack(question) {
  input.value = [question, input.value].filter(Boolean).join("\n");
  fitInput();
}

function remove(turn) {
  turns.splice(turns.indexOf(turn), 1);
  turn.element.remove();
  show(turns.at(-1) ?? null);
}

// ---- looking

function setBusy(busy) {
  const lost = document.activeElement;
  at("send").hidden = busy;
  at("stop").hidden = !busy;
  at("intro").hidden = busy || turns.length > 0;
  at("actions").hidden = busy || !turns.at(-1)?.usable;
  if (busy) {
    at("spoken").textContent = "Answering";
  }
  if (lost === document.body || lost?.closest("[hidden]")) {
    input.focus(); // what had the focus has gone
  }
}

function show(turn) {
  const before = shown;
  shown = turn;
  if (before !== turn) {
    before?.select(null);
  }
  const most = turn?.most ?? mostSteps();
  curve.show(turn?.tokens ?? [], most);
  fillLegend(at("legend"), most);
  at("readout").textContent = turn?.summary ?? "";
}

function point(turn) {
  if (turn !== shown && turn.current !== null) {
    show(turn);
  }
  if (turn === shown) {
    curve.select(turn.current);
    at("readout").textContent = turn.current === null ? turn.summary : turn.describe();
  }
}

function keepInView(always) {
  // Wide pages scroll the log, narrow ones the document.
  const scroller = log.scrollHeight > log.clientHeight ? log : document.scrollingElement;
  if (always || scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 120) {
    log.scrollTop = log.scrollHeight;
    log.scrollIntoView({ block: "end" });
  }
}

function fitInput() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`; // and its borders
}

// ---- what is typed and pressed

function submit() {
  const question = input.value.trim();
  if (running === null && question) {
    input.value = "";
    fitInput();
    input.focus();
    ask(question);
  }
}

function takeBack() {
  const turn = turns.at(-1);
  remove(turn);
  input.focus();
  return turn.question;
}

function clear() {
  running?.abort();
  turns.splice(0).forEach((turn) => turn.element.remove());
  at("error").textContent = at("spoken").textContent = "";
  show(null);
  setBusy(running !== null);
  input.focus();
}

input.addEventListener("input", fitInput);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
at("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || asksKey()) {
    return;
  }
  if (running) {
    running.abort();
  } else {
    shown?.select(null);
  }
});
at("new").addEventListener("click", clear);
at("again").addEventListener("click", () => ask(takeBack()));
at("edit").addEventListener("click", () => {
  giveBack(takeBack());
  setBusy(false);
});
at("examples").addEventListener("click", ({ target }) => {
  if (target.matches("button") && running === null) {
    ask(target.textContent);
  }
});
onSteps(() => {
  if (shown === null) {
    show(null);
  }
});
onKey(start);
start();
