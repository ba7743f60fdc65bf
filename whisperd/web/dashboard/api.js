// Talks to the daemon: JSON there and back, and errors in the daemon's own words.
import { signal } from "./vendor/preact.js";

export const refusals = signal(0); // how often a call was answered "who are you?": session.js asks anew

export class ApiError extends Error {
  constructor(status, { code = "unknown", message = `the daemon answered ${status}`, param = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

/** The path with these parameters, but for those without a value. */
export function withQuery(path, params = {}) {
  const given = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** The path of a task's part: `of(id)`, `of(id, "result")`. */
export const of = (id, part) => `tasks/${encodeURIComponent(id)}${part ? `/${part}` : ""}`;

const SOON_MS = 1000;
let foreseen = null; // an answer on its way that nobody has asked for yet

/** Asks now for what will be asked for soon: drawing a page takes as long as the answer to its first question. */
export function foresee(path, params) {
  forget();
  const whole = withQuery(path, params);
  const abort = new AbortController();
  const answer = fetch(whole, { signal: abort.signal });
  answer.catch(() => {}); // is told to whoever asks for it
  foreseen = { whole, answer, abort };
  setTimeout(() => foreseen?.answer === answer && forget(), SOON_MS); // a later question wants news
}

function forget() {
  foreseen?.abort.abort();
  foreseen = null;
}

function taken(whole, aborted) {
  if (foreseen?.whole !== whole) return null;
  const { answer, abort } = foreseen;
  foreseen = null;
  aborted?.addEventListener("abort", () => abort.abort());
  return answer;
}

export async function call(method, path, { body, headers, signal: aborted, params } = {}) {
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  const whole = withQuery(path, params);
  let answer;
  if (method !== "GET") forget(); // what it changes is not in it
  try {
    answer = await (taken(whole, aborted) ?? fetch(whole, {
      method,
      headers: { ...json, ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: aborted,
    }));
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { code: "unreachable", message: "The daemon cannot be reached. Is it running?" });
  }
  if (answer.ok) return answer;
  if (answer.status === 401) refusals.value += 1;
  throw new ApiError(answer.status, await problem(answer));
}

async function problem(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return undefined;
  }
}

export async function ask(method, path, options) {
  const answer = await call(method, path, options);
  return answer.status === 204 ? null : answer.json();
}

export const get = (path, params, options) => ask("GET", path, { params, ...options });
export const post = (path, body, options) => ask("POST", path, { body, ...options });
export const isAbsent = (error) => error instanceof ApiError && (error.status === 404 || error.status === 405);
