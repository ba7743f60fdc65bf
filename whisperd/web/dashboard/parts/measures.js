// What the charts show, of statistics at several moments: those that the daemon has kept, or those that this
// page has seen since it was opened.
import { html } from "../vendor/preact.js";
import { bytes, number, rough, span, speed } from "../format.js";
import { Chart } from "./chart.js";

const DOUBLES = Array.from({ length: 44 }, (_, n) => 2 ** n); // for bytes

export function Measures({ samples }) {
  const times = samples.map((one) => one.at);
  const of = (name) => samples.map((one) => one[name] ?? null);
  const last = samples[samples.length - 1] ?? {};
  const first = (label, name) => ({ label, values: of(name), colour: "--accent", filled: true });
  const second = (label, name) => ({ label, values: of(name), colour: "--second", dash: [4, 3], mark: "second" });
  const hasGpu = samples.some((one) => one.gpu_bytes > 0);
  return html`<div class="charts">
    <${Chart} title="Tasks" value=${`${number(last.queued)} queued`} times=${times} write=${rough} top=${4} lines=${[first("queued", "queued"), second("processing", "processing")]} />
    <${Chart} title="Throughput" value=${`${speed(last.audio_seconds_per_second)} real time`} times=${times} write=${rough} top=${1} lines=${[first("audio seconds a second", "audio_seconds_per_second")]} />
    <${Chart} title="Tasks a minute" value=${number(last.tasks_per_minute)} times=${times} write=${rough} top=${4} lines=${[first("tasks a minute", "tasks_per_minute")]} />
    <${Chart} title="Wait until the start" value=${span(last.wait_p50)} times=${times} write=${span} top=${1} lines=${[first("median", "wait_p50"), second("95 %", "wait_p95")]} />
    <${Chart} title="Speed of a worker" value=${speed(last.speed)} times=${times} write=${(x) => `${rough(x)}×`} top=${1} lines=${[first("times real time", "speed")]} />
    <${Chart} title="Memory" value=${bytes(last.rss_bytes)} times=${times} write=${bytes} steps=${DOUBLES} top=${2 ** 28} lines=${[first("memory", "rss_bytes")]} />
    ${hasGpu && html`<${Chart} title="Memory of the GPU" value=${bytes(last.gpu_bytes)} times=${times} write=${bytes} steps=${DOUBLES} top=${2 ** 30} lines=${[first("GPU memory", "gpu_bytes")]} />`}
  </div>`;
}
