// What happens, as it happens: one stream for the whole page, closed while nobody looks at it.
import { signal } from "./vendor/preact.js";
import { refusals } from "./api.js";
import { sample } from "./sample.js";

const AGAIN_MS = 3000;
const TRAIL = 600; // statistics that are remembered: 20 minutes
export const connection = signal("connecting"); // live | lost
export const stats = signal(null);
export const trail = signal([]); // samples of them, the oldest first
const onTask = new Set();
const onBack = new Set(); // after a gap: what was missed has to be asked for
let source = null;
let wanted = false;
let again = 0;
let hadOne = false;

export function follow() {
  wanted = true;
  document.addEventListener("visibilitychange", update);
  update();
}

export function unfollow() {
  wanted = false;
  document.removeEventListener("visibilitychange", update);
  update();
}

/** Call `heard(task)` with each change: a whole task, or `{task_id, progress}`. Returns what ends it. */
export const listen = (heard) => added(onTask, heard);
/** Call `back()` whenever the stream is there again after a gap. */
export const listenForGaps = (back) => added(onBack, back);

function added(set, one) {
  set.add(one);
  return () => set.delete(one);
}

function update() {
  clearTimeout(again);
  if (!wanted || document.hidden) close();
  else if (!source) open();
}

function open() {
  source = new EventSource("events");
  source.onopen = () => {
    connection.value = "live";
    if (hadOne) onBack.forEach((back) => back());
    hadOne = true;
  };
  source.onmessage = (event) => tell(JSON.parse(event.data));
  source.onerror = () => {
    connection.value = "lost";
    if (source.readyState !== EventSource.CLOSED) return; // the browser comes back by itself
    close();
    again = setTimeout(update, AGAIN_MS);
    refusals.value += 1; // perhaps we are not let in any more: then it is not tried again
  };
}

function close() {
  source?.close();
  source = null;
}

function tell(message) {
  if (message.type === "stats") note(message);
  else if (message.type === "task") onTask.forEach((heard) => heard(message.task));
  else if (message.type === "progress") onTask.forEach((heard) => heard(message));
}

function note(message) {
  stats.value = message;
  trail.value = [...trail.value.slice(-TRAIL), sample(message, Date.now() / 1000)];
}
