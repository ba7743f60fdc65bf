// With keys, a key opens the dashboard: once, for a session that this browser keeps in a cookie no script can read.
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { Button } from "../parts/basics.js";
import { icon } from "../parts/icons.js";
import { signIn } from "../session.js";

export function Login() {
  const field = useRef();
  const [error, fail] = useState(null);
  const [busy, work] = useState(false);
  useEffect(() => {
    document.title = "Sign in · whisperd";
    field.current.focus();
  }, []);

  async function submit(event) {
    event.preventDefault();
    work(true);
    fail(null);
    try {
      await signIn(field.current.value.trim());
    } catch (refusal) {
      fail(refusal);
      work(false);
      field.current?.select();
    }
  }
  return html`<main class="alone">
    <form class="login card" onSubmit=${submit}>
      <p class="brand">${icon("wave")}<span>whisperd</span></p>
      <h1>Sign in</h1>
      <label for="key">Key</label>
      <input id="key" ref=${field} type="password" autocomplete="current-password" required spellcheck="false" aria-describedby="key-help" aria-invalid=${error ? "true" : undefined} />
      ${error && html`<p class="why" role="alert">${error.message}</p>`}
      <p class="thin" id="key-help">Whoever runs this daemon makes one: <code>whisperd keys add</code></p>
      <${Button} type="submit" kind="primary" busy=${busy}>Sign in<//>
    </form>
  </main>`;
}
