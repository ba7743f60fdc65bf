// What failed last, why, and what can be done about it.
import { html } from "../vendor/preact.js";
import { get, of, post } from "../api.js";
import { useAnswer, useChanges, useSoon } from "../hooks.js";
import { href, taskHref } from "../router.js";
import { may } from "../session.js";
import { runsAgain } from "../states.js";
import { Answered, Button, When } from "./basics.js";
import { told } from "./dialogs.js";

const SHOWN = 5;

export function Failures() {
  const failures = useAnswer((signal) => get("tasks", { status: "failed", limit: SHOWN }, { signal }), []);
  const reload = useSoon(failures.reload); // a thousand that fail together are asked for once
  useChanges((task) => {
    const was = failures.data?.tasks.some((one) => one.task_id === task.task_id);
    if (task.status === "failed" || (was && task.status)) reload();
  }, failures.reload);
  return html`<section class="card" aria-labelledby="failures">
    <h2 id="failures"><a href=${href("tasks", { status: "failed" })}>Recent failures</a></h2>
    <${Answered} of=${failures} what="The failures could not be loaded.">
      ${({ tasks }) => tasks.length
        ? html`<ul class="failures">${tasks.map((task) => html`<${Failed} key=${task.task_id} task=${task} done=${failures.reload} />`)}</ul>`
        : html`<p class="thin">None that is still kept. Good.</p>`}
    <//>
  </section>`;
}

function Failed({ task, done }) {
  const retry = () => told(() => post(of(task.task_id, "retry")), `${task.audio.name} is queued again`).then(done);
  return html`<li>
    <div>
      <a href=${taskHref(task.task_id)}>${task.audio.name}</a> <span class="thin">${task.tenant}, <${When} at=${task.finished_at} /></span>
      <p>${task.error?.message}</p>
      <p class="thin">${remedy(task)}</p>
    </div>
    ${may("submit") && runsAgain(task) && html`<${Button} icon="retry" onClick=${retry}>Retry<//>`}
  </li>`;
}

const REMEDIES = {
  out_of_memory: "A smaller model, or fewer workers (workers.count), needs less memory.",
  worker_crashed: "Try again; if it fails at the same place, look at the task's timeline.",
  worker_hung: "Try again; a busy machine may need more of workers.max_processing_seconds.",
  worker_lost: "Try again: the worker went away, not the audio.",
  interrupted: "Try again: the daemon was stopped in the middle.",
  timeout: "Give it more timeout_seconds, or a smaller model.",
  model_unusable: "Install the model again: whisperd models pull.",
  no_audio: "There is no sound in this file: send another.",
  unsupported_media: "This is no audio or video that can be read: send another file.",
  audio_too_long: "Cut the file, or raise audio.max_seconds.",
  audio_missing: "Its audio is gone: submit it again.",
  damaged: "Submit it again, and look after disk and memory: a bit of what was stored has changed.",
  storage_full: "Make room on the disk, then try again.",
  disk_error: "Look after the disk, then try again.",
};

/** What can be done about it. */
export const remedy = ({ error, audio_kept: kept }) => REMEDIES[error?.code] ?? (kept === false ? "Its audio is not kept: submit it again." : "Try again; its timeline has more.");
