// The list of tasks: a page of them at a time, whatever their number. It stays still under the pointer: what
// is shown changes in place, and what is new waits above until it is asked for.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/preact.js";
import { foresee, get } from "../api.js";
import { count, number, rough } from "../format.js";
import { useAnswer, useChanges, usePainted } from "../hooks.js";
import { stats } from "../live.js";
import { go, href } from "../router.js";
import { remember } from "../seen.js";
import { may, seesAll } from "../session.js";
import { STATES } from "../states.js";
import { Answered, Button, Empty, Heading } from "../parts/basics.js";
import { BulkBar, Sweeping } from "../parts/bulk.js";
import { icon } from "../parts/icons.js";
import { Row } from "../parts/row.js";

const LIMIT = 50;
const TYPING_MS = 250;
const ROW = 40; // pixels of a row, at least
const MORE = 20; // and of its second line
const ABOVE = 165; // pixels above the first row, at least

export function Tasks({ query }) {
  const wanted = wants(query);
  const key = JSON.stringify(wanted);
  const page = useAnswer((signal) => load(wanted, key, signal), [key]);
  const [chosen, choose] = useState(new Set());
  const [arrived, arrive] = useState(0);
  const still = useRef(false); // the pointer or the focus is in the table
  useEffect(() => {
    choose((old) => (old.size ? new Set() : old)); // the same one if it can be: else all rows are made anew
    arrive(0);
  }, [key]);
  useLayoutEffect(() => remember(page.data?.tasks ?? []), [page.data]);

  function refresh() {
    arrive(0);
    page.reload();
  }
  useChanges((heard) => {
    const known = page.data?.tasks.some((task) => task.task_id === heard.task_id);
    if (known) page.change((data) => ({ ...data, tasks: data.tasks.map((task) => (task.task_id === heard.task_id ? changed(task, heard) : task)) }));
    else if (heard.status && belongs(heard, wanted)) {
      if (still.current || chosen.size || arrived) arrive((n) => n + 1);
      else page.change((data) => ({ ...data, tasks: [heard, ...data.tasks].slice(0, LIMIT) }));
    }
  }, refresh);

  const hold = { onMouseEnter: () => { still.current = true; }, onMouseLeave: () => { still.current = false; }, onFocusIn: () => { still.current = true; }, onFocusOut: () => { still.current = false; } };
  return html`<${Heading}>Tasks<//>
    <${Filters} wanted=${wanted} />
    <${Sweeping} wanted=${wanted} done=${refresh} />
    ${arrived > 0 && html`<p class="arrived"><${Button} onClick=${refresh} icon="retry">Show ${count(arrived, "new task")}<//></p>`}
    <${Answered} of=${page} what="The tasks could not be loaded.">
      ${({ tasks, next_cursor: cursor, of, searched }) => tasks.length
        ? html`<div ...${hold}><${List} of=${of} tasks=${tasks} chosen=${chosen} choose=${choose} searched=${searched} /></div>
            <${Paging} wanted=${wanted} cursor=${cursor} shown=${tasks.length} />`
        : html`<${None} wanted=${wanted} /><${Paging} wanted=${wanted} cursor=${cursor} shown=${0} />`}
    <//>
    <${BulkBar} tasks=${(page.data?.tasks ?? []).filter((task) => chosen.has(task.task_id))} clear=${() => choose(new Set())} done=${refresh} />`;
}

Tasks.ahead = ({ query }) => foresee("tasks", { ...wants(query), limit: LIMIT });

function wants(query) {
  const said = (name) => query.get(name) ?? "";
  return { status: said("status"), tenant: said("tenant"), q: said("q"), cursor: said("cursor") };
}

/** A page, what it is `of`, and what was searched for. */
async function load(wanted, key, signal) {
  return { ...(await get("tasks", { ...wanted, limit: LIMIT }, { signal })), of: key, searched: wanted.q };
}

/** Events know neither the place in line nor what was searched for. */
function changed(task, heard) {
  const { position, eta_seconds: eta } = heard.status === "queued" ? task : {};
  return { ...task, ...heard, match: task.match, position, eta_seconds: eta };
}

/** Whether a new task would stand on top of this page. */
function belongs(task, { status, tenant, q, cursor }) {
  return task.status === "queued" && !q && !cursor && (!status || status === "queued") && (!tenant || tenant === task.tenant);
}

function Filters({ wanted }) {
  const [typed, type] = useState(wanted.q);
  const timer = useRef();
  const set = (changes) => go("tasks", { ...wanted, cursor: "", ...changes }, { replace: true });
  const typing = (event) => {
    const text = event.target.value;
    type(text);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => set({ q: text.trim() }), TYPING_MS);
  };
  useEffect(() => type(wanted.q), [wanted.q]);
  useEffect(() => () => clearTimeout(timer.current), []); // who has gone on is not called back
  return html`<form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
    <label class="search"><span class="hidden">Search in names and transcripts</span>${icon("search")}
      <input id="search" type="search" placeholder="Search names and transcripts" value=${typed} onInput=${typing} autocomplete="off" spellcheck="false" />
      <kbd aria-hidden="true">/</kbd>
    </label>
    <fieldset class="states"><legend class="hidden">Status</legend>
      ${["", ...STATES].map((state) => html`<label key=${state} class=${wanted.status === state ? "on" : ""}>
        <input type="radio" name="status" value=${state} checked=${wanted.status === state} onChange=${() => set({ status: state })} />
        <span>${state || "all"}${state && stats.value && html` <small>${rough(stats.value[state])}</small>`}</span>
      </label>`)}
    </fieldset>
    ${seesAll() && html`<${Tenant} key=${wanted.tenant} chosen=${wanted.tenant} set=${set} />`}
  </form>`;
}

function Tenant({ chosen, set }) {
  const [asked, ask] = useState(false); // there may be hundreds: they are written once somebody chooses
  const names = asked ? (stats.value?.depth?.by_tenant ?? []).map((one) => one.tenant) : [];
  return html`<label class="tenant"><span class="hidden">Tenant</span>
    <input list="tenants" placeholder="Any tenant" value=${chosen} onFocus=${() => ask(true)} onChange=${(event) => set({ tenant: event.target.value.trim() })} autocomplete="off" spellcheck="false" />
    <datalist id="tenants">${names.map((name) => html`<option key=${name} value=${name} />`)}</datalist>
  </label>`;
}

function List({ of, tasks, chosen, choose, searched }) {
  const shown = usePainted(of) ? tasks : inSight(tasks);
  const all = tasks.every((task) => chosen.has(task.task_id));
  const some = !all && tasks.some((task) => chosen.has(task.task_id));
  const toggle = (id) => {
    const next = new Set(chosen);
    if (!next.delete(id)) next.add(id);
    choose(next);
  };
  const box = useRef();
  useEffect(() => {
    if (box.current) box.current.indeterminate = some;
  });
  const selectable = may("submit");
  const rows = useMemo(
    () => shown.map((task) => html`<${Row} key=${task.task_id} task=${task} chosen=${chosen.has(task.task_id)} toggle=${selectable && toggle} searched=${searched} />`),
    [tasks, shown.length, chosen, selectable, searched],
  );
  return html`<div class="scroller" role="region" aria-label="Tasks" tabindex="0"><table class="tasks">
    <thead><tr>
      ${selectable && html`<th class="pick"><input type="checkbox" ref=${box} checked=${all} aria-label="Select all on this page" onChange=${() => choose(all ? new Set() : new Set(tasks.map((task) => task.task_id)))} /></th>`}
      <th scope="col">Status</th><th scope="col">Audio</th>${seesAll() && html`<th scope="col" class="wide">Tenant</th>`}
      <th scope="col" class="wide">Model</th><th scope="col" class="num wide">Length</th><th scope="col" class="num wide">Priority</th><th scope="col" class="num">Submitted</th>
    </tr></thead>
    <tbody key=${of}>${rows}</tbody>
  </table></div>`;
}

/** Those whose rows can be in sight without scrolling. */
function inSight(tasks) {
  let room = innerHeight - ABOVE;
  const fits = (task) => {
    const isThere = room > 0;
    room -= ROW + (task.position || task.error || task.match ? MORE : 0);
    return isThere;
  };
  return tasks.filter(fits);
}

function Paging({ wanted, cursor, shown }) {
  if (!cursor && !wanted.cursor) return shown > 0 && html`<p class="thin paging"><span>${count(shown, "task")}, no more.</span></p>`;
  return html`<nav class="paging" aria-label="Pages of the list">
    ${wanted.cursor ? html`<a class="button" href=${href("tasks", { ...wanted, cursor: "" })}>${icon("back")}<span>Newest</span></a>` : html`<span></span>`}
    <span class="thin">${number(shown)} shown</span>
    ${cursor ? html`<a class="button" href=${href("tasks", { ...wanted, cursor })}><span>Older</span>${icon("next")}</a>` : html`<span class="thin">No older ones</span>`}
  </nav>`;
}

function None({ wanted }) {
  const filtered = wanted.q || wanted.status || wanted.tenant || wanted.cursor;
  if (!filtered) {
    return html`<${Empty} title="No task yet">Drop a file anywhere on this page, or ${may("submit") ? html`<a href=${href("submit")}>submit one</a>` : "submit one"}.<//>`;
  }
  return html`<${Empty} title=${wanted.q ? `Nothing found for “${wanted.q}”` : "No such task"}>
    ${wanted.q ? "Names of files, ids and words of transcripts are searched. Try fewer or other words, or " : "Nothing is kept that fits these filters: "}
    <a href=${href("tasks")}>show all tasks</a>.
  <//>`;
}
