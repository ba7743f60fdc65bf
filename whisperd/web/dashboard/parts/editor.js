// Puts a transcript right, sentence by sentence. Nothing is changed until it is saved; the original is kept.
import { html, useEffect, useState } from "../vendor/preact.js";
import { ask, of } from "../api.js";
import { clock } from "../format.js";
import { Button } from "./basics.js";
import { confirmed, told } from "./dialogs.js";
import { playFrom } from "./player.js";

export function Editor({ task, transcript, audio, close }) {
  const [texts, set] = useState(transcript.segments.map((segment) => segment.text));
  const [past, remember] = useState([]); // [place, what stood there]
  const [busy, work] = useState(false);
  const changed = texts.some((text, n) => text !== transcript.segments[n].text);
  const put = (n, text) => set((old) => old.map((one, at) => (at === n ? text : one)));
  const write = (n, text) => {
    const [last] = past.slice(-1);
    if (last?.[0] !== n) remember([...past, [n, texts[n]]]);
    put(n, text);
  };
  const undo = () => {
    const [n, text] = past[past.length - 1];
    remember(past.slice(0, -1));
    put(n, text);
    document.getElementById(`segment-${n}`)?.focus();
  };
  useEffect(() => document.getElementById("segment-0")?.focus(), []);
  useEffect(() => {
    const warn = (event) => changed && event.preventDefault();
    addEventListener("beforeunload", warn);
    return () => removeEventListener("beforeunload", warn);
  }, [changed]);

  const save = async () => {
    work(true);
    const lines = transcript.segments.map(({ start, end, speaker }, n) => ({ start, end, text: texts[n].trim(), speaker }));
    const segments = lines.filter((line) => line.text); // what is emptied is left out
    const saved = await told(() => ask("PUT", of(task.task_id, "result"), { body: { segments }, headers: { "If-Match": transcript.tag } }), "Saved");
    work(false);
    if (saved) close(true);
  };
  const restore = async () => {
    const text = "Everything that was put right by hand is thrown away; what the model heard comes back.";
    if (!(await confirmed({ title: "Back to the original?", text, yes: "Back to the original", danger: true }))) return;
    if (await told(() => ask("DELETE", of(task.task_id, "result"), { headers: { "If-Match": transcript.tag } }), "It is the original again")) close(true);
  };
  const leave = async () => {
    if (!changed || (await confirmed({ title: "Throw the changes away?", text: "They are not saved yet.", yes: "Throw them away", danger: true }))) close(false);
  };
  return html`<form class="editor" onSubmit=${(event) => { event.preventDefault(); save(); }}>
    <ol>${transcript.segments.map((segment, n) => html`<li key=${n}>
      <button type="button" class="at" onClick=${() => playFrom(audio, segment.start)} aria-label=${`Play from ${clock(segment.start)}`}>${clock(segment.start)}</button>
      <textarea id=${`segment-${n}`} rows=${1 + Math.floor(texts[n].length / 70)} value=${texts[n]} aria-label=${`Text at ${clock(segment.start)}`} onInput=${(event) => write(n, event.target.value)}></textarea>
    </li>`)}</ol>
    <div class="choices">
      ${transcript.edited && html`<${Button} onClick=${restore}>Back to the original<//>`}
      <${Button} icon="undo" disabled=${!past.length} onClick=${undo}>Undo<//>
      <${Button} onClick=${leave}>Leave<//>
      <${Button} type="submit" kind="primary" busy=${busy} disabled=${!changed}>Save<//>
    </div>
  </form>`;
}
