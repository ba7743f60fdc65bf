// Submit files, and how they are to be transcribed. The choices hold for what is dropped elsewhere, too.
import { html, useRef } from "../vendor/preact.js";
import { get } from "../api.js";
import { useAnswer } from "../hooks.js";
import { may, seesAll } from "../session.js";
import { DEFAULTS, options, send } from "../uploading.js";
import { Button, Empty, Heading } from "../parts/basics.js";
import { icon } from "../parts/icons.js";
import { LANGUAGES } from "../languages.js";

export function Submit() {
  const picker = useRef();
  const models = useAnswer(async (signal) => (may("read") ? get("v1/models", {}, { signal }) : null), []);
  if (!may("submit")) return html`<${Heading}>Submit audio<//><${Empty} title="This key may only read">Sign in with a key that has the scope <code>submit</code>.<//>`;
  const picked = (event) => {
    send(event.target.files);
    event.target.value = "";
  };
  return html`<${Heading}>Submit audio<//>
    <label class="picker">
      <input ref=${picker} type="file" multiple accept="audio/*,video/*" onChange=${picked} />
      ${icon("submit")}<strong>Choose files</strong>
      <span>or drop them anywhere on this page. Audio or video, several at once; each begins as soon as it is here.</span>
    </label>
    <form class="card options" onSubmit=${(event) => event.preventDefault()}>
      <h2>How to transcribe what comes next</h2>
      <div class="fields">
        <${Choice} name="model" label="Model" choices=${[["", "the daemon’s default"], ...names(models.data)]} />
        <${Choice} name="language" label="Language" choices=${LANGUAGES} />
        <${Choice} name="plan" label="Plan" choices=${[["", "none"], ["FREE", "FREE"], ["PRO", "PRO"], ["PAYG", "PAYG"]]} note="a priority, and limits, by name" />
        <${Field} name="priority" label="Priority" type="number" min="-100" max="100" step="1" placeholder="by the plan" note="−100 to 100; higher runs first" />
        ${seesAll() && html`<${Field} name="tenant" label="Tenant" placeholder="default" pattern="[\\w.@:+\\-]{1,100}" />`}
        <${Choice} name="channels" label="Channels" choices=${[["mix", "mixed into one"], ["split", "one speaker a channel"]]} />
      </div>
      <${Check} name="word_timestamps" label="Find out when each word is said" note="shows how certain each word is; takes a little longer" />
      <${Check} name="translate" label="Translate into English" />
      <div class="choices"><${Button} icon="undo" onClick=${() => { options.value = DEFAULTS; }}>Back to the usual<//></div>
    </form>`;
}

const names = (models) => (models?.data ?? []).map(({ id }) => id).filter((id) => id !== "whisper-1" && !id.startsWith("gpt-")).map((id) => [id, id]);
const set = (name, value) => {
  options.value = { ...options.value, [name]: value };
};

function Choice({ name, label, choices, note }) {
  return html`<label class="field"><span>${label}</span>
    <select name=${name} onChange=${(event) => set(name, event.target.value)}>
      ${choices.map(([value, text]) => html`<option key=${value} value=${value} selected=${options.value[name] === value}>${text}</option>`)}
    </select>
    ${note && html`<small>${note}</small>`}
  </label>`;
}

function Field({ name, label, note, ...rest }) {
  const typed = (event) => event.target.checkValidity() && set(name, event.target.value.trim());
  return html`<label class="field"><span>${label}</span><input name=${name} value=${options.value[name]} onChange=${typed} autocomplete="off" ...${rest} />${note && html`<small>${note}</small>`}</label>`;
}

function Check({ name, label, note }) {
  return html`<label class="check"><input type="checkbox" name=${name} checked=${options.value[name]} onChange=${(event) => set(name, event.target.checked)} /> ${label}${note && html` <small>${note}</small>`}</label>`;
}
