// What stands around every page: where one can go, whether the daemon is there, how it looks.
import { html } from "../vendor/preact.js";
import { connection, stats } from "../live.js";
import { choose, theme } from "../looks.js";
import { href, route } from "../router.js";
import { may, seesAll, session, signOut } from "../session.js";
import { rough } from "../format.js";
import { told } from "./dialogs.js";
import { icon } from "./icons.js";
import { showHelp } from "./shortcuts.js";

const PLACES = [
  ["overview", "", "Overview", "read"],
  ["tasks", "tasks", "Tasks", "read"],
  ["workers", "workers", "Workers", "read"],
  ["backups", "backups", "Backups", "admin"],
  ["keys", "keys", "Keys", "admin"],
];

export function Frame({ children }) {
  return html`
    <a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <header class="side">
      <a class="brand" href=${href("")} aria-label="whisperd, overview">${icon("wave")}<span>whisperd</span></a>
      <nav aria-label="Pages"><ul>${PLACES.filter(([, , , scope]) => may(scope)).map(place)}</ul></nav>
      ${may("submit") && html`<a class="button primary submit" href=${href("submit")}>${icon("submit")}<span>Submit<span class="more"> audio</span></span></a>`}
      <div class="foot">
        ${may("read") && html`<${Connection} />`}
        <${Account} />
        <div class="tools"><${Looks} /><button type="button" class="bare" onClick=${showHelp} aria-label="Keyboard help" title="Keyboard help (?)">${icon("help")}</button></div>
      </div>
    </header>
    <main id="main" tabindex="-1"><${Paused} />${children}</main>`;
}

/** The place in the address is taken by the page. */
function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function place([name, path, title]) {
  const here = route.value.page === name;
  const waiting = name === "tasks" ? (stats.value?.queued ?? 0) + (stats.value?.processing ?? 0) : 0;
  return html`<li key=${name}>
    <a href=${href(path)} aria-current=${here ? "page" : undefined}>${icon(name)}<span>${title}</span>
      ${waiting > 0 && html`<span class="count"><span class="hidden">, unfinished: </span>${rough(waiting)}</span>`}
    </a>
  </li>`;
}

const SAID = { live: "Live", connecting: "Connecting", lost: "Connection lost" };

function Connection() {
  const now = connection.value;
  return html`<p class="connection ${now}" role="status"><i></i><span>${SAID[now]}</span></p>`;
}

function Account() {
  const known = session.value;
  if (!known.required) return null;
  return html`<p class="account">
    <span title=${`scopes: ${known.scopes.join(", ")}`}>${seesAll() ? "all tenants" : known.tenant}${known.plan ? ` · ${known.plan}` : ""}</span>
    <button type="button" class="bare" onClick=${() => told(signOut)} aria-label="Sign out" title="Sign out">${icon("out")}</button>
  </p>`;
}

const NEXT = { system: "light", light: "dark", dark: "system" };

function Looks() {
  const chosen = theme.value;
  const label = `Colours: ${chosen === "system" ? "as the system" : chosen}. Change to ${NEXT[chosen]}`;
  return html`<button type="button" class="bare" onClick=${() => choose(NEXT[chosen])} aria-label=${label} title=${label}>${icon(chosen)}</button>`;
}

function Paused() {
  if (!stats.value?.paused) return null;
  return html`<p class="notice warn">${icon("pause")}<span>Paused: tasks are accepted, and none is started.
    ${may("admin") && html` <a href=${href("workers")}>Resume on the page Workers</a>.`}</span></p>`;
}
