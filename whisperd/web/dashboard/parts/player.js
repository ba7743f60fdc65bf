// Plays the audio of a task, and draws it: the wave is a slider that keyboard and pointer can set.
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { get, of, withQuery } from "../api.js";
import { clock } from "../format.js";
import { usePainted } from "../hooks.js";
import { isDark } from "../looks.js";

const BUCKETS = 800;
const STEP = 5; // seconds an arrow key goes
const BAR = 3; // pixels of a bar, its gap included
const SOUND_MS = 100; // after the rest: a browser takes as long to make its controls as for all of the page
const SPEEDS = [0.75, 1, 1.25, 1.5, 2];

/** From so many seconds on; `audio`: a ref to what plays, or to nothing. */
export function playFrom(audio, seconds) {
  if (!audio.current) return;
  audio.current.currentTime = seconds;
  audio.current.play().catch(() => {});
}

/**
 * `audio`: a ref that gets the element, for whoever follows it. `from`: seconds to begin at. `findings`: are
 * marked. `redacted`: whether what rules want out is silent.
 */
export function Player({ task, audio, from, findings = [], redacted }) {
  const [peaks, set] = useState(null);
  const [missing, miss] = useState(false);
  const isShown = usePainted(task.task_id, SOUND_MS);
  useEffect(() => {
    if (!isShown || !task.audio.duration) return; // the wave comes with the plan, as the length does
    get(of(task.task_id, "peaks"), { buckets: BUCKETS }).then((found) => set(found.peaks), () => set([]));
  }, [isShown, task.task_id, task.audio.duration]);
  const at = useRef(from); // for another source to go on from
  const source = withQuery(of(task.task_id, "audio"), { redacted });
  // Both may come when the page has gone on already, and the ref with it.
  const ready = ({ currentTarget: element }) => {
    if (element.currentTime === 0 && at.current > 0) element.currentTime = at.current; // else it was set meanwhile
  };
  const note = ({ currentTarget: element }) => {
    if (element.readyState > 0) at.current = element.currentTime; // else another source is loading
  };
  useEffect(() => miss(false), [source]);
  if (task.audio_kept === false) return html`<p class="thin">Its audio is not kept.</p>`;
  if (missing) return html`<p class="thin">This browser cannot play the audio: <a href=${source} download=${task.audio.name}>download it</a>.</p>`;
  return html`<section class="player card" aria-label="Audio">
    ${peaks?.length ? html`<div class="marked"><${Wave} peaks=${peaks} audio=${audio} duration=${task.audio.duration} /><${Marks} of=${findings} duration=${task.audio.duration} /></div>` : task.audio.duration > 0 && !peaks && html`<div class="wave"></div>`}
    <div class="controls">
      <audio ref=${audio} controls=${isShown} preload=${isShown ? "metadata" : "none"} src=${source} onLoadedMetadata=${ready} onTimeUpdate=${note} onError=${() => miss(true)}></audio>
      <label class="inline"><span>Speed</span><select onChange=${(event) => { audio.current.defaultPlaybackRate = audio.current.playbackRate = Number(event.target.value); }}>
        ${SPEEDS.map((speed) => html`<option key=${speed} value=${speed} selected=${speed === 1}>${speed}×</option>`)}
      </select></label>
    </div>
  </section>`;
}

/** Where something was found; who hears the page is told by the list. */
function Marks({ of: findings, duration }) {
  const timed = findings.filter((one) => one.start !== null && duration > 0);
  return html`<div class="marks" aria-hidden="true">${timed.map(({ id, start, severity }) => html`<i key=${id} class="severity ${severity}" style=${{ left: `${Math.min(100, (100 * start) / duration)}%` }}></i>`)}</div>`;
}

function Wave({ peaks, audio, duration }) {
  const canvas = useRef();
  const [at, move] = useState(0);
  const dark = isDark.value;
  const length = duration || audio.current?.duration || 0;
  useEffect(() => {
    const followed = audio.current;
    const follow = () => move(followed.currentTime);
    followed.addEventListener("timeupdate", follow);
    followed.addEventListener("seeked", follow);
    return () => {
      followed.removeEventListener("timeupdate", follow);
      followed.removeEventListener("seeked", follow);
    };
  }, []);
  const paint = () => canvas.current && draw(canvas.current, peaks, length ? at / length : 0);
  useEffect(() => void paint(), [peaks, at, length, dark]);
  useEffect(() => {
    const resize = new ResizeObserver(paint);
    resize.observe(canvas.current);
    return () => resize.disconnect();
  }, [peaks, length]);

  const seek = (seconds) => {
    audio.current.currentTime = Math.max(0, Math.min(length, seconds));
  };
  const point = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = canvas.current.getBoundingClientRect();
    seek((length * (event.clientX - box.left)) / box.width);
  };
  const keys = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageUp: 30, PageDown: -30, Home: -Infinity, End: Infinity };
  const press = (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    seek(audio.current.currentTime + keys[event.key]);
  };
  return html`<canvas class="wave" ref=${canvas} role="slider" tabindex="0" aria-label="Position in the audio"
    aria-valuemin="0" aria-valuemax=${Math.round(length)} aria-valuenow=${Math.round(at)} aria-valuetext=${`${clock(at)} of ${clock(length)}`}
    onPointerDown=${point} onPointerMove=${point} onKeyDown=${press}></canvas>`;
}

function draw(canvas, peaks, played) {
  const scale = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * scale;
  canvas.height = height * scale;
  const style = getComputedStyle(canvas);
  const [before, after] = [style.getPropertyValue("--accent"), style.getPropertyValue("--faint")];
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const bars = Math.floor(width / BAR);
  const loudest = Math.max(...peaks, 0.05); // a quiet recording is seen, too
  for (let bar = 0; bar < bars; bar += 1) {
    const [from, to] = [Math.floor((bar * peaks.length) / bars), Math.ceil(((bar + 1) * peaks.length) / bars)];
    const tall = Math.max(2, (Math.max(...peaks.slice(from, to)) / loudest) * height);
    pen.fillStyle = bar / bars < played ? before : after;
    pen.fillRect(bar * BAR, (height - tall) / 2, BAR - 1, tall);
  }
}
