// Reads streams as applications do, with two majors of the official SDK for Node.
//
//     node consume.mjs BASE_URL < cases.json
//
// A case is {name, sdk, read, params, headers}: `sdk` names a package, `read` a way to read. For
// each case one line of JSON is printed, in any order: its name, and what an application has at
// the end, or the error that it has to catch.
import process from 'node:process';
import { text } from 'node:stream/consumers';

const AT_ONCE = 32;
const DONE_EVENTS = ['content.done', 'refusal.done', 'tool_calls.function.arguments.done'];

async function items(stream) {
  const found = [];
  for await (const item of await stream) found.push(item);
  return { items: found };
}

// As the SDK has it, the file stands where the application puts it: first.
const file = () => new File([Buffer.from('RIFF\0\xff', 'latin1')], 'a.wav', { type: 'audio/wav' });

const READ = {
  'images raw': (client, params, options) =>
    items(client.images.generate({ ...params, stream: true }, options)),
  'edits raw': (client, params, options) =>
    items(client.images.edit({ image: file(), ...params, stream: true }, options)),
  'transcriptions raw': (client, params, options) =>
    items(client.audio.transcriptions.create({ file: file(), ...params, stream: true }, options)),
  'runs raw': (client, { thread_id, ...params }, options) =>
    items(client.beta.threads.runs.create(thread_id, { ...params, stream: true }, options)),
  'threads raw': (client, params, options) =>
    items(client.beta.threads.createAndRun({ ...params, stream: true }, options)),

  'chat raw': (client, params, options) =>
    items(client.chat.completions.create({ ...params, stream: true }, options)),
  'completions raw': (client, params, options) =>
    items(client.completions.create({ ...params, stream: true }, options)),
  'responses raw': (client, params, options) =>
    items(client.responses.create({ ...params, stream: true }, options)),

  async 'chat helper'(client, params, options) {
    const stream = client.chat.completions.stream(params, options);
    const done = [];
    for (const type of DONE_EVENTS) stream.on(type, (event) => done.push({ ...event, type }));
    for await (const _ of stream);
    return { final: await stream.finalChatCompletion(), done };
  },

  async 'responses helper'(client, params, options) {
    const stream = client.responses.stream(params, options);
    const done = [];
    for await (const event of stream) if (!event.type.endsWith('.delta')) done.push(event);
    return { final: await stream.finalResponse(), done };
  },
};

async function told(clients, { sdk, read, params, headers }) {
  const { client, APIError } = clients[sdk];
  try {
    return await READ[read](client, params, { headers });
  } catch (error) {
    const { message, code } = error;
    const name = error.constructor.name;
    return { error: { name, message, code, api_error: error instanceof APIError } };
  }
}

async function main(baseURL) {
  const cases = JSON.parse(await text(process.stdin));
  const clients = {};
  for (const sdk of new Set(cases.map((one) => one.sdk))) {
    const { default: OpenAI } = await import(sdk);
    const client = new OpenAI({ apiKey: 'test-key', baseURL, maxRetries: 0, timeout: 20_000 });
    clients[sdk] = { client, APIError: OpenAI.APIError };
  }
  const left = cases.values();
  async function work() {
    for (const one of left) {
      const line = JSON.stringify({ name: one.name, ...(await told(clients, one)) });
      process.stdout.write(`${line}\n`);
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

await main(process.argv[2]);
