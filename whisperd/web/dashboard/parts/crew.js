// Who works on what, now, in one line each.
import { html } from "../vendor/preact.js";
import { bytes, pace } from "../format.js";
import { href, taskHref } from "../router.js";

export function Crew({ of }) {
  return html`<section class="card" aria-labelledby="crew">
    <h2 id="crew"><a href=${href("workers")}>Workers</a></h2>
    ${of.workers.length === 0 && html`<p class="thin">None: see <code>workers.count</code> in the configuration.</p>`}
    <ul class="crew">${of.workers.map((worker) => html`<li key=${worker.id}>
      <span class="dot ${worker.state}"></span>
      <span class="who">${worker.id} <span class="thin">${worker.state}</span></span>
      <span class="what">${worker.task_id ? html`<a href=${taskHref(worker.task_id)}>${doing(worker)}</a>` : worker.model ?? ""}</span>
      <span class="thin num">${pace(worker.real_time_factor)}</span>
      <span class="thin num">${bytes(worker.rss_bytes)}</span>
    </li>`)}</ul>
  </section>`;
}

const doing = (worker) => (worker.chunk ? `chunk ${worker.chunk}` : "planning");
