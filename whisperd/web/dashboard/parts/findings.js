// What a check of the text for risks found, where there was one.
import { html } from "../vendor/preact.js";
import { clock } from "../format.js";

export function Findings({ of: task }) {
  const findings = task.risk?.findings ?? task.risk?.matches ?? [];
  if (!findings.length) return null;
  return html`<section class="card" aria-labelledby="risk"><h2 id="risk">Risk findings</h2>
    <ul class="findings">${findings.map((one, n) => html`<li key=${n}><b>${one.category ?? one.rule}</b> ${one.start !== undefined && html`<span class="thin">${clock(one.start)}</span>`} ${one.text ?? one.match ?? ""}</li>`)}</ul>
  </section>`;
}
