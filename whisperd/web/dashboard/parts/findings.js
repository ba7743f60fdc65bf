// What rules found in what was said, and what they missed: each finding leads to its place in the audio.
import { html, useState } from "../vendor/preact.js";
import { get, of } from "../api.js";
import { clock, count } from "../format.js";
import { useAnswer, useChanges } from "../hooks.js";
import { may } from "../session.js";
import { Button, Failure } from "./basics.js";
import { icon } from "./icons.js";
import { playFrom } from "./player.js";

const WORDS = { pii: "personal data", self_harm: "self-harm" }; // of a category, where its name is none
const SERIOUS = new Set(["high", "critical"]);
const AT_ONCE = 100; // more are drawn when they are asked for

/** What was found in this task's transcript, or by it: null until `isThere`. `redacted`: quoting nothing of it. */
export function useFindings(task, isThere, redacted) {
  const findings = useAnswer((signal) => (isThere ? get(of(task.task_id, "risk"), { redacted }, { signal }) : Promise.resolve(null)), [task.task_id, isThere, redacted], null);
  useChanges((heard) => heard.transcript_task_id === task.task_id && heard.finished_at && findings.reload(), findings.reload);
  return findings;
}

/** Nothing at all where nobody looked. `audio`: what plays, null where nothing does; `children`: beside the heading. */
export function Findings({ of: { data: found, error, reload }, audio, children }) {
  if (!found && !error) return null;
  return html`<section class="card risk" aria-labelledby="risk">
    <div class="heading"><h2 id="risk">Risk ${found?.risk.level && html`<${Level} of=${found} />`}</h2>${children}</div>
    ${error && html`<${Failure} error=${error} retry=${reload} what="The findings could not be loaded." />`}
    ${found && html`<${Found} of=${found} audio=${audio} />`}
  </section>`;
}

/** Offered where it can work: it is known what is to be redacted, and all of it may be shown. */
export function Redaction({ task, found, redacted, turn }) {
  if (!found?.redactable || (task.redact && !may("submit"))) return null;
  return html`<label class="check"><input type="checkbox" role="switch" checked=${redacted} onChange=${(event) => turn(event.target.checked)} /> Redacted</label>`;
}

/** In place of what is not to be shown as it was said. */
export function Withheld({ turn }) {
  return html`<section class="card" aria-label="Not shown yet">
    <p>It is to be redacted, and is shown as soon as rules have looked through all of it, as it is now.</p>
    ${may("submit") && html`<div class="actions"><${Button} onClick=${() => turn(false)}>Show all that is said<//></div>`}
  </section>`;
}

function Level({ of: { risk, findings, missing } }) {
  const unsaid = missing.length > 0 ? `, ${missing.length} not said` : "";
  return html`<${Severity} of=${risk.level} /> <small>score ${risk.score.toFixed(2)}, ${count(findings.length, "finding")}${unsaid}</small>`;
}

function Found({ of: { findings, missing, rules_errors: errors }, audio }) {
  const [shown, show] = useState(AT_ONCE);
  const all = [...findings, ...missing];
  return html`${errors.length > 0 && html`<p class="notice">${icon("failed")}<span>Not everything was looked for: ${errors.join("; ")}.</span></p>`}
    ${all.length ? html`<ol class="findings" aria-label="Findings" tabindex="0">${all.slice(0, shown).map((one) => html`<li key=${one.id ?? one.rule_id}><${Finding} of=${one} audio=${audio} /></li>`)}</ol>`
      : html`<p class="thin">No rule found anything. Rules spot words; they are no judgement.</p>`}
    ${all.length > shown && html`<p><${Button} onClick=${() => show(shown + AT_ONCE)}>Show the next ${Math.min(AT_ONCE, all.length - shown)} of ${all.length}<//></p>`}`;
}

/** One that was said, or with a `window` what was not said in it. */
function Finding({ of: { title, category, severity, speaker, text, start = null, window }, audio }) {
  const content = html`<span class="at">${clock(start)}</span>
    <${Severity} of=${severity} />
    <span class="what"><strong>${title}</strong> <small>${[WORDS[category] ?? category, speaker].filter(Boolean).join(", ")}</small>
      ${window ? html`<span>Not said from ${clock(window.start)} to ${clock(window.end)}.</span>` : html`<q>${text}</q>`}</span>`;
  if (start === null || !audio) return html`<div class="finding">${content}</div>`;
  return html`<button type="button" class="finding" onClick=${() => playFrom(audio, start)}>${content}</button>`;
}

/** In a word and by a shape, never by its colour alone. */
function Severity({ of: severity }) {
  return html`<span class="severity ${severity}">${icon(SERIOUS.has(severity) ? "failed" : "flag")}${severity}</span>`;
}
