// The same for many tasks: those that were chosen, or all that fit the filters.
import { html, useState } from "../vendor/preact.js";
import { post } from "../api.js";
import { count } from "../format.js";
import { may } from "../session.js";
import { Button } from "./basics.js";
import { confirmed, say, told } from "./dialogs.js";

const DONE = { retry: "queued again", cancel: "cancelled" };

export function BulkBar({ chosen, clear, done }) {
  if (!chosen.size) return null;
  const act = async (action) => {
    await told(() => post("tasks/bulk", { action, task_ids: [...chosen] }), (went) => outcome(went, action));
    clear();
    done();
  };
  const cancel = async () => {
    const title = `Cancel ${count(chosen.size, "task")}?`;
    const text = "What runs is stopped, what waits leaves the line. Tasks that are over stay as they are.";
    if (await confirmed({ title, text, yes: "Cancel them", danger: true })) await act("cancel");
  };
  return html`<div class="bulk" role="toolbar" aria-label="Selected tasks">
    <strong>${count(chosen.size, "task")} selected</strong>
    <${Button} icon="retry" onClick=${() => act("retry")}>Retry<//>
    <${Button} icon="cancelled" onClick=${cancel}>Cancel<//>
    <${Button} onClick=${clear}>Select none<//>
  </div>`;
}

const WHOLE = {
  failed: ["retry", "Retry all that failed"],
  cancelled: ["retry", "Retry all that were cancelled"],
  queued: ["cancel", "Cancel all that wait"],
};

/** Of a list of one status: all of them, however many pages that is. */
export function Sweeping({ wanted, done }) {
  const [busy, work] = useState(false);
  if (!WHOLE[wanted.status] || wanted.q || !may("submit")) return null;
  const [action, label] = WHOLE[wanted.status];
  const filter = { status: [wanted.status], ...(wanted.tenant ? { tenant: wanted.tenant } : {}) };
  const sweep = async () => {
    const text = wanted.tenant ? `Of the tenant ${wanted.tenant}, on all pages of this list.` : "On all pages of this list.";
    if (!(await confirmed({ title: `${label}?`, text, yes: label, danger: action === "cancel" }))) return;
    work(true);
    await told(() => all(action, filter), (went) => outcome(went, action));
    work(false);
    done();
  };
  return html`<p class="sweeping"><${Button} icon=${action === "retry" ? "retry" : "cancelled"} busy=${busy} onClick=${sweep}>${label}<//></p>`;
}

/** The daemon takes so many in one go, and says where to go on. */
async function all(action, filter) {
  const sum = { done: 0, refused_count: 0 };
  let cursor;
  do {
    const went = await post("tasks/bulk", { action, filter, cursor });
    sum.done += went.done;
    sum.refused_count += went.refused_count;
    cursor = went.next_cursor;
  } while (cursor);
  return sum;
}

function outcome({ done, refused_count: refused }, action) {
  if (refused) say(`${count(refused, "task")} could not be: in another state, or the audio is gone`, "bad");
  return done ? `${count(done, "task")} ${DONE[action]}` : "";
}
