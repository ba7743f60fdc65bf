// What is on its way, in a corner of every page: files, and then the tasks that they became.
import { html, useState } from "../vendor/preact.js";
import { bytes, count, percent } from "../format.js";
import { taskHref } from "../router.js";
import { may } from "../session.js";
import { again, forgetFinished, stop, uploads } from "../uploading.js";
import { Status } from "./basics.js";
import { icon } from "./icons.js";

export function Uploads() {
  const [folded, fold] = useState(false);
  const all = uploads.value;
  if (!all.length) return null;
  const busy = all.filter((one) => one.state === "waiting" || one.state === "sending").length;
  const title = busy ? `Sending ${count(busy, "file")}` : `${count(all.length, "file")} sent`;
  return html`<section class="uploads ${folded ? "folded" : ""}" aria-label="Uploads">
    <div class="top">
      <h2 role="status">${title}</h2>
      <button type="button" class="bare" aria-expanded=${!folded} onClick=${() => fold(!folded)}>${folded ? "Show" : "Fold"}</button>
      <button type="button" class="bare" onClick=${forgetFinished}>Clear</button>
    </div>
    ${!folded && html`<ul>${all.map((one) => html`<${Upload} key=${one.id} of=${one} />`)}</ul>`}
  </section>`;
}

function Upload({ of: one }) {
  return html`<li>
    <span class="name">${one.task && may("read") ? html`<a href=${taskHref(one.task.task_id)}>${one.name}</a>` : one.name}</span>
    <span class="state">${state(one)}</span>
    ${one.state === "sending" && html`<progress max="1" value=${one.sent} aria-label=${`${one.name} sent`}></progress>`}
    ${one.error && html`<p class="why">${one.error.message}</p>`}
  </li>`;
}

function state(one) {
  const button = (name, label, does) =>
    html`<button type="button" class="bare" aria-label=${`${label}: ${one.name}`} title=${label} onClick=${() => does(one.id)}>${icon(name)}</button>`;
  switch (one.state) {
    case "waiting":
      return html`${bytes(one.size)}, waits ${button("close", "Do not send", stop)}`;
    case "sending":
      return html`${percent(one.sent)} ${button("close", "Stop sending", stop)}`;
    case "sent":
      return html`<${Status} task=${one.task} />${one.task.status === "processing" && ` ${percent(one.task.progress)}`}`;
    case "refused":
      return html`<span class="status failed">${icon("failed")}refused</span> ${one.file && button("retry", "Send again", again)}`;
    default:
      return html`stopped ${one.file && button("retry", "Send again", again)}`;
  }
}
