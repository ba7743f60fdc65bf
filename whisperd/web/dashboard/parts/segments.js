// The sentences of a transcript. They are drawn once: what is heard now is marked without drawing them anew,
// so that three hours of text follow the audio as lightly as three minutes.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact.js";
import { clock, percent } from "../format.js";
import { Button } from "./basics.js";
import { playFrom } from "./player.js";

const UNSURE = 0.8;
const DOUBTFUL = 0.5;
const AT_ONCE = 300; // sentences; more are drawn when they are asked for
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** `from`: seconds, where the search found it. `pointed`: told of the word that is pointed at, or tapped. */
export function Segments({ segments, audio, sure, searched, from = 0, pointed }) {
  const list = useRef();
  const [shown, show] = useState(() => AT_ONCE + (searched && from > 0 ? last(segments, from) : 0)); // what was found among them
  const words = useMemo(() => searched.toLowerCase().match(/[^\s"]+/g) ?? [], [searched]); // of a "phrase", too
  useFollowing(list, segments, audio, shown, show);
  const jump = (event) => {
    const at = event.target.closest("[data-at]")?.dataset.at;
    if (at === undefined || String(getSelection())) return; // who selects text does not jump
    playFrom(audio, Number(at));
  };
  useEffect(() => {
    if (words.length) found(list.current, from)?.scrollIntoView({ block: "center" });
  }, [words]);
  const drawn = useMemo(() => segments.slice(0, shown).map((segment, n) => html`<${Segment} key=${n} of=${segment} words=${words} />`), [segments, shown, words]);
  return html`<ol class="segments ${sure ? "sure" : ""}" ref=${list} onClick=${jump} onPointerOver=${(event) => pointed?.(event.target.closest("span[title]"))}>${drawn}</ol>
    ${segments.length > shown && html`<p><${Button} onClick=${() => show(shown + AT_ONCE)}>Show the next ${Math.min(AT_ONCE, segments.length - shown)} of ${segments.length}<//></p>`}`;
}

/** The first mark from there on; the words of a phrase stand elsewhere, too. */
function found(list, from) {
  const marks = [...list.querySelectorAll("mark")];
  return marks.find((mark) => Number(mark.closest("li").dataset.start) >= from - 0.05) ?? marks[0];
}

function Segment({ of, words = [] }) {
  return html`<li data-start=${of.start}>
    <button type="button" class="at" data-at=${of.start} aria-label=${`Play from ${clock(of.start)}`}>${clock(of.start)}</button>
    <p data-at=${of.start}>${of.speaker && html`<b class="speaker">${of.speaker}</b> `}${of.words?.length ? of.words.map((word, n) => html`<${Word} key=${n} of=${word} words=${words} space=${between(of, n)} />`) : marked(of.text, words)}</p>
  </li>`;
}

function Word({ of, words, space }) {
  const { probability: p } = of;
  const kind = p < DOUBTFUL ? "doubtful" : p < UNSURE ? "unsure" : undefined;
  const title = kind && `${percent(p)} certain`;
  return html`<span data-at=${of.start} class=${kind} title=${title}>${marked(of.word.trim(), words)}</span>${space}`;
}

/** What stands behind a word: the daemon's words have no spaces, and not every language has any. */
function between(segment, n) {
  const next = segment.words[n + 1];
  return next && segment.text.includes(`${segment.words[n].word.trim()} ${next.word.trim()}`) ? " " : "";
}

function marked(text, words) {
  if (!words.length) return text;
  const found = text.toLowerCase();
  const hit = words.map((word) => [found.indexOf(word), word.length]).filter(([at]) => at >= 0).sort(([a], [b]) => a - b)[0];
  if (!hit) return text;
  const [at, length] = hit;
  return [text.slice(0, at), html`<mark>${text.slice(at, at + length)}</mark>`, text.slice(at + length)];
}

/** Marks the sentence and the word that are heard, and keeps them in sight while the audio plays. */
function useFollowing(list, segments, audio, shown, show) {
  useEffect(() => {
    const followed = audio.current;
    if (!followed) return undefined;
    let sentence = null;
    let spans = [];
    let word = null;
    let frame = 0;
    const follow = () => {
      const at = followed.currentTime;
      const n = last(segments, at);
      if (n >= shown) return show(n + AT_ONCE);
      const item = at <= (segments[n]?.end ?? 0) + 1 ? (list.current?.children[n] ?? null) : null;
      if (item !== sentence) {
        mark(sentence, item);
        sentence = item;
        spans = item ? [...item.querySelectorAll("span[data-at]")] : [];
        if (item && !followed.paused && !out(list.current)) item.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
      }
      const next = spans.filter((span) => Number(span.dataset.at) <= at).pop() ?? null;
      if (next !== word) {
        word?.classList.remove("now");
        next?.classList.add("now");
        word = next;
      }
      return undefined;
    };
    const run = () => { // by the frame: the element tells its time four times a second, and words are shorter
      follow();
      cancelAnimationFrame(frame);
      if (!followed.paused) frame = requestAnimationFrame(run);
    };
    const on = { play: run, seeked: follow, timeupdate: follow };
    for (const [event, handle] of Object.entries(on)) followed.addEventListener(event, handle);
    if (followed.currentTime > 0) run();
    return () => {
      cancelAnimationFrame(frame);
      for (const [event, handle] of Object.entries(on)) followed.removeEventListener(event, handle);
    };
  }, [segments, shown]);
}

function mark(old, item) {
  old?.classList.remove("now");
  old?.removeAttribute("aria-current");
  item?.classList.add("now");
  item?.setAttribute("aria-current", "true");
}

/** Whether somebody reads elsewhere: the list is not in sight at all. */
function out(list) {
  const box = list.getBoundingClientRect();
  return box.bottom < 0 || box.top > innerHeight;
}

/** The last segment that has begun. */
function last(segments, at) {
  let [low, high] = [0, segments.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (segments[middle].start <= at + 0.05) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1);
}
