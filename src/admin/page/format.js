// Numbers, spans and instants as people read them. Pure: nothing here touches the document.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const day = new Intl.DateTimeFormat("en-GB", { weekday: "short", hour: "2-digit", minute: "2-digit" });

/** A count, exact: `1,500,000`. */
export const count = (value) => whole.format(value);

/** A count where there is little room: `1.5M`. */
export const compact = (value) => short.format(value);

/** A part of a whole: `66 %`. Never `100 %` before it is all, nor `0 %` once it is something. */
export function percent(part) {
  const value = part * 100;
  if (value > 0 && value < 1) return "<1 %";
  if (value < 100 && value > 99) return "99 %";
  return `${Math.round(value)} %`;
}

/** A rate: two digits behind the point below ten, none from a hundred on. */
export function rate(value) {
  if (value === 0) return "0";
  if (value < 10) return value.toFixed(2);
  return value < 100 ? value.toFixed(1) : value < 100_000 ? count(value) : compact(value);
}

const UNITS = [
  ["d", 86_400],
  ["h", 3_600],
  ["min", 60],
];

/** A span of time in seconds, with its two largest units: `1 min 5 s`. */
export function span(seconds) {
  if (seconds < 0.0005) return "0 s";
  if (seconds < 1) return `${Math.max(1, Math.round(seconds * 1_000))} ms`;
  if (seconds < 9.95) return `${Number.isInteger(seconds) ? seconds : seconds.toFixed(1)} s`;
  let left = Math.round(seconds);
  if (left < 60) return `${left} s`;
  const first = UNITS.findIndex(([, size]) => left >= size);
  const [unit, size] = UNITS[first];
  const [next, part] = UNITS[first + 1] ?? ["s", 1];
  const rest = Math.floor((left % size) / part);
  return rest ? `${Math.floor(left / size)} ${unit} ${rest} ${next}` : `${Math.floor(left / size)} ${unit}`;
}

/** How long ago an instant was, by the gateway's clock: `12 s ago`. */
export function ago(at, now) {
  const seconds = (Date.parse(now) - Date.parse(at)) / 1_000;
  return seconds < 1 ? "just now" : `${span(Math.floor(seconds))} ago`;
}

/** The time of day, on this machine's clock: `14:03:27`. */
export const time = (at) => clock.format(at);

/** When something will be: the time of day, with the weekday if that is not within a day of `now`. */
export function when(at, now) {
  const soon = Math.abs(Date.parse(at) - Date.parse(now)) < 20 * 3_600_000;
  return (soon ? clock : day).format(Date.parse(at));
}

/** A limit's name: `tokens/minute`, as everything else calls it. */
export const limit = ({ unit, window }) => `${unit}/${window}`;

/** Bytes, in powers of 1024: `3.2 MiB`. */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  while (value >= 1_024 && at < units.length - 1) [value, at] = [value / 1_024, at + 1];
  return `${at && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

/** A closed set's name as words: `wait_exceeded` is `wait exceeded`. */
export const words = (name) => name.replaceAll("_", " ");
