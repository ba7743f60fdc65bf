// What happened to a task, in words: the events of its timeline as lines, chunks that followed each other as one.
import { html } from "../vendor/preact.js";
import { count, pace, span } from "../format.js";
import { taskHref } from "../router.js";
import { When } from "./basics.js";

/** Lines {key, at, text, parts, stderr}, the oldest first. */
export const inWords = (events) => grouped(events).map(line);

function grouped(events) {
  const groups = [];
  for (const event of events) {
    const last = groups.at(-1);
    if (event.kind === "chunk" && last?.[0].kind === "chunk") last.push(event);
    else groups.push([event]);
  }
  return groups;
}

function line(some) {
  const [first] = some;
  const key = `${first.kind} ${first.at} ${first.chunk ?? ""}`; // what is opened stays open when more is known
  if (some.length === 1) return { key, at: first.at, text: (SAID[first.kind] ?? plainly)(first), stderr: first.stderr };
  return { key, at: some.at(-1).at, text: together(some), parts: some.map(SAID.chunk) };
}

function together(chunks) {
  const workers = new Set(chunks.map(({ worker }) => worker).filter((worker) => worker !== null));
  const seconds = chunks.reduce((sum, chunk) => sum + (chunk.seconds ?? 0), 0);
  return `${count(chunks.length, "chunk")} done${workers.size ? ` by ${count(workers.size, "worker")}` : ""}, ${span(seconds)} of work`;
}

const SAID = {
  submitted: () => "Submitted",
  follows: ({ twin_id: twin }) => html`Waits for ${task(twin)}, which has the same audio and options`,
  leads: ({ twin_id: twin }) => html`${task(twin)} ended without a transcript: it is decoded itself`,
  copied: ({ twin_id: twin }) => html`Got the transcript of ${task(twin)}, which has the same audio and options`,
  started: () => "Started",
  resumed: (event) => `Taken up again${by(event)}`,
  planned: (event) => `Decoded and cut into chunks${by(event)}${took(event)}`,
  chunk: (event) => `Chunk ${event.chunk} done${by(event)}${took(event)}${event.real_time_factor ? `, ${pace(event.real_time_factor)} real time` : ""}${tries(event)}`,
  overtaken: (event) => html`Overtaken by a task ${event.priority === undefined ? "whose turn it was" : `of priority ${event.priority}`}${often(event)}`,
  worker_died: (event) => `Worker ${event.worker ?? ""} died at ${part(event)}: ${why(event)}${again(event)}`,
  attempt_failed: (event) => `Attempt ${event.attempt ?? ""} at ${part(event)} failed: ${why(event)}${again(event)}`,
  released: (event) => html`Handed back, without blame${often(event)}`,
  replanned: (event) => html`Its decoded audio was gone: decoded again${often(event)}`,
  changed: (event) => html`Changed by hand${changes(event)}${often(event)}`,
  retried: () => "Run again by hand",
  completed: (event) => `Completed${took(event)}`,
  failed: (event) => `Failed: ${why(event)}`,
  cancelled: () => "Cancelled",
};

/** Of a daemon that knows more than this page. */
const plainly = ({ kind, message }) => [kind.replaceAll("_", " "), message].filter(Boolean).join(": ");
const task = (id) => html`<a href=${taskHref(id)}>an equal task</a>`;
const by = ({ worker }) => (worker === null ? "" : ` by worker ${worker}`);
const part = ({ chunk }) => (chunk ? `chunk ${chunk}` : "the plan");
const took = ({ seconds }) => (seconds === null ? "" : `, ${span(seconds)} of work`);
const tries = ({ attempt }) => (attempt > 1 ? `, at attempt ${attempt}` : "");
const why = ({ message, code }) => message ?? code ?? "no reason is known";
const again = ({ retry_in_seconds: seconds }) => (seconds === undefined ? "" : `; again in ${span(seconds)}`);
const often = ({ times, last_at: last }) => (times > 1 ? html` (${times} times, last <${When} at=${last} />)` : "");
const changes = ({ priority, run_at: at }) => html`${priority === undefined ? "" : `: priority ${priority}`}${at ? html`, not before <${When} at=${at} />` : ""}`;
