// The last day in small charts. A daemon keeps it over its restarts.
import { html } from "../vendor/preact.js";
import { get, isAbsent } from "../api.js";
import { charts } from "./measures.js";
import { useAnswer, useEvery } from "../hooks.js";
import { Failure } from "./basics.js";

const HOURS = 24;
const POINTS = 240;
const AGAIN_SECONDS = 60;

export function Charts({ now }) {
  const history = useAnswer((signal) => get("stats/history", { hours: HOURS, points: POINTS }, { signal }), []);
  useEvery(AGAIN_SECONDS, history.reload);
  if (history.error && !history.data) {
    return isAbsent(history.error) || history.error.status === 403
      ? null
      : html`<${Failure} error=${history.error} retry=${history.reload} what="The last day could not be loaded." />`;
  }
  if (!history.data) return null;
  return html`<section aria-labelledby="day">
    <h2 id="day">The last 24 hours</h2>
    <div class="charts">${charts(history.data, now)}</div>
  </section>`;
}
