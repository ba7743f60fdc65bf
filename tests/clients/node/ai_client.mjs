// The same for Vercel's AI SDK with its provider for OpenAI.
//
//   node ai_client.mjs URL KEY FILE SCENARIO …
import fs from 'node:fs';
import { createOpenAI } from '@ai-sdk/openai';
import { experimental_transcribe as ask } from 'ai';

const [url, key, path, ...scenarios] = process.argv.slice(2);
const provider = createOpenAI({ baseURL: `${url}/v1`, apiKey: key });

const transcribe = (options = {}, model = 'whisper-1') =>
  ask({ model: provider.transcription(model), audio: fs.readFileSync(path), maxRetries: 0, ...options });

const withOptions = (openai, model) => transcribe({ providerOptions: { openai } }, model);

// It chooses the format itself: json without options and for gpt-4o-transcribe, else verbose_json.
const SCENARIOS = {
  json: () => transcribe(),
  options: () => withOptions({ language: 'en', temperature: 0.2, prompt: 'A speech.' }),
  options_json: () => withOptions({ language: 'en', include: ['logprobs'] }, 'gpt-4o-transcribe'),
  segments: () => withOptions({ timestampGranularities: ['segment'] }),
  words: () => withOptions({ timestampGranularities: ['word'] }),
  unknown_model: () => transcribe({}, 'no-such-model'),
};

async function outcome(scenario) {
  try {
    const { text, segments, language, durationInSeconds } = await SCENARIOS[scenario]();
    return { answer: { text, segments, language, durationInSeconds } };
  } catch (error) {
    return {
      error: error.name,
      status: error.statusCode,
      body: error.data?.error,
      request_id: error.responseHeaders?.['x-request-id'],
      retry_after: error.responseHeaders?.['retry-after'],
      said: error.message,
    };
  }
}

const outcomes = {};
for (const scenario of scenarios) outcomes[scenario] = await outcome(scenario);
process.stdout.write(JSON.stringify(outcomes));
