// The workers now, and the switch that stops handing out tasks.
import { html } from "../vendor/preact.js";
import { get, post } from "../api.js";
import { bytes, number, pace } from "../format.js";
import { useAnswer, useEvery } from "../hooks.js";
import { stats } from "../live.js";
import { taskHref } from "../router.js";
import { may } from "../session.js";
import { Answered, Button, Empty, Heading, Table, When } from "../parts/basics.js";
import { told } from "../parts/dialogs.js";

const AGAIN_SECONDS = 2;

export function Workers() {
  const workers = useAnswer((signal) => get("workers", {}, { signal }), []);
  useEvery(AGAIN_SECONDS, workers.reload);
  return html`<${Heading} actions=${may("admin") && html`<${Switch} />`}>Workers<//>
    <${Answered} of=${workers} what="The workers could not be loaded.">
      ${({ workers: all }) => all.length
        ? html`<${Table} label="Workers" columns=${[["Worker"], ["State"], ["Task"], ["Model"], ["Chunk", "num"], ["Speed", "num"], ["Memory", "num"], ["Tasks done", "num"], ["Restarts", "num"], ["Process", "num"]]}>
            ${all.map((worker) => html`<${Worker} key=${worker.id} of=${worker} />`)}
          <//>
          <p class="thin">Speed is seconds of audio in a second of work. A worker that crashes, hangs or grows too large is replaced; its chunk runs again.</p>`
        : html`<${Empty} title="No worker">Nothing is transcribed: set <code>workers.count</code> in the configuration.<//>`}
    <//>`;
}

function Worker({ of }) {
  return html`<tr>
    <th scope="row">${of.id}</th>
    <td><span class="state"><span class="dot ${of.state}"></span>${of.state}</span></td>
    <td>${of.task_id ? html`<a data-row href=${taskHref(of.task_id)}><code>…${of.task_id.slice(-8)}</code></a>` : "–"}</td>
    <td>${of.model ?? "–"}</td>
    <td class="num">${number(of.chunk)}</td>
    <td class="num">${pace(of.real_time_factor)}</td>
    <td class="num">${bytes(of.rss_bytes)}</td>
    <td class="num">${number(of.tasks_done)}</td>
    <td class="num">${number(of.restarts)}${of.last_restart && html`<p class="why">${of.last_restart.cause.replaceAll("_", " ")}, <${When} at=${of.last_restart.at} /></p>`}</td>
    <td class="num">${of.pid ?? "–"}</td>
  </tr>`;
}

function Switch() {
  const paused = stats.value?.paused;
  if (paused === undefined) return null;
  const turn = async () => {
    const went = await told(() => post(paused ? "admin/resume" : "admin/pause"), paused ? "Tasks are started again" : "Nothing more is started");
    if (went) stats.value = { ...stats.value, paused: went.paused };
  };
  return html`<${Button} icon=${paused ? "play" : "pause"} onClick=${turn}>${paused ? "Resume" : "Pause"}<//>`;
}
