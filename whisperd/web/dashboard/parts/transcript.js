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

/** `redacted`: without what rules want out of it; `withheld`: that is not known yet. `saved` is told of a correction. */
export function Transcript({ task, withheld, ...rest }) {
  const { status } = task;
  if (status === "processing") return html`<${Said}><${Heard} task=${task} audio=${rest.audio} /><//>`;
  if (status === "completed" && !withheld) return html`<${Said}><${Whole} key=${task.finished_at} task=${task} ...${rest} /><//>`;
  return html`<${Said}><h2 id="said">Transcript</h2><p class="thin">${NONE[status]}</p><//>`;
}

const Said = ({ children }) => html`<section class="card transcript" aria-labelledby="said">${children}</section>`;

const NONE = {
  completed: "It is not shown yet.",
  queued: "It is written here as soon as the task runs, sentence by sentence.",
  failed: "There is none: the task failed.",
  cancelled: "There is none: the task was cancelled.",
};

async function load(id, redacted, signal) {
  const answer = await call("GET", of(id, "result"), { params: { ...RESULT, redacted }, signal });
  return { ...(await answer.json()), tag: answer.headers.get("etag") };
}

function Whole({ task, audio, searched, from, redacted, editing, edit, saved: told }) {
  const result = useAnswer((signal) => load(task.task_id, redacted, signal), [task.task_id, redacted]);
  const [sure, show] = useState(kept(KEPT) !== "off");
  const hasWords = result.data?.segments.some((segment) => segment.words?.length);
  const [pointed, point] = useState(null);
  const heading = useRef();
  const close = (saved) => {
    edit(false);
    if (saved) {
      result.reload();
      told();
    }
    heading.current.focus(); // the button that opened it is not there yet
  };
  const turn = (event) => {
    show(event.target.checked);
    keep(KEPT, event.target.checked ? null : "off");
  };
  return html`<div class="heading"><h2 id="said" tabindex="-1" ref=${heading}>Transcript${result.data?.edited && html` <small>corrected</small>`}</h2>
      <div class="actions">
        ${hasWords && !editing && html`<label class="check"><input type="checkbox" checked=${sure} onChange=${turn} /> Mark uncertain words</label>`}
        ${!redacted && may("submit") && result.data?.segments.length > 0 && !editing && html`<${Button} icon="edit" onClick=${() => edit(true)}>Edit<//>`}
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
    <${Downloads} task=${task} redacted=${redacted} />`;
}
