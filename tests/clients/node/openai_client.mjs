// What people do with the official `openai` package of Node. Prints what came of each scenario, and asserts nothing.
//
//   node openai_client.mjs PACKAGE URL KEY FILE SCENARIO …
import fs from 'node:fs';

const [name, url, key, path, ...scenarios] = process.argv.slice(2);
const { default: OpenAI } = await import(name);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });

const transcribe = (options = {}) =>
  client.audio.transcriptions.create({ file: fs.createReadStream(path), model: 'whisper-1', ...options });

async function stream() {
  const events = [];
  for await (const event of await transcribe({ stream: true })) events.push(event);
  return events;
}

const rawAnswer = async () => (await transcribe({ response_format: 'text' }).asResponse()).text();

async function models() {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  return ids;
}

const SCENARIOS = {
  json: () => transcribe(),
  text: () => transcribe({ response_format: 'text' }),
  srt: () => transcribe({ response_format: 'srt' }),
  vtt: () => transcribe({ response_format: 'vtt' }),
  verbose_json: () => transcribe({ response_format: 'verbose_json' }),
  words: () => transcribe({ response_format: 'verbose_json', timestamp_granularities: ['word', 'segment'] }),
  stream,
  logprobs: () => transcribe({ include: ['logprobs'] }),
  diarized_json: () => transcribe({ model: 'gpt-4o-transcribe-diarize', response_format: 'diarized_json' }),
  options: () =>
    transcribe({
      model: 'tiny.en',
      language: 'en',
      prompt: 'A speech.',
      temperature: 0.2,
      chunking_strategy: 'auto',
    }),
  raw_answer: rawAnswer,
  extra_body: () =>
    // A prompt like no other, or it would join a task that was done.
    transcribe({ priority: 7, metadata: '{"from": "openai"}', prompt: `Task ${process.hrtime.bigint()}.` }),
  translation: () => client.audio.translations.create({ file: fs.createReadStream(path), model: 'whisper-1' }),
  models,
  model: () => client.models.retrieve('tiny.en'),
  unknown_model: () => transcribe({ model: 'no-such-model' }),
};

async function outcome(scenario) {
  try {
    return { answer: await SCENARIOS[scenario]() };
  } catch (error) {
    return {
      error: error.constructor.name,
      status: error.status,
      body: error.error,
      request_id: error.requestID,
      retry_after: error.headers?.get('retry-after'),
      said: error.message,
    };
  }
}

const outcomes = {};
for (const scenario of scenarios) outcomes[scenario] = await outcome(scenario);
process.stdout.write(JSON.stringify(outcomes));
