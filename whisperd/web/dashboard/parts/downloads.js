// The transcript in every format, as real links.
import { html } from "../vendor/preact.js";
import { of, withQuery } from "../api.js";

const FORMATS = [["text", "Text", "txt"], ["srt", "SRT", "srt"], ["vtt", "WebVTT", "vtt"], ["tsv", "TSV", "tsv"], ["json", "JSON", "json"], ["verbose_json", "Verbose JSON", "verbose.json"]];

export function Downloads({ task, redacted }) {
  const stem = task.audio.name.replace(/\.[^.]{1,5}$/, "");
  return html`<p class="downloads"><span>Download</span>
    ${FORMATS.map(([format, name, ending]) => html`<a key=${format} class="button small" href=${withQuery(of(task.task_id, "result"), { format, redacted })} download=${`${stem}.${ending}`}>${name}</a>`)}
    ${task.audio_kept !== false && html`<a class="button small" href=${withQuery(of(task.task_id, "audio"), { redacted })} download=${task.audio.name}>Audio</a>`}
  </p>`;
}
