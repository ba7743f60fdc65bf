// Keys for who would rather not reach for the mouse. Who is disturbed by them can turn them off.
import { html, signal, useEffect } from "../vendor/preact.js";
import { keep, kept } from "../looks.js";
import { go, route } from "../router.js";
import { Modal } from "./dialogs.js";

const KEPT = "whisperd.shortcuts";
const shown = signal(false);
const on = signal(kept(KEPT) !== "off");
export const showHelp = () => {
  shown.value = true;
};

const KEYS = [
  ["/", "search in names and transcripts"],
  ["j, k", "next, previous row of a list"],
  ["Enter", "open the row"],
  ["x", "select the row"],
  ["n", "submit audio"],
  ["o, t, w", "overview, tasks, workers"],
  ["Space", "play and pause, on a task"],
  ["←, →", "5 seconds back and on, in the waveform"],
  ["?", "this help"],
];

const DOES = {
  "/": search,
  j: () => step(1),
  k: () => step(-1),
  x: () => document.activeElement?.closest("tr")?.querySelector("input[type=checkbox]")?.click(),
  n: () => go("submit"),
  o: () => go(""),
  t: () => go("tasks"),
  w: () => go("workers"),
  " ": play,
  "?": showHelp,
};

function search() {
  if (route.value.page !== "tasks" || route.value.id) go("tasks");
  setTimeout(() => document.getElementById("search")?.focus());
}

function step(by) {
  const rows = [...document.querySelectorAll("[data-row]")];
  const at = rows.indexOf(document.activeElement?.closest("tr, li")?.querySelector("[data-row]"));
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + by))];
  next?.focus();
}

function play() {
  const audio = document.querySelector("audio");
  if (!audio) return false;
  if (audio.paused) audio.play().catch(() => {});
  else audio.pause();
  return true;
}

function pressed(event) {
  if (!on.value || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const at = event.target;
  if (at.closest("input:not([type=checkbox]), textarea, select")) return;
  if (event.key === " " && at.closest("button, a, input, summary, audio")) return;
  if (DOES[event.key] && DOES[event.key]() !== false) event.preventDefault();
}

export function Shortcuts() {
  useEffect(() => {
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
  if (!shown.value) return null;
  const turn = (event) => {
    on.value = event.target.checked;
    keep(KEPT, on.value ? null : "off");
  };
  return html`<${Modal} title="Keyboard" close=${() => { shown.value = false; }}>
    <dl class="keyboard">${KEYS.map(([key, what]) => html`<div key=${key}><dt>${key.split(", ").map((one) => html`<kbd>${one}</kbd> `)}</dt><dd>${what}</dd></div>`)}</dl>
    <label class="check"><input type="checkbox" checked=${on.value} onChange=${turn} /> These keys are on</label>
    <div class="choices"><button type="button" class="button" onClick=${() => { shown.value = false; }}>Close</button></div>
  <//>`;
}
