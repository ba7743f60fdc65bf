// The transcript of a task that runs, as it is written.
import { html, useEffect, useState } from "../vendor/preact.js";
import { of } from "../api.js";
import { Segments } from "./segments.js";

const TOGETHER_MS = 250; // what comes within is drawn at once

export function Heard({ task, audio }) {
  const [segments, set] = useState([]);
  useEffect(() => {
    const source = new EventSource(of(task.task_id, "events"));
    const heard = new Map(); // by the place in the transcript: a stream that comes back may repeat itself
    let timer = 0;
    source.addEventListener("segment", (event) => {
      heard.set(event.lastEventId, JSON.parse(event.data));
      timer ||= setTimeout(() => {
        timer = 0;
        set([...heard.values()]);
      }, TOGETHER_MS);
    });
    source.addEventListener("task", (event) => {
      if (JSON.parse(event.data).finished_at) source.close();
    });
    return () => {
      clearTimeout(timer);
      source.close();
    };
  }, [task.task_id]);
  return html`<h2 id="said">Transcript, so far</h2>
    ${segments.length ? html`<${Segments} segments=${segments} audio=${audio} sure=${true} searched="" />` : html`<p class="loading">Listening…</p>`}`;
}
