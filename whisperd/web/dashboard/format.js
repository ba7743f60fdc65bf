// How numbers, sizes and times are written.
const locale = "en";
const plain = new Intl.NumberFormat(locale);
const short = new Intl.NumberFormat(locale, { maximumSignificantDigits: 3 });
const compact = new Intl.NumberFormat(locale, { notation: "compact", maximumSignificantDigits: 3 });
const relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto", style: "short" });
const exactly = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
const NONE = "–";
const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);

export const number = (value) => (known(value) ? plain.format(value) : NONE);
export const rough = (value) => (!known(value) ? NONE : Math.abs(value) >= 10_000 ? compact.format(value) : short.format(value));
export const percent = (value) => (known(value) ? `${Math.floor(value * 1000) / 10}`.replace(/\.0$/, "") + " %" : NONE);
export const speed = (value) => (known(value) ? `${short.format(value)}×` : NONE);

/** The speed of a real-time factor, which is time of work by time of audio. */
export const pace = (factor) => (factor > 0 ? speed(1 / factor) : NONE);

export function bytes(value) {
  if (!known(value)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, value)) / 10));
  return `${short.format(value / 1024 ** power)} ${units[power]}`;
}

/** For reading: "42 s", "3 min 5 s", "1 h 2 min". */
export function span(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? Math.round(seconds * 10) / 10 : Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  if (minutes < 60) return joined(minutes, "min", Math.round(seconds) % 60, "s");
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return joined(hours, "h", minutes % 60, "min");
  return joined(Math.floor(hours / 24), "d", hours % 24, "h");
}

const joined = (many, unit, few, small) => `${many} ${unit}${few ? ` ${few} ${small}` : ""}`;

/** Of a player: "0:07", "1:02:03". */
export function clock(seconds) {
  if (!known(seconds)) return NONE;
  const whole = Math.floor(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export function ago(when, now = Date.now()) {
  const seconds = (Date.parse(when) - now) / 1000;
  const size = Math.abs(seconds);
  if (size < 5) return "now";
  if (size < 60) return relative.format(Math.round(seconds), "second");
  if (size < 3600) return relative.format(Math.round(seconds / 60), "minute");
  if (size < 86_400) return relative.format(Math.round(seconds / 3600), "hour");
  return relative.format(Math.round(seconds / 86_400), "day");
}

export const exact = (when) => exactly.format(new Date(when));
const ordinals = new Intl.PluralRules(locale, { type: "ordinal" });
const ENDINGS = { one: "st", two: "nd", few: "rd", other: "th" };
/** "3rd". */
export const place = (n) => `${number(n)}${ENDINGS[ordinals.select(n)]}`;
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
/** "1 task", "3 tasks". */
export const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
