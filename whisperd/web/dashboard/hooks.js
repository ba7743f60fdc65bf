// What several pages do alike: ask, hear of changes, follow the clock.
import { signal, useEffect, useRef, useState } from "./vendor/preact.js";
import { listen, listenForGaps } from "./live.js";

const TICK_MS = 10_000;
export const now = signal(Date.now());
setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, TICK_MS);

/** What `ask(aborted)` comes to: {data, error, loading, reload, change}. Old data stay until the new are there. */
export function useAnswer(ask, dependencies) {
  const [state, set] = useState({ loading: true });
  const [round, again] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    set((old) => ({ ...old, loading: true, error: undefined }));
    ask(abort.signal).then(
      (data) => abort.signal.aborted || set({ data, loading: false }),
      (error) => abort.signal.aborted || set((old) => ({ ...old, error, loading: false })),
    );
    return () => abort.abort();
  }, [...dependencies, round]);
  const change = (changed) => set((old) => (old.data === undefined ? old : { ...old, data: changed(old.data) }));
  return { ...state, change, reload: () => again((n) => n + 1) };
}

/** `heard` is called with each change of a task, `back` when some may have been missed. */
export function useChanges(heard, back) {
  const latest = useRef();
  latest.current = { heard, back };
  useEffect(() => {
    const ends = [listen((task) => latest.current.heard(task)), listenForGaps(() => latest.current.back?.())];
    return () => ends.forEach((end) => end());
  }, []);
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
