// Talks to the server: which model it has, and its answers as they stream.

const STORED = "rdlite-api-key";
let key = storedKey();

/** What went wrong, in one line; `status` is HTTP's, 0 where there was no whole answer. */
export class ApiError extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Send a key from now on; it is forgotten when the tab is closed. */
export function useKey(given) {
  key = given;
  try {
    sessionStorage.setItem(STORED, given);
  } catch {
    // a browser that stores nothing asks again after a reload
  }
}

/** Return what the server tells of its model. */
export async function loadModel() {
  const response = await request("v1/models", {});
  return (await response.json()).data[0];
}

/** Yield the chunks of an answer; throws ApiError, or AbortError after `signal`. */
export async function* streamChat(body, signal) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(asked),
    signal,
  });
  for await (const data of events(response.body.getReader())) {
    if (data === "[DONE]") {
      return;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) {
      throw new ApiError(chunk.error.message);
    }
    yield chunk;
  }
  throw new ApiError("The answer broke off: the server ended the connection.");
}

async function request(path, options) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (problem) {
    throw reworded(problem, "The server does not answer. Is it still running?");
  }
  if (!response.ok) {
    throw await refusal(response);
  }
  return response;
}

async function refusal(response) {
  const told = await response.json().catch(() => null);
  const unknown = { message: `The server answered with status ${response.status}.` };
  const { message, code } = told?.error ?? unknown;
  const wait = response.status === 429 ? response.headers.get("Retry-After") : null;
  const advice = wait ? `${message} (try again in ${wait} s)` : message;
  return new ApiError(advice, response.status, code);
}

async function* events(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      const parts = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        yield part.replace(/^data: /, "");
      }
    }
  } catch (problem) {
    throw reworded(problem, "The answer broke off: the connection to the server was lost.");
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already
  }
}

function reworded(problem, message) {
  return problem instanceof TypeError ? new ApiError(message) : problem; // browsers' words differ
}

function storedKey() {
  try {
    return sessionStorage.getItem(STORED);
  } catch {
    return null;
  }
}
