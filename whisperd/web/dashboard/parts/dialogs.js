// What the page asks and tells: one question at a time, and short messages that go by themselves.
import { html, signal, useEffect, useRef } from "../vendor/preact.js";
import { Button } from "./basics.js";
import { icon } from "./icons.js";

const STAYS_MS = 6000;
const question = signal(null);
const messages = signal([]);
let serial = 0;

/** Whether the person says yes. */
export function confirmed({ title, text, yes, danger = false }) {
  return new Promise((answer) => {
    question.value = { title, text, yes, danger, answer };
  });
}

/** Say something that needs no answer. A problem stays until it is closed. */
export function say(text, kind = "good") {
  const id = ++serial;
  messages.value = [...messages.value.slice(-3), { id, text, kind }];
  if (kind === "good") setTimeout(() => unsay(id), STAYS_MS);
}

/** Do it, and say how it went. Returns what came of it, or undefined. */
export async function told(doing, done) {
  try {
    const result = await doing();
    const text = typeof done === "function" ? done(result) : done;
    if (text) say(text);
    return result ?? true;
  } catch (error) {
    say(error.message, "bad");
    return undefined;
  }
}

const unsay = (id) => {
  messages.value = messages.value.filter((message) => message.id !== id);
};

export function Messages() {
  return html`<div class="messages" role="status" aria-live="polite">
    ${messages.value.map(
      ({ id, text, kind }) => html`<div class="message ${kind}" key=${id}>
        ${icon(kind === "good" ? "completed" : "failed")}<span>${text}</span>
        <button type="button" class="bare" aria-label="Close this message" onClick=${() => unsay(id)}>${icon("close")}</button>
      </div>`,
    )}
  </div>`;
}

export function Question() {
  const asked = question.value;
  if (!asked) return null;
  const answer = (said) => {
    question.value = null;
    asked.answer(said);
  };
  return html`<${Modal} title=${asked.title} close=${() => answer(false)}>
    <p>${asked.text}</p>
    <div class="choices">
      <${Button} onClick=${() => answer(false)}>Keep things as they are<//>
      <${Button} kind=${asked.danger ? "danger" : "primary"} onClick=${() => answer(true)}>${asked.yes}<//>
    </div>
  <//>`;
}

/** Without `close` only what is in it closes it: neither Escape nor a click beside it. */
export function Modal({ title, close, children }) {
  const box = useRef();
  useEffect(() => {
    const from = document.activeElement;
    box.current.showModal();
    return () => from?.focus?.();
  }, []);
  const outside = (event) => event.target === box.current && close?.();
  const cancel = (event) => {
    event.preventDefault();
    close?.();
  };
  const stay = () => box.current?.isConnected && box.current.showModal(); // a second Escape asks nobody
  return html`<dialog ref=${box} aria-labelledby="dialog-title" onCancel=${cancel} onClose=${stay} onClick=${outside}>
    <div class="inside"><h2 id="dialog-title">${title}</h2>${children}</div>
  </dialog>`;
}
