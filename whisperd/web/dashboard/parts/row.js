// A task in the list.
import { html } from "../vendor/preact.js";
import { clock, number, percent, place, span } from "../format.js";
import { taskHref } from "../router.js";
import { seesAll } from "../session.js";
import { Status, When } from "./basics.js";

export function Row({ task, chosen, toggle, searched }) {
  const { audio } = task;
  return html`<tr class=${chosen ? "chosen" : ""}>
    ${toggle && html`<td class="pick"><input type="checkbox" checked=${chosen} aria-label=${`Select ${audio.name}`} onChange=${() => toggle(task.task_id)} /></td>`}
    <td class="state"><${Status} task=${task} /><${How} task=${task} /></td>
    <th scope="row" class="name"><a data-row href=${taskHref(task.task_id, { q: searched, t: task.match?.start })}>${audio.name}</a>
      <${Snippet} match=${task.match} />
      ${task.status === "failed" && task.error && html`<p class="why">${task.error.message}</p>`}
      <p class="narrow thin">${[seesAll() && task.tenant, task.model, audio.duration && clock(audio.duration)].filter(Boolean).join(" · ")}</p>
    </th>
    ${seesAll() && html`<td class="wide">${task.tenant}</td>`}
    <td class="wide">${task.model}</td>
    <td class="num wide">${clock(audio.duration)}</td>
    <td class="num wide">${number(task.priority)}</td>
    <td class="num"><${When} at=${task.created_at} /></td>
  </tr>`;
}

function How({ task }) {
  if (task.status === "processing") return html`<progress max="1" value=${task.progress} aria-label=${`${percent(task.progress)} done`}></progress>`;
  if (task.status !== "queued" || !task.position) return null;
  const eta = task.eta_seconds === null || task.eta_seconds === undefined ? "" : `, done in ${span(task.eta_seconds)}`;
  return html`<span class="thin">${place(task.position)} in line${eta}</span>`;
}

/** The words around what was found. As text: a transcript may say anything. */
function Snippet({ match }) {
  if (!match?.snippet) return null;
  const parts = [];
  let at = 0;
  for (const [start, end] of match.ranges ?? []) {
    parts.push(match.snippet.slice(at, start), html`<mark>${match.snippet.slice(start, end)}</mark>`);
    at = end;
  }
  return html`<p class="snippet">${parts}${match.snippet.slice(at)}</p>`;
}
