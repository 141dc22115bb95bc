// What users of the npm package openai do, against the server at the address given; one line of JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const question = { model: "nano", messages: [{ role: "user", content: "What is 48 + 76?" }] };
const schema = {
  type: "object",
  properties: { x: { type: "integer", minimum: 0, maximum: 99 } },
  required: ["x"],
  additionalProperties: false,
};
const told = {};

const [model] = (await client.models.list()).data;
told.model = model.id;

const answer = await client.chat.completions.create({ ...question, n: 3 });
told.chat = answer.choices.map((choice) => choice.message.content);

told.stream = "";
for await (const chunk of await client.chat.completions.create({ ...question, stream: true })) {
  told.stream += chunk.choices[0].delta.content ?? "";
}

const shaped = await client.chat.completions.parse({
  ...question,
  response_format: { type: "json_schema", json_schema: { name: "answer", strict: true, schema } },
});
told.x = JSON.parse(shaped.choices[0].message.content).x;

const first = await client.responses.create({ model: "nano", input: "What is 48 + 76?" });
told.response = first.output_text;
const more = { model: "nano", input: "What is 12 + 30?", previous_response_id: first.id };
told.events = "";
for await (const event of await client.responses.create({ ...more, stream: true })) {
  if (event.type === "response.output_text.delta") told.events += event.delta;
}

try {
  await client.chat.completions.create({ ...question, n: 1000 });
} catch (problem) {
  told.refused = [problem.status, problem.param];
}
console.log(JSON.stringify(told));
