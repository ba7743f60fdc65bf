// The same for many tasks: those that were chosen, or all that fit the filters.
import { html, useState } from "../vendor/preact.js";
import { post } from "../api.js";
import { count, number } from "../format.js";
import { may } from "../session.js";
import { isOver, runsAgain } from "../states.js";
import { Button } from "./basics.js";
import { confirmed, say, told } from "./dialogs.js";

const DONE = { retry: "queued again", cancel: "cancelled" };

/** `tasks`: those that were chosen. Offered is what some of them can be done, and done to those. */
export function BulkBar({ tasks, clear, done }) {
  if (!tasks.length) return null;
  const [broken, open] = [tasks.filter(runsAgain), tasks.filter((task) => !isOver(task))];
  const act = async (action, some) => {
    await told(() => post("tasks/bulk", { action, task_ids: some.map((task) => task.task_id) }), (went) => outcome(went, action));
    clear();
    done();
  };
  const cancel = async () => {
    const title = `Cancel ${count(open.length, "task")}?`;
    const text = "What runs is stopped, what waits leaves the line.";
    if (await confirmed({ title, text, yes: "Cancel them", danger: true })) await act("cancel", open);
  };
  return html`<div class="bulk" role="toolbar" aria-label="Selected tasks">
    <strong role="status">${count(tasks.length, "task")} selected</strong>
    ${broken.length > 0 && html`<${Button} icon="retry" onClick=${() => act("retry", broken)}>Retry ${number(broken.length)}<//>`}
    ${open.length > 0 && html`<${Button} icon="cancelled" onClick=${cancel}>Cancel ${number(open.length)}<//>`}
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
  if (!WHOLE[wanted.status] || !may("submit")) return null;
  const [action, label] = WHOLE[wanted.status];
  const { tenant, q } = wanted;
  const filter = { status: [wanted.status], ...(tenant && { tenant }), ...(q && { q }) };
  const sweep = async () => {
    const text = `On all pages of this list${tenant && `, of the tenant ${tenant}`}${q && `, of those found for “${q}”`}.`;
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
