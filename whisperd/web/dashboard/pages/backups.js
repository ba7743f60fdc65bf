// The backups that there are, and one more.
import { html, useState } from "../vendor/preact.js";
import { get, post } from "../api.js";
import { bytes, count, number, span } from "../format.js";
import { useAnswer } from "../hooks.js";
import { Answered, Button, Empty, Heading, Table, When } from "../parts/basics.js";
import { told } from "../parts/dialogs.js";
import { icon } from "../parts/icons.js";

export function Backups() {
  const backups = useAnswer((signal) => get("admin/backups", {}, { signal }), []);
  const [busy, work] = useState(false);
  const backUp = async () => {
    work(true);
    await told(() => post("admin/backup"), (made) => `Backed up ${count(made.tasks, "task")} in ${span(made.seconds)}, and checked`);
    work(false);
    backups.reload();
  };
  return html`<${Heading} actions=${html`<${Button} kind="primary" icon="backups" busy=${busy} onClick=${backUp}>Back up now<//>`}>Backups<//>
    <${Answered} of=${backups} what="The backups could not be listed.">
      ${({ backups: all, elsewhere }) => all.length
        ? html`<${Table} label="Backups" columns=${[["Taken"], ["Checked"], ["Tasks", "num"], ["Size", "num"], ["Why"], ["File"]]}>
            ${all.map((one) => html`<${Backup} key=${one.name} of=${one} />`)}
          <//>
          <p class="thin">To go back to one, stop the daemon and run <code>whisperd restore FILE</code>.</p>
          ${elsewhere && html`<${Elsewhere} of=${elsewhere} />`}`
        : html`<${Empty} title="No backup yet">The daemon takes one by itself every few minutes, or now: “Back up now”.<//>`}
    <//>`;
}

function Elsewhere({ of }) {
  const last = of.last ? html`the last one, <code>${of.last}</code>, <${When} at=${of.last_at} />` : "none since the start";
  return html`<p class="thin">Copies elsewhere: ${last}${of.behind ? "; a newer backup is still to be copied" : ""}.</p>
    ${of.error && (of.last_at ?? "") < of.error_at && html`<p class="why">${of.error}</p>`}`;
}

function Backup({ of }) {
  return html`<tr>
    <th scope="row"><${When} at=${of.taken_at} /></th>
    <td><span class="status ${of.verified ? "completed" : "failed"}">${icon(of.verified ? "completed" : "failed")}${of.verified ? "whole" : "broken"}</span>${of.problem && html`<p class="why">${of.problem}</p>`}</td>
    <td class="num">${number(of.tasks)}</td>
    <td class="num">${bytes(of.bytes)}</td>
    <td>${of.reason ?? "–"}${of.restored ? ", restored" : ""}</td>
    <td><code>${of.name}</code></td>
  </tr>`;
}
