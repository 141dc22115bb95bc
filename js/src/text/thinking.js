// Tells what a model thinks from what it answers: the text between <think> and </think>.

const [OPEN, CLOSE] = ["<think>", "</think>"];

/**
 * Split a whole answer. A block of thinking stands before the answer, or after another block; `<think>`
 * further on is text like any other. White space around a block belongs to neither side.
 * @param {string} text @param {boolean} thinking whether its prompt opened the block
 */
export function splitThinking(text, thinking) {
  let [rest, reasoning, thought] = [text, "", thinking];
  for (;;) {
    if (thinking) {
      const end = rest.indexOf(CLOSE);
      if (end < 0) return { reasoning: reasoning + rest.trim(), content: "" };
      reasoning += rest.slice(0, end).trim();
      rest = rest.slice(end + CLOSE.length);
    }
    const begins = rest.trimStart();
    if (!begins.startsWith(OPEN)) return { reasoning, content: thought ? begins : rest };
    [thinking, thought, rest] = [true, true, begins.slice(OPEN.length)];
  }
}

/** Whether a rendered prompt leaves the model inside a block of thinking. @param {string} prompt */
export const opensThinking = (prompt) => prompt.trimEnd().endsWith(OPEN);
