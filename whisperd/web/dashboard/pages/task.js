// One task: what it is, how it came there, what is said in it.
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { ask, foresee, get, of, post } from "../api.js";
import { bytes, clock, number, percent, span, speed } from "../format.js";
import { useAnswer, useChanges, useEvery, usePainted } from "../hooks.js";
import { languageName } from "../languages.js";
import { href, taskHref } from "../router.js";
import { remembered } from "../seen.js";
import { may } from "../session.js";
import { isOver, runsAgain } from "../states.js";
import { Answered, Button, Empty, Facts, Heading, When } from "../parts/basics.js";
import { confirmed, told } from "../parts/dialogs.js";
import { Findings, Redaction, Withheld, useFindings } from "../parts/findings.js";
import { Player } from "../parts/player.js";
import { Standing, waited, worked } from "../parts/standing.js";
import { Story } from "../parts/story.js";
import { RESULT, Transcript } from "../parts/transcript.js";
import { Waiting } from "../parts/waiting.js";

const AGAIN_SECONDS = 5; // its place and its estimate change with what others do, and no event of its own tells

export function Task({ id, query }) {
  const task = useAnswer((signal) => get(of(id), {}, { signal }), [id], remembered(id));
  useChanges((heard) => {
    if (heard.transcript_task_id === id && heard.finished_at) task.reload(); // it was looked through
    if (heard.task_id !== id) return;
    task.change((old) => ({ ...old, ...heard, position: old.position, eta_seconds: old.eta_seconds }));
    if (heard.status && heard.status !== task.data?.status) task.reload();
  }, task.reload);
  useEvery(AGAIN_SECONDS, () => task.data && !isOver(task.data) && task.reload());
  const painted = usePainted(id);
  const from = Number(query.get("t"));
  const name = task.data?.audio.name;
  useEffect(() => {
    if (name) document.title = `${name} · whisperd`;
  }, [name]);
  if (task.error?.status === 404) return html`<${Gone} />`;
  return html`<${Answered} of=${task} what="This task could not be loaded.">
    ${(shown) => html`
      <p class="crumbs"><a href=${href("tasks")}>Tasks</a></p>
      <${Heading} actions=${html`<${Actions} of=${shown} done=${task.reload} />`}>${shown.audio.name}<//>
      <${Standing} of=${shown} />
      <${shown.kind === "risk_detection" ? Look : Recording} task=${shown} painted=${painted} searched=${query.get("q") ?? ""} from=${from}>
        ${shown.status === "queued" && html`<${Waiting} task=${shown} />`}
        <${Details} of=${shown} />
        ${painted && html`<${Story} task=${shown} />`}
      <//>`}
  <//>`;
}

/** What is heard, what was found in it, and what is said; beside it the children. */
function Recording({ task, painted, searched, from, children }) {
  const audio = useRef(null);
  const [redacted, turn] = useState(Boolean(task.redact));
  const findings = useFindings(task, painted && task.risk_detection === "completed", redacted);
  const found = findings.data;
  const withheld = redacted && !found?.redactable;
  const [editing, edit] = useState(false);
  const shared = { task, audio, from, redacted };
  return html`${withheld ? html`<${Withheld} turn=${turn} />` : html`<${Player} ...${shared} findings=${found?.findings} />`}
    <${Findings} of=${findings} audio=${withheld || task.audio_kept === false ? null : audio}>
      ${!editing && html`<${Redaction} task=${task} found=${found} redacted=${redacted} turn=${turn} />`}
    <//>
    <div class="columns task">
      <${Transcript} ...${shared} searched=${searched} withheld=${withheld} editing=${editing} edit=${edit} saved=${findings.reload} />
      <div>${children}</div>
    </div>`;
}

/** Of risk detection: what it found, and in what. */
function Look({ task, painted, children }) {
  const findings = useFindings(task, painted && task.status === "completed");
  const { transcript_task_id: transcription } = task;
  return html`<p>Risk detection in ${transcription ? html`<a href=${taskHref(transcription)}>a transcript</a>` : "a text that was sent"}.</p>
    <${Findings} of=${findings} audio=${null} />
    <div class="columns">${children}</div>`;
}

Task.ahead = ({ id }) => {
  const task = remembered(id);
  if (!task) foresee(of(id));
  else if (task.status === "completed" && task.kind === "transcription" && !task.redact) foresee(of(id, "result"), { ...RESULT, redacted: false });
  else if (task.status === "queued") foresee(of(id, "explain"));
};

function Gone() {
  return html`<${Heading}>No such task<//>
    <${Empty} title="It is not here, or not any more">Tasks that are over are kept for a while. <a href=${href("tasks")}>All that there are</a>.<//>`;
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
  if (!isOver(task)) {
    return html`${task.status === "queued" && html`<${Priority} of=${task} done=${done} />`}<${Button} icon="cancelled" onClick=${cancel}>Cancel<//>`;
  }
  return runsAgain(task) && html`<${Button} kind="primary" icon="retry" onClick=${retry}>Retry<//>`;
}

function Priority({ of: task, done }) {
  const set = ({ target }) => {
    if (target.value === "") target.value = task.priority; // emptied, or no number: nothing was meant by it
    else if (target.reportValidity()) told(() => ask("PATCH", of(task.task_id), { body: { priority: target.valueAsNumber } }), "The priority is changed").then(done);
  };
  return html`<label class="inline">Priority <input type="number" min="-100" max="100" value=${task.priority} onChange=${set} /></label>`;
}

function Details({ of: task }) {
  const language = task.language && `${languageName(task.language)}${task.language_probability ? `, ${percent(task.language_probability)} sure` : ""}`;
  const took = worked(task);
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
      ["Waited", task.started_at && span(waited(task))],
      ["Worked", took && `${span(took)}${task.audio.duration ? ` (${speed(task.audio.duration / took)} real time)` : ""}`],
      ["Attempt", task.attempt > 1 ? `${task.attempt}, at most ${task.max_retries + 1}` : null],
      ["Id", html`<code>${task.task_id}</code>`],
    ]} />
    ${metadata && html`<details><summary>Metadata</summary><pre>${JSON.stringify(task.metadata, null, 2)}</pre></details>`}
  </section>`;
}
