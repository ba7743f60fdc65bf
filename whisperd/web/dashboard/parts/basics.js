// The small parts that every page is made of.
import { html, useEffect, useRef } from "../vendor/preact.js";
import { ago, exact } from "../format.js";
import { now } from "../hooks.js";
import { hasMoved } from "../router.js";
import { icon } from "./icons.js";

/** How long ago, with the exact time for who wants to know. */
export function When({ at }) {
  if (!at) return "–";
  return html`<time datetime=${at} title=${exact(at)}>${ago(at, now.value)}</time>`;
}

/** A state is said in a word and by a shape, never by its colour alone. */
export function Status({ task }) {
  const delayed = task.status === "queued" && task.run_at && Date.parse(task.run_at) > Date.now();
  return html`<span class="status ${task.status}">${icon(task.status)}${delayed ? "delayed" : task.status}</span>`;
}

export function Button({ icon: name, children, kind = "", busy, type = "button", ...rest }) {
  return html`<button type=${type} class="button ${kind}" aria-busy=${busy || undefined} disabled=${busy} ...${rest}>
    ${name && icon(name)}<span>${children}</span>
  </button>`;
}

/** The heading that a page is entered by: it takes the focus, so that a screen reader says where we are. */
export function Heading({ children, actions }) {
  const text = useRef();
  useEffect(() => {
    if (hasMoved()) text.current.focus({ preventScroll: true });
  }, []);
  return html`<div class="heading">
    <h1 tabindex="-1" ref=${text}>${children}</h1>
    ${actions && html`<div class="actions">${actions}</div>`}
  </div>`;
}

/** What happened, in the daemon's words, and a way on. */
export function Failure({ error, retry, what = "This could not be loaded." }) {
  return html`<div class="notice bad" role="alert">
    ${icon("failed")}
    <div><strong>${what}</strong><p>${error.message}</p></div>
    ${retry && html`<${Button} onClick=${retry} icon="retry">Try again<//>`}
  </div>`;
}

export function Empty({ title, children }) {
  return html`<div class="empty">${icon("wave")}<h2>${title}</h2><div>${children}</div></div>`;
}

export const Loading = ({ what = "Loading" }) => html`<p class="loading" role="status">${what}…</p>`;

/** A page's part: its answer, or why there is none yet. */
export function Answered({ of, children, what }) {
  if (of.data !== undefined) return html`${of.error && html`<${Failure} error=${of.error} retry=${of.reload} what=${what} />`}${children(of.data)}`;
  if (of.error) return html`<${Failure} error=${of.error} retry=${of.reload} what=${what} />`;
  return html`<${Loading} />`;
}

export function Facts({ rows }) {
  const shown = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return html`<dl class="facts">${shown.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A table that may be wider than the screen; it is scrolled by the keyboard, too. */
export function Table({ label, columns, children }) {
  return html`<div class="scroller" role="region" aria-label=${label} tabindex="0">
    <table>
      <thead><tr>${columns.map(([name, kind = ""]) => html`<th scope="col" class=${kind} key=${name}>${name}</th>`)}</tr></thead>
      <tbody>${children}</tbody>
    </table>
  </div>`;
}
