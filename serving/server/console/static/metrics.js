// Prometheus' text as numbers, and what counters and histograms say between two scrapes.

/** Series that are kept: those of a server with 150 models. More take more memory of the tab. */
export const MOST_SERIES = 20_000;
const SUFFIXES = ["", "_bucket", "_sum", "_count", "_total"];

/** Reads scrapes. A series keeps its number from one to the next. */
export class Reader {
  /** families: their names; lines of others are skipped. */
  constructor(families) {
    this._wanted = new Set(families.flatMap((name) => SUFFIXES.map((suffix) => name + suffix)));
    this._numbers = new Map(); // by name and labels as they are written
    this.series = []; // {name, labels} by number
    this.full = false; // some were left out
  }

  /** The values of a text by the number of their series; NaN for a series that it lacks. */
  read(text) {
    const found = [];
    for (let start = 0; start < text.length; ) {
      let end = text.indexOf("\n", start);
      if (end < 0) end = text.length;
      if (text[start] !== "#") this._take(text.slice(start, end), found);
      start = end + 1;
    }
    const values = new Float64Array(this.series.length).fill(NaN);
    for (const [number, value] of found) values[number] = value;
    return values;
  }

  _take(line, found) {
    const brace = line.indexOf("{");
    const nameEnd = brace < 0 ? line.indexOf(" ") : brace;
    if (nameEnd < 0 || !this._wanted.has(line.slice(0, nameEnd))) return;
    const end = brace < 0 ? nameEnd : closing(line, brace);
    const value = numberOf(line.slice(end).trim().split(" ", 1)[0]);
    if (end < 0 || value === null) return;
    const key = line.slice(0, end);
    let number = this._numbers.get(key);
    if (number === undefined) {
      if (this.series.length >= MOST_SERIES) {
        this.full = true;
        return;
      }
      number = this.series.push({ name: line.slice(0, nameEnd), labels: labelsOf(key) }) - 1;
      this._numbers.set(key, number);
    }
    found.push([number, value]);
  }
}

/** The place behind the brace that closes the labels: their values may hold braces and blanks. */
function closing(line, start) {
  let quoted = false;
  for (let at = start; at < line.length; at++) {
    const letter = line[at];
    if (quoted && letter === "\\") at++;
    else if (letter === '"') quoted = !quoted;
    else if (!quoted && letter === "}") return at + 1;
  }
  return -1;
}

const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;

function labelsOf(key) {
  const labels = new Map();
  for (const [, name, value] of key.matchAll(LABEL)) {
    labels.set(name, value.replace(/\\(.)/g, (_, letter) => (letter === "n" ? "\n" : letter)));
  }
  return labels;
}

function numberOf(text) {
  const named = { "+Inf": Infinity, "-Inf": -Infinity }[text];
  if (named !== undefined) return named;
  const value = Number(text);
  return text === "" || Number.isNaN(value) ? null : value;
}

/** How far a counter rose between two scrapes. One that falls has begun anew with its server, and
 *  has risen from 0, as one that was not there before has. */
export function rise(before, after) {
  if (!(after >= 0)) return 0;
  return before >= 0 && after >= before ? after - before : after;
}

/** The quantile q of a histogram as Prometheus' histogram_quantile has it: linear between the bounds
 *  of the bucket that holds it, from 0 in the first; the highest finite bound where it lies above.
 *
 *  bounds: ascending, the last one Infinity. counts: of the values up to each bound. */
export function histogramQuantile(q, bounds, counts) {
  const last = bounds.length - 1;
  if (Number.isNaN(q) || last < 1 || bounds[last] !== Infinity) return NaN;
  if (q < 0) return -Infinity;
  if (q > 1) return Infinity;
  let most = 0;
  const upTo = counts.map((count) => (most = Math.max(most, count)));
  if (!most) return NaN;
  const rank = q * most;
  const found = upTo.findIndex((count) => count >= rank);
  if (found === last) return bounds[last - 1];
  if (found === 0 && bounds[0] <= 0) return bounds[0];
  const low = found ? bounds[found - 1] : 0;
  const below = found ? upTo[found - 1] : 0;
  return low + (bounds[found] - low) * ((rank - below) / (upTo[found] - below));
}

/** The scrapes of the last minutes: {time, values, begins, restarted}. Nothing is said about the time
 *  before one that begins: the tab slept, or the server was away. */
export class History {
  /** seconds: how long scrapes are kept. gap: seconds after which one begins anew. */
  constructor(seconds, gap) {
    this._seconds = seconds;
    this._gap = gap;
    this.scrapes = [];
  }

  /** Takes a scrape. time: seconds. counters: numbers of series that fall with their server alone. */
  add(time, values, counters) {
    if (this.scrapes.length && time <= this.scrapes.at(-1).time) this.scrapes = []; // a clock set back
    const before = this.scrapes.at(-1);
    const begins = !before || time - before.time > this._gap;
    const restarted = !!before && counters.some((number) => values[number] < before.values[number]);
    const kept = this.scrapes.filter((scrape) => scrape.time >= time - this._seconds);
    this.scrapes = [...kept, { time, values, begins, restarted, steps: null, of: null }];
  }
}

/** Sums of series, which are read together. */
export class Groups {
  constructor() {
    this._groups = [];
  }

  /** The number of a new group. series: numbers. */
  add(series) {
    return this._groups.push(series) - 1;
  }

  /** For each scrape the rises of all groups in the `seconds` before it, {seconds, rises}; null where
   *  a scrape begins. Steps from scrape to scrape are kept with them. */
  rises(scrapes, seconds) {
    scrapes.forEach((scrape, index) => {
      if (scrape.of === this) return;
      scrape.of = this;
      scrape.steps = scrape.begins || !index ? null : this._steps(scrapes[index - 1], scrape);
    });
    return scrapes.map((scrape, index) => {
      if (!scrape.steps) return null;
      const rises = new Float64Array(this._groups.length);
      let at = index;
      do {
        const { steps } = scrapes[at];
        for (let group = 0; group < rises.length; group++) rises[group] += steps[group];
        at--;
      } while (at > 0 && scrapes[at].steps && scrape.time - scrapes[at - 1].time <= seconds);
      return { seconds: scrape.time - scrapes[at].time, rises };
    });
  }

  _steps({ values: before }, { values: after }) {
    return Float64Array.from(this._groups, (series) => {
      let sum = 0;
      for (let at = 0; at < series.length; at++) sum += rise(before[series[at]], after[series[at]]);
      return sum;
    });
  }

  /** The sum of the values of a group in a scrape; null where it has none. */
  level(scrape, group) {
    let sum = null;
    for (const number of this._groups[group]) {
      const value = scrape.values[number];
      if (!Number.isNaN(value) && value !== undefined) sum = (sum ?? 0) + value;
    }
    return sum;
  }
}
