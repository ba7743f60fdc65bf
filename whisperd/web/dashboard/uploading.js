// Sends files, two at a time, and knows how far each has come. XMLHttpRequest, since fetch tells no progress.
import { effect, signal } from "./vendor/preact.js";
import { ApiError, call, of, refusals } from "./api.js";
import { listen } from "./live.js";
import { keep, kept } from "./looks.js";
import { may } from "./session.js";

const AT_A_TIME = 2;
const LOST = "The connection broke off. It is not known whether it arrived; sent again, it becomes one task all the same.";
const KEPT = "whisperd.options";
export const DEFAULTS = { model: "", language: "auto", plan: "", priority: "", tenant: "", word_timestamps: true, translate: false, channels: "mix" };
export const uploads = signal([]); // {id, key, file, name, size, sent, state: waiting|sending|sent|refused|stopped, task, error}
export const options = signal({ ...DEFAULTS, ...remembered() });
const requests = new Map();
let serial = 0;

function remembered() {
  try {
    return JSON.parse(kept(KEPT) ?? "{}");
  } catch {
    return {};
  }
}

effect(() => keep(KEPT, JSON.stringify(options.value)));

export function send(files) {
  const added = [...files].map((file) => ({ id: ++serial, key: random(), file, name: file.name, size: file.size, sent: 0, state: "waiting", asked: options.value }));
  uploads.value = [...uploads.value, ...added];
  next();
}

/** crypto.randomUUID is there for HTTPS only. */
const random = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

export function stop(id) {
  requests.get(id)?.abort();
  change(id, { state: "stopped" });
  next();
}

export function again(id) {
  change(id, { state: "waiting", sent: 0, error: null });
  next();
}

export function forgetFinished() {
  uploads.value = uploads.value.filter((one) => one.state === "waiting" || one.state === "sending");
}

function change(id, changes) {
  uploads.value = uploads.value.map((one) => (one.id === id ? { ...one, ...changes } : one));
}

function next() {
  const sending = uploads.value.filter((one) => one.state === "sending").length;
  const waiting = uploads.value.filter((one) => one.state === "waiting");
  for (const one of waiting.slice(0, Math.max(0, AT_A_TIME - sending))) start(one);
}

function start({ id, key, file, asked }) {
  const request = new XMLHttpRequest();
  requests.set(id, request);
  change(id, { state: "sending" });
  request.upload.onprogress = (event) => change(id, { sent: event.loaded / Math.max(1, event.total) });
  request.onload = () => over(id, request);
  request.onerror = () => refused(id, new ApiError(0, { message: LOST }));
  request.onloadend = () => {
    requests.delete(id);
    next();
  };
  request.open("POST", "tasks/transcription");
  request.setRequestHeader("Idempotency-Key", key);
  request.send(form(file, asked));
}

function form(file, asked) {
  const body = new FormData();
  for (const [name, value] of Object.entries(asked)) {
    if (value !== "" && value !== DEFAULTS_OF_THE_DAEMON[name]) body.append(name, value);
  }
  body.append("file", file, file.name);
  return body;
}

const DEFAULTS_OF_THE_DAEMON = { language: "auto", word_timestamps: false, translate: false, channels: "mix" };

function over(id, request) {
  if (request.status === 401) refusals.value += 1;
  let answer = {};
  try {
    answer = JSON.parse(request.responseText);
  } catch {
    // a proxy's page, not the daemon's words: the status has to do
  }
  if (request.status < 300 && answer.task_id) {
    change(id, { state: "sent", sent: 1, task: answer, file: null });
    look(id, answer.task_id);
  } else refused(id, new ApiError(request.status, answer.error));
}

/** It may have gone on before we knew its id. */
async function look(id, taskId) {
  if (!may("read")) return;
  try {
    change(id, { task: await (await call("GET", of(taskId))).json() });
  } catch {
    // its events tell
  }
}

const refused = (id, error) => change(id, { state: "refused", error });

listen((heard) => {
  const mine = uploads.value.find((one) => one.task?.task_id === heard.task_id);
  if (mine) change(mine.id, { task: { ...mine.task, ...heard } });
});
