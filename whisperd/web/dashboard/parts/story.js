// How a task came to where it is: the daemon's timeline of it.
import { html } from "../vendor/preact.js";
import { get, isAbsent, of } from "../api.js";
import { exact } from "../format.js";
import { useAnswer } from "../hooks.js";
import { Failure } from "./basics.js";

export function Story({ task }) {
  const story = useAnswer((signal) => get(of(task.task_id, "timeline"), {}, { signal }), [task.task_id, task.status, task.attempt]);
  if (story.error) return isAbsent(story.error) ? null : html`<${Failure} error=${story.error} retry=${story.reload} what="The timeline could not be loaded." />`;
  const events = story.data?.events ?? story.data?.timeline ?? [];
  if (!events.length) return null;
  return html`<section class="card" aria-labelledby="story"><h2 id="story">Timeline</h2>
    <ol class="story">${events.map((event, n) => html`<li key=${n}>
      <time datetime=${event.at} title=${exact(event.at)}>${time(event.at)}</time>
      <span>${event.message ?? event.what ?? event.kind}</span>
      ${event.stderr?.length > 0 && html`<details><summary>Last words of the worker</summary><pre>${[].concat(event.stderr).join("\n")}</pre></details>`}
    </li>`)}</ol>
  </section>`;
}

const time = (at) => new Date(at).toLocaleTimeString("en-GB");
