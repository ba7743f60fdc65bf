// How it goes: what waits, how fast it goes, who works, what went wrong. Each number with its last day.
import { html } from "../vendor/preact.js";
import { get } from "../api.js";
import { count, number, percent, rough, span, speed } from "../format.js";
import { useAnswer, useEvery } from "../hooks.js";
import { stats } from "../live.js";
import { href } from "../router.js";
import { may } from "../session.js";
import { Answered, Empty, Heading } from "../parts/basics.js";
import { Charts } from "../parts/charts.js";
import { Depth } from "../parts/depth.js";
import { Failures } from "../parts/failures.js";
import { icon } from "../parts/icons.js";
import { Crew } from "../parts/crew.js";

const HEALTH_SECONDS = 15;

export function Overview() {
  const first = useAnswer((signal) => get("stats", {}, { signal }), []);
  const now = stats.value ?? first.data;
  return html`<${Heading}>Overview<//>
    <${Health} />
    <${Answered} of=${{ ...first, data: now }} what="The statistics could not be loaded.">
      ${(shown) => (shown.total ? html`<${Numbers} of=${shown} />` : html`<${Fresh} />`)}
    <//>
    ${now && html`<div class="columns">
      <${Depth} of=${now} />
      <${Crew} of=${now} />
    </div>`}
    <${Charts} />
    <${Failures} />`;
}

/** Of the whole day before there was anything: what to do first. */
function Fresh() {
  return html`<${Empty} title="No task yet">
    Drop an audio or video file anywhere on this page, or ${may("submit") ? html`<a href=${href("submit")}>submit one</a>` : "submit one"}.
    On the command line: <code>whisperd transcribe FILE</code>
  <//>`;
}

function Numbers({ of }) {
  const tiles = [
    ["Queued", number(of.queued), of.oldest_queued_seconds === null ? "nothing waits" : `oldest since ${span(of.oldest_queued_seconds)}`, "queued"],
    ["Processing", number(of.processing), of.processing ? `on ${count(of.workers.filter((w) => w.state === "busy").length, "worker")}` : "nothing runs", "processing"],
    ["Completed", rough(of.completed), `${percent(of.success_rate)} succeed`, "completed"],
    ["Failed", rough(of.failed), of.failed ? "why is below" : "none", "failed"],
  ];
  const { throughput, wait_seconds: wait } = of;
  return html`<section aria-label="Numbers now">
    <ul class="tiles">
      ${tiles.map(([name, value, note, state]) => html`<li key=${name}>
        <a href=${href("tasks", { status: state })}><span class="name">${icon(state)}${name}</span><strong>${value}</strong><span class="thin">${note}</span></a>
      </li>`)}
      <li><div><span class="name">Last minute</span><strong>${number(throughput.tasks_per_minute)}</strong><span class="thin">${throughput.tasks_per_minute ? `tasks, at ${speed(throughput.audio_seconds_per_second)} real time` : "no task was completed"}</span></div></li>
      <li><div><span class="name">Wait</span><strong>${span(wait.p50)}</strong><span class="thin">median; 95 % start within ${span(wait.p95)}</span></div></li>
    </ul>
  </section>`;
}

function Health() {
  const health = useAnswer(look, []);
  useEvery(HEALTH_SECONDS, health.reload);
  const troubles = Object.entries(health.data?.checks ?? {}).filter(([, check]) => check.status !== "ok");
  if (!troubles.length) return null;
  return html`<div class="notice ${health.data.status === "down" ? "bad" : "warn"}" role="status">
    ${icon("failed")}
    <div>
      <strong>${health.data.status === "down" ? "The daemon is down" : "Something needs a look"}</strong>
      <ul>${troubles.map(([name, check]) => html`<li key=${name}><b>${name}</b>: ${check.message ?? check.status}</li>`)}</ul>
    </div>
  </div>`;
}

/** What it says while it is down (503) is just what is asked for. */
async function look(signal) {
  const answer = await fetch("health", { signal });
  return answer.json();
}
