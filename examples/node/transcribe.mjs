// Transcribe a file from Node (20 or newer) without any package, and print what is said while it is transcribed.
//
//     node examples/node/transcribe.mjs talk.mp3
import { openAsBlob } from "node:fs";
import { basename } from "node:path";
import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";

const url = process.env.WHISPERD_URL ?? "http://127.0.0.1:8002";
const auth = process.env.WHISPERD_KEY ? { authorization: `Bearer ${process.env.WHISPERD_KEY}` } : {};
const TRIES = 5;

class Refused extends Error {}

async function ask(path, options = {}) {
  const answer = await fetch(url + path, { ...options, headers: { ...auth, ...options.headers } });
  if (answer.ok) return answer;
  const error = (await answer.json().catch(() => ({}))).error;
  throw new Refused(error?.message ?? `${url}${path} answered ${answer.status}`);
}

// The same key at each try: however often it is sent, it is one task.
async function submit(path, options = {}) {
  const key = randomUUID();
  for (let attempt = 1; ; attempt++) {
    const form = new FormData();
    for (const [name, value] of Object.entries(options)) form.set(name, String(value));
    form.set("file", await openAsBlob(path), basename(path));
    try {
      const sent = { method: "POST", body: form, headers: { "idempotency-key": key } };
      return await (await ask("/tasks/transcription", sent)).json();
    } catch (error) {
      if (error instanceof Refused || attempt === TRIES) throw error;
      await pause(500 * attempt);
    }
  }
}

// The events of a task until its end. A stream that is cut off goes on behind the last event that was seen.
async function* events(id) {
  let last;
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    try {
      const headers = last ? { "last-event-id": last } : {};
      for await (const event of frames((await ask(`/tasks/${id}/events`, { headers })).body)) {
        attempt = 1;
        last = event.id ?? last;
        yield event;
        if (event.event === "task" && ["completed", "failed", "cancelled"].includes(event.data.status)) return;
      }
    } catch (error) {
      if (error instanceof Refused || attempt === TRIES) throw error;
    }
    await pause(500 * attempt);
  }
}

// Server-sent events: fields line by line, an empty line behind each event.
async function* frames(body) {
  let rest = "";
  for await (const block of body.pipeThrough(new TextDecoderStream())) {
    const whole = (rest + block).split("\n\n");
    rest = whole.pop();
    for (const text of whole) {
      const lines = text.split("\n").filter((line) => !line.startsWith(":"));
      const fields = Object.fromEntries(lines.map((line) => line.split(/: (.*)/s, 2)));
      if (fields.data) yield { ...fields, data: JSON.parse(fields.data) };
    }
  }
}

try {
  const task = await submit(process.argv[2], { priority: 5 });
  for await (const { event, data } of events(task.task_id)) {
    if (event === "segment") console.log(`${data.start.toFixed(2)}  ${data.text}`);
    if (event === "task" && data.status === "failed") throw new Refused(data.error.message);
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
