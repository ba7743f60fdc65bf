// The one line that answers "and?".
import { html } from "../vendor/preact.js";
import { percent, place, span } from "../format.js";
import { remedy } from "./failures.js";
import { Status, When } from "./basics.js";

export function Standing({ of: task }) {
  return html`<div class="standing">
    <span role="status"><${Status} task=${task} /></span>
    ${SAID[task.status](task)}
    ${task.warnings.map((warning) => html`<span class="thin" key=${warning}>${warning.replaceAll("_", " ")}</span>`)}
  </div>`;
}

const SAID = {
  queued: (task) => html`<span>${inLine(task)}</span>`,
  processing: ({ progress, eta_seconds: eta }) => html`<progress max="1" value=${progress} aria-label="Done"></progress>
    <span>${percent(progress)}${eta ? `, about ${span(eta)} to go` : ""}</span>`,
  completed: (task) => html`<span>in ${span(worked(task))}, <${When} at=${task.finished_at} /></span>`,
  failed: (task) => html`<span><strong>${task.error?.message}</strong> ${remedy(task)}</span>`,
  cancelled: (task) => html`<span><${When} at=${task.finished_at} />${task.audio_kept === false ? "; its audio is not kept" : ""}</span>`,
};

export const worked = (task) => seconds(task.started_at, task.finished_at);
export const waited = (task) => seconds(task.created_at, task.started_at);
const seconds = (from, to) => (from && to ? (Date.parse(to) - Date.parse(from)) / 1000 : null);

function inLine(task) {
  if (task.position) return `${place(task.position)} in line${task.eta_seconds ? `, done in about ${span(task.eta_seconds)}` : ""}`;
  return task.run_at ? html`begins <${When} at=${task.run_at} />` : "";
}
