// What several pages do alike: ask, hear of changes, follow the clock.
import { signal, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact.js";
import { listen, listenForGaps } from "./live.js";

const TICK_MS = 10_000;
const PAINTED_MS = 50;
export const now = signal(Date.now());
setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, TICK_MS);

/**
 * What `ask(aborted)` comes to: {data, error, reload, change}. Old data stay until the new are there; `known`
 * are those to begin with: with them the page is painted before it asks.
 */
export function useAnswer(ask, dependencies, known) {
  const [state, set] = useState({ data: known });
  const [round, again] = useState(0);
  useLayoutEffect(() => { // asks at once: an effect would wait until the page has been painted without an answer
    const abort = new AbortController();
    const begin = () => ask(abort.signal).then(
      (data) => abort.signal.aborted || set({ data }),
      (error) => abort.signal.aborted || set((old) => ({ ...old, error })),
    );
    set((old) => (old.error ? { data: old.data } : old));
    let timer = 0;
    if (known && round === 0) timer = setTimeout(begin, PAINTED_MS);
    else begin();
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [...dependencies, round]);
  const change = (changed) => set((old) => (old.data === undefined ? old : { ...old, data: changed(old.data) }));
  return { ...state, change, reload: () => again((n) => n + 1) };
}

/** Whether what was drawn first, `of` this, has had the time to be painted. What is not needed at once waits for it. */
export function usePainted(of, milliseconds = PAINTED_MS) {
  const [painted, set] = useState(null);
  useEffect(() => {
    const timer = setTimeout(() => set(of), milliseconds);
    return () => clearTimeout(timer);
  }, [of]);
  return painted === of;
}

/** `heard` is called with each change of a task, `back` when some may have been missed. */
export function useChanges(heard, back) {
  const latest = useRef();
  latest.current = { heard, back };
  useLayoutEffect(() => { // as soon as `useAnswer` asks: what happens from then on may not be in its answer
    const ends = [listen((task) => latest.current.heard(task)), listenForGaps(() => latest.current.back?.())];
    return () => ends.forEach((end) => end());
  }, []);
}

/** Calls it a moment after the first of many calls, and once for all that come within. */
export function useSoon(what, milliseconds = 1000) {
  const latest = useRef();
  const timer = useRef(0);
  latest.current = what;
  useEffect(() => () => clearTimeout(timer.current), []);
  return () => {
    timer.current ||= setTimeout(() => {
      timer.current = 0;
      latest.current();
    }, milliseconds);
  };
}

/** Call it now and then, while somebody looks. */
export function useEvery(seconds, what) {
  const latest = useRef(what);
  latest.current = what;
  useEffect(() => {
    const timer = setInterval(() => document.hidden || latest.current(), seconds * 1000);
    return () => clearInterval(timer);
  }, [seconds]);
}
