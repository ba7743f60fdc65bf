// What waits, by priority and by tenant.
import { html } from "../vendor/preact.js";
import { number } from "../format.js";
import { href } from "../router.js";

const MOST = 8;

export function Depth({ of }) {
  const { by_priority: priorities, by_tenant: tenants, others } = of.depth;
  return html`<section class="card" aria-labelledby="depth">
    <h2 id="depth">Waiting</h2>
    ${of.queued === 0 && html`<p class="thin">Nothing waits: the next task starts at once.</p>`}
    <${Bars} title="By priority" rows=${rows(priorities, "priority")} />
    <${Bars} title="By tenant" rows=${rows(tenants, "tenant")} others=${others} link=${(name) => href("tasks", { status: "queued", tenant: name })} />
  </section>`;
}

/** Only who waits: a tenant may be there for what runs. */
const rows = (depth, name) => depth.filter((one) => one.queued > 0).map((one) => [String(one[name]), one.queued]);

/** `others`: {tenants, queued} beyond the rows. */
function Bars({ title, rows: all, others = { tenants: 0, queued: 0 }, link }) {
  if (!all.length) return null;
  const most = Math.max(...all.map(([, value]) => value), 1);
  const beyond = all.slice(MOST);
  const rest = beyond.reduce((sum, [, value]) => sum + value, others.queued);
  return html`<table class="bars">
    <caption>${title}</caption>
    <tbody>
      ${all.slice(0, MOST).map(([name, value]) => html`<tr key=${name}>
        <th scope="row">${link ? html`<a href=${link(name)}>${name}</a>` : name}</th>
        <td class="bar"><i style=${{ width: `${(100 * value) / most}%` }}></i></td>
        <td class="num">${number(value)}</td>
      </tr>`)}
      ${rest > 0 && html`<tr><th scope="row">${number(beyond.length + others.tenants)} more</th><td></td><td class="num">${number(rest)}</td></tr>`}
    </tbody>
  </table>`;
}
