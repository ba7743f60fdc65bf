// Who may come in: make a key, which is shown once, and take one back.
import { html, useRef, useState } from "../vendor/preact.js";
import { ask, get, post } from "../api.js";
import { useAnswer } from "../hooks.js";
import { look, session } from "../session.js";
import { Answered, Button, Empty, Heading, Table, When } from "../parts/basics.js";
import { confirmed, Modal, say, told } from "../parts/dialogs.js";

const SCOPES = [["submit", "submit, change and cancel tasks"], ["read", "see tasks and transcripts"], ["admin", "everything, of all tenants"]];

export function Keys() {
  const keys = useAnswer((signal) => get("admin/keys", {}, { signal }), []);
  const [making, make] = useState(false);
  const [secret, show] = useState(null);
  return html`<${Heading} actions=${html`<${Button} kind="primary" icon="keys" onClick=${() => make(true)}>New key<//>`}>Keys<//>
    <${Answered} of=${keys} what="The keys could not be loaded.">
      ${({ keys: all }) => all.length
        ? html`<${Table} label="Keys" columns=${[["Name"], ["Tenant"], ["Plan"], ["Scopes"], ["State"], ["Made"], ["Expires"], ["", "end"]]}>
            ${all.map((key) => html`<${Row} key=${key.id} of=${key} done=${keys.reload} />`)}
          <//>`
        : html`<${Empty} title="No keys">Without keys only programs on this machine are served, and all of them may do everything. With the first key each of them needs one, and so does this page.<//>`}
    <//>
    ${making && html`<${Maker} close=${() => make(false)} made=${(key) => { make(false); show(key); keys.reload(); }} />`}
    ${secret && html`<${Secret} of=${secret} close=${() => { show(null); look(); }} />`}`;
}

function Row({ of, done }) {
  const revoke = async () => {
    const text = "Whoever uses it is refused from now on; this cannot be taken back.";
    if (!(await confirmed({ title: `Revoke the key ${of.name || of.id}?`, text, yes: "Revoke it", danger: true }))) return;
    await told(() => ask("DELETE", `admin/keys/${encodeURIComponent(of.id)}`), `The key ${of.name || of.id} does not hold any more`);
    done();
    look();
  };
  return html`<tr>
    <th scope="row">${of.name || html`<code>${of.id}</code>`}</th>
    <td>${of.tenant === "*" ? "all" : of.tenant}</td>
    <td>${of.plan ?? "–"}</td>
    <td>${of.scopes.join(", ")}</td>
    <td>${of.status}</td>
    <td><${When} at=${of.created_at} /></td>
    <td>${of.expires_at ? html`<${When} at=${of.expires_at} />` : "never"}</td>
    <td class="end">${of.status === "active" && html`<${Button} onClick=${revoke}>Revoke<//>`}</td>
  </tr>`;
}

function Maker({ close, made }) {
  const form = useRef();
  const [error, fail] = useState(null);
  const isFirst = !session.value.required;
  const submit = async (event) => {
    event.preventDefault();
    const data = new FormData(form.current);
    const days = Number(data.get("days"));
    const scopes = isFirst ? ["admin"] : data.getAll("scopes");
    const wanted = { name: data.get("name").trim(), tenant: data.get("tenant").trim(), plan: data.get("plan"), scopes };
    if (!scopes.length) return fail("Choose what the key may do.");
    if (days > 0) wanted.expires_at = new Date(Date.now() + days * 86_400_000).toISOString();
    try {
      return made(await post("admin/keys", wanted));
    } catch (refusal) {
      return fail(refusal.message);
    }
  };
  return html`<${Modal} title="New key" close=${close}>
    <form ref=${form} onSubmit=${submit}>
      ${isFirst && html`<p class="notice warn">With the first key everybody needs one, this page too. So it is an admin’s, who may do everything, and has no end: keep it well.</p>`}
      <div class="fields">
        <label class="field"><span>Name</span><input name="name" maxlength="200" placeholder="for whom or what" autocomplete="off" /></label>
        <label class="field"><span>Tenant</span><input name="tenant" value="default" required pattern="[\\w.@:+\\-]{1,100}|\\*" autocomplete="off" /><small>* for all tenants</small></label>
        <label class="field"><span>Plan</span><select name="plan"><option>FREE</option><option>PRO</option><option>PAYG</option></select></label>
        ${!isFirst && html`<label class="field"><span>Days it holds</span><input name="days" type="number" min="1" max="3650" placeholder="for ever" /></label>`}
      </div>
      ${!isFirst && html`<fieldset><legend>It may</legend>
        ${SCOPES.map(([scope, about]) => html`<label class="check" key=${scope}><input type="checkbox" name="scopes" value=${scope} checked=${scope !== "admin"} /> ${scope} <small>${about}</small></label>`)}
      </fieldset>`}
      ${error && html`<p class="why" role="alert">${error}</p>`}
      <div class="choices"><${Button} onClick=${close}>Make none<//><${Button} type="submit" kind="primary">Make the key<//></div>
    </form>
  <//>`;
}

function Secret({ of, close }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(of.key);
      say("Copied");
    } catch {
      say("This browser does not let a page copy: select the key and copy it yourself", "bad");
    }
  };
  return html`<${Modal} title="Keep this key">
    <p>It is shown this once: the daemon itself keeps only a hash of it.</p>
    <p class="secret"><code>${of.key}</code></p>
    <div class="choices"><${Button} icon="copy" onClick=${copy}>Copy<//><${Button} kind="primary" onClick=${close}>I have kept it<//></div>
  <//>`;
}
