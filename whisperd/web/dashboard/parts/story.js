// How a task came to where it is: the daemon's timeline of it, in words.
import { html } from "../vendor/preact.js";
import { get, of } from "../api.js";
import { exact } from "../format.js";
import { useAnswer, useEvery } from "../hooks.js";
import { isOver } from "../states.js";
import { Answered } from "./basics.js";
import { inWords } from "./happenings.js";

const AGAIN_SECONDS = 5;

export function Story({ task }) {
  const story = useAnswer((signal) => get(of(task.task_id, "timeline"), {}, { signal }), [task.task_id, task.status, task.attempt]);
  useEvery(AGAIN_SECONDS, () => isOver(task) || story.reload());
  return html`<section class="card" aria-labelledby="story"><h2 id="story">Timeline</h2>
    <${Answered} of=${story} what="The timeline could not be loaded.">
      ${({ events, truncated }) => html`
        ${truncated && html`<p class="thin">What happened before is not kept.</p>`}
        <ol class="story">${inWords(events).map((line) => html`<${Line} key=${line.key} of=${line} />`)}</ol>`}
    <//>
  </section>`;
}

function Line({ of: { at, text, parts, stderr } }) {
  return html`<li>
    <time datetime=${at} title=${exact(at)}>${time(at)}</time>
    <span>${text}</span>
    ${parts && html`<details><summary>Each of them</summary><ol>${parts.map((part, n) => html`<li key=${n}>${part}</li>`)}</ol></details>`}
    ${stderr && html`<details><summary>Last words of the worker</summary><pre>${stderr}</pre></details>`}
  </li>`;
}

/** The day, too, unless it is today. */
function time(at) {
  const when = new Date(at);
  const clock = when.toLocaleTimeString("en-GB");
  return when.toDateString() === new Date().toDateString() ? clock : `${when.toLocaleDateString("en-GB", { day: "numeric", month: "short" })}, ${clock}`;
}
