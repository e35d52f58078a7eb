// Live charts of the server's own metrics.

import { clock, Cursor, LineChart } from "./chart.js";
import { bytes, count, el, percent, problem, short } from "./dom.js";
import { Groups, histogramQuantile, History, Reader } from "./metrics.js";
import { Poller } from "./poll.js";

/** Seconds between two scrapes, that are kept, and after which nothing is said about the time between. */
const PERIOD = 2;
const KEPT = 300;
const GAP = 3.5 * PERIOD;
/** Seconds that are shown at first. */
const RANGE = 120;
/** Seconds before a point that its rates and quantiles are of. More are smoother, fewer quicker. */
const WINDOW = 10;
/** Series of a chart that have names of their own; the others are one. */
const MOST = 8;

const REQUESTS = "convserve_requests_total";
const REQUEST = "convserve_request_duration_seconds";
const STAGE = "convserve_stage_duration_seconds";
const BATCH = "convserve_batch_size";
const DEPTH = "convserve_queue_depth";
const SHED = "convserve_shed_total";
const HELD = "convserve_memory_held_bytes";
const LIMIT = "convserve_memory_limit_bytes";
const CALLERS = "convserve_caller_calls_total";
const LAG = "convserve_event_loop_lag_seconds";
const ROWS = "nv_inference_count";
const FAMILIES = [REQUESTS, REQUEST, STAGE, ROWS, BATCH, DEPTH, SHED, HELD, LIMIT, CALLERS, LAG];
const STAGES = { decode: "decode", queue: "queue", infer: "infer", postprocess: "post" };
const COLORS = ["decode", "queue", "infer", "post", "rest"];

const HOW = [
  `The page asks for the metrics every ${PERIOD} s while its tab is shown, and keeps ${KEPT / 60} minutes of them.`,
  `Rates and quantiles are of the ${WINDOW} s before each point. A counter that falls has begun anew ` +
    "with its server, and counts from 0.",
  "Durations are counted in buckets. A quantile is found in its bucket on a straight line between the " +
    "bucket's bounds, so it is never finer than the bucket: this is histogram_quantile of Prometheus, " +
    "and gives its numbers. The highest bound, 60 s, stands for everything above it.",
];

const seconds = (value) => {
  if (!value) return "0 ms";
  if (value >= 10) return `${value.toFixed(0)} s`;
  if (value >= 1) return `${value.toFixed(2)} s`;
  const ms = 1000 * value;
  return `${ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2)} ms`;
};
const rate = (value) => `${value >= 1000 ? count(Math.round(value)) : value.toFixed(value >= 100 || !value ? 0 : value >= 1 ? 1 : 2)}/s`;
const rows = (value) => (value >= 1000 ? count(Math.round(value)) : value.toFixed(Number.isInteger(value) ? 0 : 1));

/** The series that the charts are made of, for one model or all. Made anew when series appear. */
class Plan {
  constructor(series, model) {
    this._series = series;
    this._model = model;
    this._named = new Map(); // numbers of series by name
    series.forEach(({ name }, number) => {
      if (!this._named.has(name)) this._named.set(name, []);
      this._named.get(name).push(number);
    });
    this.groups = new Groups();
    this.known = series.length;
    this.requests = this._by(REQUESTS, "code");
    this.request = this._histograms(REQUEST, "");
    this.stages = this._histograms(STAGE, "stage");
    this.batch = this._histograms(BATCH, "");
    this.lag = this._histograms(LAG, "");
    this.shed = this._by(SHED, "reason");
    this.callers = this._by(CALLERS, "caller");
    this.rows = this._by(ROWS, "model");
    this.held = this._by(HELD, "use");
    this.depth = this.groups.add(this._numbers(DEPTH));
    this.limit = this.groups.add(this._numbers(LIMIT));
    this.counters = [REQUESTS, CALLERS].flatMap((name) => this._named.get(name) ?? []);
  }

  _numbers(name) {
    return (this._named.get(name) ?? []).filter((number) => {
      const model = this._series[number].labels.get("model");
      return this._model === null || model === undefined || model === this._model;
    });
  }

  /** Groups of the series of a family by the value of a label. */
  _by(name, label) {
    const found = new Map();
    for (const number of this._numbers(name)) {
      const value = this._series[number].labels.get(label) ?? "";
      if (!found.has(value)) found.set(value, []);
      found.get(value).push(number);
    }
    return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([value, of]) => [value, this.groups.add(of)]));
  }

  /** Histograms of a family by the value of a label; one where the label is "". */
  _histograms(name, label) {
    const found = new Map();
    const of = (number) => {
      const value = this._series[number].labels.get(label) ?? "";
      if (!found.has(value)) found.set(value, { buckets: new Map(), sum: [], count: [] });
      return found.get(value);
    };
    for (const number of this._numbers(`${name}_bucket`)) {
      const le = this._series[number].labels.get("le") ?? "";
      const bound = le === "+Inf" ? Infinity : Number(le);
      const { buckets } = of(number);
      if (!buckets.has(bound)) buckets.set(bound, []);
      buckets.get(bound).push(number);
    }
    for (const number of this._numbers(`${name}_sum`)) of(number).sum.push(number);
    for (const number of this._numbers(`${name}_count`)) of(number).count.push(number);
    return new Map(
      [...found].map(([value, { buckets, sum, count }]) => {
        const bounds = [...buckets.keys()].sort((a, b) => a - b);
        const groups = bounds.map((bound) => this.groups.add(buckets.get(bound)));
        return [value, { bounds, groups, sum: this.groups.add(sum), count: this.groups.add(count) }];
      }),
    );
  }
}

const perSecond = (rises, group) => rises.map((one) => one && one.rises[group] / one.seconds);

function quantile(rises, histogram, q) {
  if (!histogram) return rises.map(() => null);
  return rises.map((one) => {
    const value = one && histogramQuantile(q, histogram.bounds, histogram.groups.map((group) => one.rises[group]));
    return one && Number.isFinite(value) ? value : null;
  });
}

function mean(rises, histogram) {
  if (!histogram) return rises.map(() => null);
  return rises.map((one) => (one && one.rises[histogram.count] ? one.rises[histogram.sum] / one.rises[histogram.count] : null));
}

/** The largest series by their newest values, and the sum of the others. */
function largest(series) {
  if (series.length <= MOST) return series;
  const total = ({ values }) => values.reduce((sum, value) => sum + (value ?? 0), 0);
  const sorted = [...series].sort((a, b) => total(b) - total(a));
  const rest = sorted.slice(MOST - 1);
  const sums = rest[0].values.map((_, at) => {
    const there = rest.map(({ values }) => values[at]).filter((value) => value !== null);
    return there.length ? there.reduce((sum, value) => sum + value, 0) : null;
  });
  return [...sorted.slice(0, MOST - 1), { name: `${rest.length} others`, values: sums }];
}

function colored(series) {
  return series.map((one, index) => ({
    color: COLORS[index % COLORS.length],
    dash: Math.floor(index / COLORS.length) % 3,
    ...one,
  }));
}

const NO_CALLS = "no calls in this time";

/** The charts: what they are called, and their series out of the rises and levels of the scrapes. */
const CHARTS = [
  {
    title: "Calls by outcome",
    empty: "no calls so far",
    format: rate,
    series: ({ plan, rises }) =>
      colored(
        largest([...plan.requests].map(([code, group]) => ({ name: code || "no code", values: perSecond(rises, group) }))).map(
          (one) => (one.name === "OK" ? { ...one, color: "infer" } : one),
        ),
      ),
  },
  {
    title: "Time of a call",
    empty: NO_CALLS,
    note: "arrival to answer",
    format: seconds,
    series: ({ plan, rises }) => {
      const histogram = plan.request.get("");
      return [
        { name: "p50", color: "decode", values: quantile(rises, histogram, 0.5) },
        { name: "p99", color: "decode", dash: 1, values: quantile(rises, histogram, 0.99) },
      ];
    },
  },
  ...[["p50", 0.5], ["p99", 0.99]].map(([name, q]) => ({
    title: `Time by stage, ${name}`,
    empty: NO_CALLS,
    format: seconds,
    series: ({ plan, rises }) =>
      Object.entries(STAGES).map(([stage, color]) => ({ name: stage, color, values: quantile(rises, plan.stages.get(stage), q) })),
  })),
  {
    title: "Rows in a batch",
    empty: NO_CALLS,
    format: rows,
    series: ({ plan, rises }) => [{ name: "mean", color: "infer", values: mean(rises, plan.batch.get("")) }],
  },
  {
    title: "Rows by model",
    note: "images, or rows of tensors",
    format: rate,
    series: ({ plan, rises }) =>
      colored(largest([...plan.rows].map(([model, group]) => ({ name: model, values: perSecond(rises, group) })))),
  },
  {
    title: "Queue",
    note: "rows that wait for a batch",
    format: rows,
    series: ({ plan, scrapes }) => [
      { name: "rows", color: "queue", values: scrapes.map((scrape) => plan.groups.level(scrape, plan.depth)) },
    ],
  },
  {
    title: "Shed",
    note: "refused on arrival, or expired in the queue",
    empty: "nothing was shed so far",
    format: rate,
    series: ({ plan, rises }) =>
      colored([...plan.shed].map(([reason, group]) => ({ name: reason, values: perSecond(rises, group) }))),
  },
  {
    title: "Memory that calls hold",
    note: "all models, by use",
    format: bytes,
    base: 1024,
    series: ({ plan, scrapes }) =>
      colored([...plan.held].map(([use, group]) => ({ name: use, values: scrapes.map((scrape) => plan.groups.level(scrape, group)) }))),
  },
  {
    title: "Callers",
    note: "calls of all models",
    empty: "callers are not told apart here",
    format: rate,
    series: ({ plan, rises }) =>
      colored(largest([...plan.callers].map(([caller, group]) => ({ name: caller || "nobody proved", values: perSecond(rises, group) })))),
  },
  {
    title: "Event loop lag, p99",
    note: "all models; alerts begin at 50 ms",
    format: seconds,
    series: ({ plan, rises }) => [{ name: "p99", color: "post", values: quantile(rises, plan.lag.get(""), 0.99) }],
  },
];

/** The newest numbers in a row. */
function figures({ plan, scrapes, rises }) {
  const last = rises.at(-1);
  const scrape = scrapes.at(-1);
  const sum = (groups) => [...groups.values()].reduce((total, group) => total + last.rises[group], 0);
  const all = last && sum(plan.requests);
  const ok = last && plan.requests.has("OK") ? last.rises[plan.requests.get("OK")] : 0;
  const p = (q) => quantile([last], plan.request.get(""), q)[0];
  const held = scrape && [...plan.held.values()].reduce((total, group) => total + (plan.groups.level(scrape, group) ?? 0), 0);
  const limit = scrape && plan.groups.level(scrape, plan.limit);
  const show = (value, format) => (value === null || value === undefined ? "–" : format(value));
  return [
    ["Calls", show(last && all / last.seconds, rate)],
    ["Not OK", show(all ? 1 - ok / all : null, percent)],
    ["p50", show(p(0.5), seconds)],
    ["p99", show(p(0.99), seconds)],
    ["Shed", show(last && sum(plan.shed) / last.seconds, rate)],
    ["Rows waiting", show(scrape && plan.groups.level(scrape, plan.depth), rows)],
    ["Memory", show(scrape ? held : null, bytes), limit ? `of ${bytes(limit)}` : ""],
  ];
}

/** Shows the page. Parameter `model`: the one that is chosen at first. */
export function mount(element, api, parameters = new URLSearchParams()) {
  return new Live(element, api, parameters.get("model")).close;
}

class Live {
  constructor(element, api, model) {
    this._api = api;
    this._model = model;
    this._range = RANGE;
    this._paused = null;
    this._plan = null;
    this._cursor = new Cursor();
    this._charts = CHARTS.map((chart) => new LineChart({ ...chart, cursor: this._cursor }));
    this._forget();
    this._build(element);
    this._poller = new Poller((signal) => this._scrape(signal), PERIOD, (told) => this._told(told));
    this._changed = () => {
      this._forget();
      this._poller.again();
    };
    api.addEventListener("credentials", this._changed);
    this.close = () => {
      api.removeEventListener("credentials", this._changed);
      this._poller.close();
      for (const chart of this._charts) chart.close();
    };
  }

  /** Others may see other series: nothing of theirs stays. */
  _forget() {
    this._reader = new Reader(FAMILIES);
    this._history = new History(KEPT + WINDOW, GAP);
    this._plan = null;
    this._paused = null;
  }

  _build(element) {
    this._models = el("select", { onchange: () => this._choose(this._models.value) }, el("option", { value: "" }, "All models"));
    const ranges = [["60", "1 minute"], ["120", "2 minutes"], [String(KEPT), "5 minutes"]];
    this._ranges = el(
      "select",
      { onchange: () => this._setRange(Number(this._ranges.value)) },
      ...ranges.map(([value, text]) => el("option", { value, selected: value === String(RANGE) }, text)),
    );
    this._pause = el("button", { type: "button", "aria-pressed": "false", onclick: () => this._togglePause() }, "Pause");
    this._status = el("span", { class: "note", role: "status" });
    this._problem = el("div", {});
    this._figures = el("dl", { class: "figures" });
    element.append(
      el(
        "div",
        { class: "row toolbar" },
        el("h1", { class: "grow" }, "Live"),
        this._status,
        el("label", { class: "row" }, "Model", this._models),
        el("label", { class: "row" }, "Last", this._ranges),
        this._pause,
      ),
      this._problem,
      this._figures,
      el("div", { class: "charts" }, ...this._charts.map((chart) => chart.element)),
      el("details", { class: "note" }, el("summary", {}, "How these numbers are made"), ...HOW.map((text) => el("p", {}, text))),
    );
    this._show();
  }

  async _scrape(signal) {
    const reader = this._reader;
    const text = await this._api.text("GET", "debug/metrics", { signal });
    if (reader !== this._reader) return;
    const values = reader.read(text);
    this._history.add(Date.now() / 1000, values, this._plan?.counters ?? []);
    if (this._plan === null || this._plan.known !== reader.series.length) this._replan();
    if (!this._paused) this._show();
  }

  _replan() {
    this._plan = new Plan(this._reader.series, this._model);
    const names = new Set(this._reader.series.map(({ labels }) => labels.get("model")).filter(Boolean));
    if (this._model !== null) names.add(this._model);
    const options = [...names].sort().map((name) => el("option", { value: `=${name}` }, short(name, 60)));
    this._models.replaceChildren(el("option", { value: "" }, "All models"), ...options);
    this._models.value = this._model === null ? "" : `=${this._model}`;
  }

  _choose(value) {
    this._model = value === "" ? null : value.slice(1);
    if (this._plan !== null) this._replan();
    this._show(true);
  }

  _setRange(seconds) {
    this._range = seconds;
    this._show(true);
  }

  _togglePause() {
    this._paused = this._paused ? null : this._history.scrapes;
    this._pause.setAttribute("aria-pressed", String(this._paused !== null));
    this._pause.textContent = this._paused ? "Go on" : "Pause";
    this._say();
    this._show(true);
  }

  _show(table = false) {
    const scrapes = this._paused ?? this._history.scrapes;
    const plan = this._plan ?? new Plan([], null);
    const rises = plan.groups.rises(scrapes, WINDOW);
    const view = { plan, scrapes, rises };
    this._figures.replaceChildren(
      ...figures(view).map(([name, value, note = ""]) => el("div", {}, el("dt", {}, name), el("dd", {}, value, " ", el("small", {}, note)))),
    );
    const times = scrapes.map(({ time }) => time);
    const to = times.at(-1) ?? Date.now() / 1000;
    const marks = scrapes.filter(({ restarted }) => restarted).map(({ time }) => ({ time, text: "restarted" }));
    CHARTS.forEach((chart, index) => {
      this._charts[index].update({ times, series: chart.series(view), marks, from: to - this._range, to });
      if (table) this._charts[index].refreshTable();
    });
  }

  _told(told) {
    this._state = told;
    this._say();
    const { state, error } = told;
    if (state === "live") this._problem.replaceChildren();
    else this._problem.replaceChildren(problem(explained(error), state === "stopped" ? () => this._poller.again() : null));
  }

  _say() {
    const { state = "", seconds: wait } = this._state ?? {};
    const last = this._history.scrapes.at(-1);
    const words = {
      live: this._paused ? `Paused at ${clock(this._paused.at(-1)?.time ?? Date.now() / 1000)}` : "",
      failing: `Next try in ${Math.ceil(wait)} s${last ? `; the last numbers are of ${clock(last.time)}` : ""}`,
      stopped: "Stopped",
    };
    const left = this._reader.full ? "Too many series: some are left out. " : "";
    const text = left + (words[state] ?? "");
    if (this._status.textContent !== text) this._status.textContent = text;
  }
}

/** What a refusal means here. */
function explained(error) {
  if (error.status === 403) error.message += ". The charts need the right to metrics.";
  if (error.status === 404) error.message += ". This server has no /debug/metrics.";
  return error;
}
