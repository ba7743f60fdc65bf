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
const foreseen = new Map(); // answers on their way that nobody has asked for yet, by their paths

/** Asks now for what will be asked for soon: drawing a page takes as long as the answer to its first question. */
export function foresee(path, params) {
  const whole = withQuery(path, params);
  const answer = fetch(whole);
  answer.catch(() => {}); // is told to whoever asks for it
  foreseen.set(whole, answer);
  setTimeout(() => foreseen.get(whole) === answer && foreseen.delete(whole), SOON_MS); // a later question wants news
}

function taken(whole) {
  const answer = foreseen.get(whole);
  foreseen.delete(whole);
  return answer;
}

export async function call(method, path, { body, headers, signal: aborted, params } = {}) {
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  const whole = withQuery(path, params);
  let answer;
  try {
    answer = await ((method === "GET" && taken(whole)) || fetch(whole, {
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
