// The dashboard: a frame around pages. What it shows, it asks the daemon for.
import { computed, effect, html, render, useEffect } from "./vendor/preact.js";
import { Question, Messages } from "./parts/dialogs.js";
import { Failure, Loading } from "./parts/basics.js";
import { follow, unfollow } from "./live.js";
import { DropZone } from "./parts/drop.js";
import { Frame } from "./parts/frame.js";
import { Shortcuts } from "./parts/shortcuts.js";
import { before, hasMoved, route } from "./router.js";
import { isOut, look, may, session, trouble } from "./session.js";
import { Uploads } from "./parts/uploads.js";
import { Login } from "./pages/login.js";
import { Overview } from "./pages/overview.js";
import { Tasks } from "./pages/tasks.js";
import { Task } from "./pages/task.js";
import { Workers } from "./pages/workers.js";
import { Backups } from "./pages/backups.js";
import { Keys } from "./pages/keys.js";
import { Submit } from "./pages/submit.js";
import { Nowhere } from "./pages/nowhere.js";

const PAGES = {
  overview: [Overview, "Overview"],
  tasks: [Tasks, "Tasks"],
  workers: [Workers, "Workers"],
  backups: [Backups, "Backups"],
  keys: [Keys, "Keys"],
  submit: [Submit, "Submit audio"],
};

function page({ page, id }) {
  if (page === "tasks" && id) return [Task, "Task"];
  if (page === "overview" && !may("read")) return PAGES.submit; // who may only send begins where that is done
  return Object.hasOwn(PAGES, page) ? PAGES[page] : [Nowhere, "Nothing here"];
}

function Page() {
  const here = route.value;
  const [shown, title] = page(here);
  const key = `${here.page}/${here.id ?? ""}`;
  useEffect(() => {
    document.title = `${title} · whisperd`;
    if (hasMoved()) scrollTo(0, 0);
  }, [key, here.query.get("cursor")]);
  return html`<${shown} key=${key} id=${here.id} query=${here.query} />`;
}

function App() {
  if (session.value === null) {
    return html`<main class="alone">
      ${trouble.value ? html`<${Failure} error=${trouble.value} retry=${look} what="The dashboard cannot start." />` : html`<${Loading} />`}
    </main>`;
  }
  if (isOut()) return html`<${Login} /><${Messages} />`;
  return html`<${DropZone}>
    <${Frame}><${Page} /><//>
    <${Uploads} />
    <${Messages} />
    <${Question} />
    <${Shortcuts} />
  <//>`;
}

const follows = computed(() => may("read")); // a session that is only looked at anew changes nothing
effect(() => (follows.value ? follow() : unfollow()));
before((to) => may("read") && page(to)[0].ahead?.(to));
render(html`<${App} />`, document.getElementById("app"));
look();
