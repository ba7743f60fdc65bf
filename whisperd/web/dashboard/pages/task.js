// One task: what it is, how it came there, what is said in it.
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { ask, get, of, post } from "../api.js";
import { bytes, clock, number, percent, span } from "../format.js";
import { useAnswer, useChanges } from "../hooks.js";
import { languageName } from "../languages.js";
import { href } from "../router.js";
import { may } from "../session.js";
import { Answered, Button, Facts, Heading, Status, When } from "../parts/basics.js";
import { confirmed, told } from "../parts/dialogs.js";
import { remedy } from "../parts/failures.js";
import { Findings } from "../parts/findings.js";
import { icon } from "../parts/icons.js";
import { Player } from "../parts/player.js";
import { Story } from "../parts/story.js";
import { Transcript } from "../parts/transcript.js";

const OVER = ["completed", "failed", "cancelled"];

export function Task({ id, query }) {
  const task = useAnswer((signal) => get(of(id), {}, { signal }), [id]);
  const audio = useRef(null);
  useChanges((heard) => {
    if (heard.task_id !== id) return;
    task.change((old) => ({ ...old, ...heard, position: old.position, eta_seconds: old.eta_seconds }));
    if (heard.status && heard.status !== task.data?.status) task.reload(); // its place, its estimate
  }, task.reload);
  return html`<${Answered} of=${{ ...task, data: task.error?.status === 404 ? undefined : task.data }} what="This task could not be loaded.">
    ${(shown) => html`
      <p class="crumbs"><a href=${href("tasks")}>Tasks</a></p>
      <${Heading} actions=${html`<${Actions} of=${shown} done=${task.reload} />`}>${shown.audio.name}<//>
      <${Standing} of=${shown} />
      <${Player} key=${`player ${id} ${Boolean(shown.audio.duration)}`} task=${shown} audio=${audio} from=${Number(query.get("t"))} />
      <div class="columns task">
        <${Transcript} key=${id} task=${shown} audio=${audio} searched=${query.get("q") ?? ""} />
        <div>
          <${Details} of=${shown} />
          <${Findings} of=${shown} />
          <${Story} key=${`story ${shown.status}`} task=${shown} />
        </div>
      </div>`}
  <//>`;
}

function Actions({ of: task, done }) {
  if (!may("submit")) return null;
  const cancel = async () => {
    const text = task.status === "processing" ? "What it has so far is thrown away." : "It leaves the line.";
    if (await confirmed({ title: `Cancel ${task.audio.name}?`, text, yes: "Cancel it", danger: true })) {
      await told(() => ask("DELETE", of(task.task_id)), "Cancelled");
      done();
    }
  };
  const retry = () => told(() => post(of(task.task_id, "retry")), "It is queued again").then(done);
  if (!OVER.includes(task.status)) {
    return html`${task.status === "queued" && html`<${Priority} of=${task} done=${done} />`}<${Button} icon="cancelled" onClick=${cancel}>Cancel<//>`;
  }
  return task.status !== "completed" && html`<${Button} kind="primary" icon="retry" onClick=${retry}>Retry<//>`;
}

function Priority({ of: task, done }) {
  const set = (event) => told(() => ask("PATCH", of(task.task_id), { body: { priority: Number(event.target.value) } }), "The priority is changed").then(done);
  return html`<label class="inline">Priority <input type="number" min="-100" max="100" value=${task.priority} onChange=${set} /></label>`;
}

/** The one line that answers "and?". */
function Standing({ of: task }) {
  const [why, explain] = useState(null);
  useEffect(() => {
    if (task.status !== "queued") return explain(null);
    let gone = false;
    get(of(task.task_id, "explain")).then((said) => gone || explain(said), () => {});
    return () => { gone = true; };
  }, [task.task_id, task.status, task.position, task.priority]);
  return html`<div class="standing" role="status">
    <${Status} task=${task} />
    ${task.status === "queued" && html`<span>${explained(why) ?? inLine(task)}</span>`}
    ${task.status === "processing" && html`<progress max="1" value=${task.progress} aria-label="Done"></progress><span>${percent(task.progress)}${task.eta_seconds ? `, about ${span(task.eta_seconds)} to go` : ""}</span>`}
    ${task.status === "completed" && html`<span>in ${span(seconds(task.started_at, task.finished_at))}, <${When} at=${task.finished_at} /></span>`}
    ${task.status === "failed" && html`<span><strong>${task.error?.message}</strong> ${remedy(task.error?.code)}</span>`}
    ${task.status === "cancelled" && html`<span><${When} at=${task.finished_at} /></span>`}
    ${task.warnings?.map((warning) => html`<span class="thin" key=${warning}>${warning}</span>`)}
  </div>`;
}

const explained = (why) => why?.message ?? why?.summary ?? why?.text ?? why?.explanation ?? null;
const inLine = (task) => (task.position ? `${number(task.position)}. in line${task.eta_seconds ? `, done in about ${span(task.eta_seconds)}` : ""}` : task.run_at ? html`runs <${When} at=${task.run_at} />` : "");
const seconds = (from, to) => (from && to ? (Date.parse(to) - Date.parse(from)) / 1000 : null);

function Details({ of: task }) {
  const language = task.language && `${languageName(task.language)}${task.language_probability ? `, ${percent(task.language_probability)} sure` : ""}`;
  const worked = seconds(task.started_at, task.finished_at);
  const metadata = Object.keys(task.metadata ?? {}).length > 0;
  return html`<section class="card" aria-labelledby="details"><h2 id="details">Details</h2>
    <${Facts} rows=${[
      ["Length", task.audio.duration && clock(task.audio.duration)],
      ["Size", bytes(task.audio.size)],
      ["Model", task.model],
      ["Language", language],
      ["Tenant", task.tenant],
      ["Priority", number(task.priority)],
      ["Submitted", html`<${When} at=${task.created_at} />`],
      ["Waited", task.started_at && span(seconds(task.created_at, task.started_at))],
      ["Worked", worked && `${span(worked)}${task.audio.duration ? ` (${Math.round((10 * task.audio.duration) / worked) / 10}× real time)` : ""}`],
      ["Attempt", task.attempt > 1 ? `${task.attempt}, at most ${task.max_retries + 1}` : null],
      ["Id", html`<code>${task.task_id}</code>`],
    ]} />
    ${metadata && html`<details><summary>Metadata</summary><pre>${JSON.stringify(task.metadata, null, 2)}</pre></details>`}
  </section>`;
}
