// Where we are: #/tasks/ID?t=12. Real links, so the back button, a bookmark and a new tab all work.
import { signal } from "./vendor/preact.js";
import { withQuery } from "./api.js";

export const route = signal(read());
let moved = false;
let foretold = () => {};
/** Call `told(route)` when it is known where to go, before anything is drawn. */
export const before = (told) => {
  foretold = told;
};
/** Whether this is no longer the first page, which is read from its top and not jumped into. */
export const hasMoved = () => moved;

function read() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  try {
    const [page, id] = path.split("/").map(decodeURIComponent);
    return { page: page || "overview", id: id || null, query: new URLSearchParams(query) };
  } catch { // what somebody has typed, or half of a link
    return { page: "nowhere", id: null, query: new URLSearchParams() };
  }
}

export const href = (path, query) => `#${withQuery(`/${path}`, query)}`;
export const taskHref = (id, query) => href(`tasks/${encodeURIComponent(id)}`, query);

export function go(path, query, { replace = false } = {}) {
  const to = href(path, query);
  if (!replace) location.hash = to;
  else {
    history.replaceState(null, "", to);
    move();
  }
}

function move() {
  const to = read();
  foretold(to);
  route.value = to;
}

addEventListener("hashchange", () => {
  moved = true;
  move();
});
