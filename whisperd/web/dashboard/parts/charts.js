// The last day in small charts, which the daemon keeps over its restarts; or what this page has seen, from a
// daemon that keeps none.
import { html } from "../vendor/preact.js";
import { get, isAbsent } from "../api.js";
import { useAnswer, useEvery } from "../hooks.js";
import { trail } from "../live.js";
import { Failure } from "./basics.js";
import { Measures } from "./measures.js";

const HOURS = 24;
const POINTS = 240;
const AGAIN_SECONDS = 60;

export function Charts() {
  const history = useAnswer((signal) => get("stats/history", { hours: HOURS, points: POINTS }, { signal }), []);
  useEvery(AGAIN_SECONDS, () => history.data && history.reload());
  if (history.loading && !history.data) return null;
  const { error } = history;
  if (error && !history.data && !isAbsent(error) && error.status !== 403) {
    return html`<${Failure} error=${error} retry=${history.reload} what="The last day could not be loaded." />`;
  }
  const samples = history.data ? history.data.points.map((one) => ({ ...one, at: Date.parse(one.at) / 1000 })) : trail.value;
  return html`<section aria-labelledby="day">
    <h2 id="day">${history.data ? "The last 24 hours" : "Since this page was opened"}</h2>
    <${Measures} samples=${samples} />
  </section>`;
}
