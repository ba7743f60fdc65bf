// What is said: it follows the audio, leads to any place in it, shows what is uncertain, and can be put right.
import { html, useRef, useState } from "../vendor/preact.js";
import { call, of } from "../api.js";
import { useAnswer } from "../hooks.js";
import { keep, kept } from "../looks.js";
import { may } from "../session.js";
import { Answered, Button, Empty } from "./basics.js";
import { Downloads } from "./downloads.js";
import { Editor } from "./editor.js";
import { Heard } from "./heard.js";
import { Segments } from "./segments.js";

export const RESULT = { format: "json" };
const KEPT = "whisperd.certainty";

export function Transcript({ task, audio, searched, from }) {
  const over = task.status === "completed";
  return html`<section class="card transcript" aria-labelledby="said">
    ${over && html`<${Whole} key=${task.finished_at} task=${task} audio=${audio} searched=${searched} from=${from} />`}
    ${task.status === "processing" && html`<${Heard} task=${task} audio=${audio} />`}
    ${!over && task.status !== "processing" && html`<h2 id="said">Transcript</h2><p class="thin">${NONE[task.status]}</p>`}
  </section>`;
}

const NONE = {
  queued: "It is written here as soon as the task runs, sentence by sentence.",
  failed: "There is none: the task failed.",
  cancelled: "There is none: the task was cancelled.",
};

async function load(id, signal) {
  const answer = await call("GET", of(id, "result"), { params: RESULT, signal });
  return { ...(await answer.json()), tag: answer.headers.get("etag") };
}

function Whole({ task, audio, searched, from }) {
  const result = useAnswer((signal) => load(task.task_id, signal), [task.task_id]);
  const [editing, edit] = useState(false);
  const [sure, show] = useState(kept(KEPT) !== "off");
  const hasWords = result.data?.segments.some((segment) => segment.words?.length);
  const [pointed, point] = useState(null);
  const heading = useRef();
  const close = (saved) => {
    edit(false);
    if (saved) result.reload();
    heading.current.focus(); // the button that opened it is not there yet
  };
  const turn = (event) => {
    show(event.target.checked);
    keep(KEPT, event.target.checked ? null : "off");
  };
  return html`<div class="heading"><h2 id="said" tabindex="-1" ref=${heading}>Transcript${result.data?.edited && html` <small>corrected</small>`}</h2>
      <div class="actions">
        ${hasWords && !editing && html`<label class="check"><input type="checkbox" checked=${sure} onChange=${turn} /> Mark uncertain words</label>`}
        ${may("submit") && result.data?.segments.length > 0 && !editing && html`<${Button} icon="edit" onClick=${() => edit(true)}>Edit<//>`}
      </div>
    </div>
    <${Answered} of=${result} what="The transcript could not be loaded.">
      ${(transcript) => {
        if (!transcript.segments.length) return html`<${Empty} title="Nothing is said">No speech was found in this audio.<//>`;
        if (editing) return html`<${Editor} task=${task} transcript=${transcript} audio=${audio} close=${close} />`;
        return html`${hasWords && sure && html`<p class="thin certainty">Underlined words are uncertain: <span class="unsure">rather</span>, <span class="doubtful">very</span>. ${pointed ?? "Point at one to see how much."}</p>`}
          <${Segments} segments=${transcript.segments} audio=${audio} sure=${sure} searched=${searched} from=${from} pointed=${(word) => word && point(`“${word.textContent}”: ${word.title}`)} />`;
      }}
    <//>
    <${Downloads} task=${task} />`;
}
