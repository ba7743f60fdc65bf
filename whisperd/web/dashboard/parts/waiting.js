// Why a task waits: what is before it, what keeps it, and when it is thought to be its turn.
import { html } from "../vendor/preact.js";
import { get, of } from "../api.js";
import { count, number, place, sentence, span } from "../format.js";
import { useAnswer, useEvery } from "../hooks.js";
import { Answered, Facts } from "./basics.js";

const AGAIN_SECONDS = 5; // what others do moves it on, and no event of its own tells

// For who looks at a page, where the daemon names calls.
const OURS = {
  paused: "Nothing is handed out until somebody resumes.",
  no_worker: "No worker is up; the overview says more.",
};

export function Waiting({ task }) {
  const why = useAnswer((signal) => get(of(task.task_id, "explain"), {}, { signal }), [task.task_id, task.attempt, task.priority, task.run_at]);
  useEvery(AGAIN_SECONDS, why.reload);
  return html`<section class="card" aria-labelledby="waits"><h2 id="waits">Why it waits</h2>
    <${Answered} of=${why} what="Why it waits could not be found out.">
      ${({ position, reasons, ahead, tenant, starts_in_seconds: starts, eta_seconds: done }) => html`
        <ul class="reasons">${reasons.map(({ code, message }) => html`<li key=${code}>${OURS[code] ?? sentence(message)}</li>`)}</ul>
        <${Facts} rows=${[
          ["In line", position && place(position)],
          ["Ahead", ahead && before(ahead)],
          ["Tenant", tenant?.limit && `${number(tenant.running)} of ${number(tenant.limit)} at work`],
          ["Begins", starts && likely(starts)],
          ["Done", done && likely(done)],
        ]} />`}
    <//>
  </section>`;
}

/** "7: 2 of priority 10, 5 of its own". */
function before({ tasks, by_priority: higher }) {
  if (!tasks) return "none";
  const some = Object.entries(higher).sort(([a], [b]) => b - a);
  const own = tasks - some.reduce((sum, [, n]) => sum + n, 0);
  const parts = some.map(([priority, n]) => `${number(n)} of priority ${priority}`);
  if (own > 0) parts.push(`${number(own)} of its own`);
  return `${count(tasks, "task")}: ${parts.join(", ")}`;
}

function likely({ p50, p90 }) {
  const soon = p50 < 1 ? "at any moment" : `in about ${span(p50)}`;
  return p90 > p50 * 1.2 + 1 ? `${soon}; in ${span(p90)} if all goes slowly` : soon;
}
