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
  const { error } = history;
  if (!history.data && !error) return null;
  if (error && !history.data && !isAbsent(error) && error.status !== 403) {
    return html`<${Failure} error=${error} retry=${history.reload} what="The last day could not be loaded." />`;
  }
  const day = (history.data?.points ?? []).map(sampled);
  const isDay = day.length > 1; // one that has just begun has less to show than the page itself
  return html`<section aria-labelledby="day">
    <h2 id="day">${isDay ? "The last 24 hours" : "Since this page was opened"}</h2>
    <${Measures} samples=${isDay ? day : trail.value} />
  </section>`;
}

/** A point of the history; its real-time factor becomes a speed. */
function sampled(point) {
  const { at, real_time_factor: factor } = point;
  return { ...point, at: Date.parse(at) / 1000, speed: factor ? 1 / factor : null };
}
