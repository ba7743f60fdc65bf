// Who looks at the page, and what they may do. The daemon decides; here it is only known what not to offer.
import { effect, signal } from "./vendor/preact.js";
import { ask, get, isAbsent, post, refusals } from "./api.js";

const OPEN = { required: false, signed_in: false, tenant: null, plan: null, scopes: ["submit", "read", "admin"] };
const EVERY = "*"; // the tenant of a key for all of them
export const session = signal(null); // null: not known yet
export const trouble = signal(null); // why it is not

export const isOut = () => session.value !== null && session.value.required && !session.value.signed_in;
/** Whether this is everybody's view: without keys, or with one for all tenants. */
export const seesAll = () => !session.value?.tenant || session.value.tenant === EVERY || session.value.scopes.includes("admin");

export function may(scope) {
  const known = session.value;
  if (known === null || isOut()) return false;
  if (!known.required) return true;
  return known.scopes.includes(scope) || known.scopes.includes("admin");
}

export async function look() {
  const wasIn = session.value !== null && !isOut();
  try {
    session.value = await get("session");
    trouble.value = null;
    // What was seen here goes with who saw it. First the pages, of which one may hold on to what is not saved.
    if (wasIn && isOut()) setTimeout(() => location.reload());
  } catch (error) {
    if (isAbsent(error)) session.value = OPEN;
    else trouble.value = error;
  }
}

export async function signIn(key) {
  await post("session", { key });
  await look();
}

export async function signOut() {
  await ask("DELETE", "session");
  await look();
}

effect(() => {
  if (refusals.value > 0) look();
});
