// The last batches, and what limited them.

import { clock, svg } from "./chart.js";
import { el, ms, percent, problem, short } from "./dom.js";
import { Poller } from "./poll.js";

/** Seconds between two looks. */
const PERIOD = 2;
/** Share of the time with a batch running above which a model is busy. */
const BUSY = 0.9;
/** Pixels. */
const HEIGHT = 170;
const MARGIN = { top: 8, right: 8, bottom: 22, left: 40 };

/** Why a batch had no more rows: the server's word, a colour, a name, and what it means. */
export const LIMITS = {
  empty: ["rest", "no call waited", "It took all calls that waited."],
  window: ["post", "window over", "It had waited for more calls as long as max_queue_delay allows."],
  full: ["decode", "full", "It had max_batch_size rows."],
  deadline: ["bad", "deadline", "More rows would have made its first call too late."],
  size: ["infer", "good size", "A smaller batch does as well, or the config prefers its size."],
  next_call: ["queue", "next too large", "The next call has more rows than there was room for."],
  shape: ["queue", "other shape", "The calls that were left have inputs of another shape."],
};
const HOW =
  "The server keeps the last 128 batches of each model. Waited: since the first of its calls was let in, " +
  "which includes reading and decoding its inputs; of it for cores: while other batches had them. " +
  "Predicted: what the scheduler expected when the batch began. In all: until its answers were handed out.";
const known = (word) => LIMITS[word] ?? ["rest", word, ""];

/** Facts about batches, oldest first. */
export function summary(batches) {
  const first = batches[0];
  const last = batches.at(-1);
  const span = last.started + last.took - first.started;
  const limits = new Map();
  for (const { limited_by: word } of batches) limits.set(word, (limits.get(word) ?? 0) + 1);
  const sum = (read) => batches.reduce((total, batch) => total + read(batch), 0);
  const median = (read) => batches.map(read).sort((a, b) => a - b)[Math.floor(batches.length / 2)];
  return {
    span,
    limits: [...limits].sort(([, a], [, b]) => b - a),
    rows: sum((batch) => batch.rows) / batches.length,
    busy: covered(batches) / (span || 1),
    wait: median((batch) => batch.longest_wait),
    cores: median((batch) => batch.cores_wait),
    infer: median((batch) => batch.infer),
    failed: batches.filter((batch) => batch.failed).length,
  };
}

/** Seconds in which at least one batch ran. */
function covered(batches) {
  let total = 0;
  let end = -Infinity;
  for (const { started, took } of batches) {
    const from = Math.max(started, end);
    if (started + took > from) {
      total += started + took - from;
      end = started + took;
    }
  }
  return total;
}

/** One sentence: what most batches were limited by, and whether the server is the limit. */
export function sentence(batches) {
  const { limits, busy, span, cores, infer } = summary(batches);
  const [word, number] = limits[0];
  const of = `Of the last ${batches.length} batches (${duration(span)})`;
  const most = `${percent(number / batches.length, 0)}`;
  const running = `a batch ran ${percent(busy, 0)} of the time`;
  if (cores > infer) {
    return `${of}, half waited ${ms(1000 * cores)} or longer for cores that other batches had: the cores are the limit.`;
  }
  if (number / batches.length < 0.5) {
    return `${of}, no limit stands out: ${most} had "${short(known(word)[1], 60)}", others less often; ${running}.`;
  }
  switch (word) {
    case "empty":
      if (busy < BUSY) return `${of}, ${most} took all calls that waited, and ${running}: the server is not the limit.`;
      return `${of}, ${most} took all calls that waited, but ${running}: it is busy, and its callers wait for it before they ask again.`;
    case "window":
      return `${of}, ${most} began because max_queue_delay was over, before enough calls had come: the server waits for calls.`;
    case "full":
      if (busy < BUSY) return `${of}, ${most} were full, and ${running}: calls come in bursts.`;
      return `${of}, ${most} were full, and ${running}: the engine is the limit.`;
    case "deadline":
      return `${of}, ${most} were kept small for the deadline of their first call: deadlines, or slo_ms, are the limit.`;
    case "size":
      return `${of}, ${most} had the size that does best, and left calls for the next one; ${running}.`;
    case "next_call":
      return `${of}, ${most} had no room for the next call: calls of many rows fit badly into max_batch_size.`;
    case "shape":
      return `${of}, ${most} left calls that have inputs of another shape: only equal shapes share a batch.`;
    default:
      return `${of}, ${most} were limited by ${short(word, 60)}.`;
  }
}

function duration(seconds) {
  return seconds >= 60 ? `${(seconds / 60).toFixed(1)} min` : seconds >= 1 ? `${seconds.toFixed(1)} s` : ms(1000 * seconds);
}

/** Shows the page. Parameter `model`: name and version, "NAME/1", of the one that is chosen. */
export function mount(element, api, parameters = new URLSearchParams()) {
  return new Batches(element, api, parameters.get("model")).close;
}

class Batches {
  constructor(element, api, chosen) {
    this._api = api;
    this._chosen = chosen;
    this._found = null;
    this._paused = false;
    this._build(element);
    this._poller = new Poller((signal) => this._look(signal), PERIOD, (told) => this._told(told));
    this._changed = () => this._poller.again();
    api.addEventListener("credentials", this._changed);
    this.close = () => {
      api.removeEventListener("credentials", this._changed);
      this._poller.close();
      this._timeline.close();
    };
  }

  _build(element) {
    this._models = el("select", { onchange: () => this._choose(this._models.value) }, el("option", { value: "" }, "All models"));
    this._pause = el("button", { type: "button", "aria-pressed": "false", onclick: () => this._togglePause() }, "Pause");
    this._status = el("span", { class: "note", role: "status" });
    this._problem = el("div", {});
    this._content = el("div", { class: "page" }, el("p", { class: "empty" }, "Asking the server…"));
    this._timeline = new Timeline();
    element.append(
      el(
        "div",
        { class: "row toolbar" },
        el("h1", { class: "grow" }, "Batches"),
        this._status,
        el("label", { class: "row" }, "Model", this._models),
        this._pause,
      ),
      this._problem,
      this._content,
    );
  }

  async _look(signal) {
    const found = await this._api.get("debug/batches", { signal });
    if (this._paused) return;
    this._found = new Map(Object.entries(found));
    const names = [...this._found.keys()].sort();
    if (this._chosen && !names.includes(this._chosen)) names.unshift(this._chosen);
    const options = names.map((name) => el("option", { value: `=${name}` }, short(name, 60)));
    if (document.activeElement !== this._models) {
      this._models.replaceChildren(el("option", { value: "" }, "All models"), ...options);
      this._models.value = this._chosen ? `=${this._chosen}` : "";
    }
    this._show();
  }

  _choose(value) {
    this._chosen = value === "" ? null : value.slice(1);
    this._models.value = value;
    this._shown = undefined;
    this._show();
  }

  _togglePause() {
    this._paused = !this._paused;
    this._pause.setAttribute("aria-pressed", String(this._paused));
    this._pause.textContent = this._paused ? "Go on" : "Pause";
    this._status.textContent = this._paused ? `Paused at ${clock(Date.now() / 1000)}` : "";
  }

  _show() {
    if (this._found === null) return;
    if (this._chosen) this._showOne(this._chosen, this._found.get(this._chosen) ?? []);
    else this._showAll();
  }

  _showAll() {
    const models = [...this._found].filter(([, batches]) => batches.length);
    models.sort(([, a], [, b]) => b.at(-1).started - a.at(-1).started);
    const idle = this._found.size - models.length;
    if (!models.length) {
      this._content.replaceChildren(el("p", { class: "empty" }, "No batch has run yet. Each call of a model rides in one."));
      return;
    }
    const focused = document.activeElement?.dataset?.model;
    this._content.replaceChildren(
      legend(new Set(models.flatMap(([, batches]) => batches.map((batch) => batch.limited_by)))),
      el(
        "div",
        { class: "table limits", tabindex: "0", role: "region", "aria-label": "Models and their last batches" },
        el("table", {}, head("Model", "Engine, variant", "#Batches", "#Rows, mean", "Limited by", "#A batch runs", "#Waited, median", "#Engine, median"), el("tbody", {}, ...models.map((one) => this._line(one)))),
      ),
      idle ? el("p", { class: "note" }, `${idle} more served without a batch so far.`) : "",
    );
    if (focused) [...this._content.querySelectorAll("button")].find((button) => button.dataset.model === focused)?.focus();
  }

  _line([name, batches]) {
    const facts = summary(batches);
    const { engine, variant } = batches.at(-1);
    const words = facts.limits.map(([word, number]) => `${known(word)[1]} ${percent(number / batches.length, 0)}`).join(", ");
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, el("button", { type: "button", class: "quiet link name", "data-model": name, onclick: () => this._choose(`=${name}`) }, short(name, 80))),
      el("td", {}, `${short(engine, 40)}, ${short(variant, 40)}`),
      el("td", { class: "number" }, `${batches.length} in ${duration(facts.span)}`),
      el("td", { class: "number" }, facts.rows.toFixed(1)),
      el("td", { class: "shares" }, shares(facts.limits, batches.length), el("span", { class: "note" }, words)),
      el("td", { class: "number" }, percent(facts.busy, 0)),
      el("td", { class: "number" }, ms(1000 * facts.wait)),
      el("td", { class: "number" }, ms(1000 * facts.infer)),
    );
  }

  _showOne(name, batches) {
    if (!batches.length) {
      this._shown = undefined;
      const text = this._found.has(name) ? "No batch of this model has run yet." : "No such model serves now, or you may not see its batches.";
      this._content.replaceChildren(el("p", { class: "empty" }, text));
      return;
    }
    if (this._shown !== name) {
      this._shown = name;
      this._sentence = el("p", { class: "sentence" });
      this._facts = el("dl", { class: "figures" });
      this._legend = el("div", {});
      this._body = el("tbody", {});
      this._rows = el(
        "div",
        { class: "table tall", tabindex: "0", role: "region", "aria-label": `Batches of ${short(name, 80)}` },
        el(
          "table",
          {},
          el("caption", { class: "visually-hidden" }, "Batches, newest first"),
          head("Started", "#Rows", "#Calls", "#Left waiting", "Limited by", "#Waited", "#of it for cores", "#Predicted", "#Engine", "#In all"),
          this._body,
        ),
      );
      this._content.replaceChildren(this._sentence, this._facts, el("div", { class: "panel stack" }, this._timeline.element, this._legend), this._rows, el("p", { class: "note" }, HOW));
    }
    const facts = summary(batches);
    const { engine, variant } = batches.at(-1);
    this._sentence.textContent = sentence(batches);
    const shown = [
      ["Engine", short(engine, 40)], ["Variant", short(variant, 40)], ["Rows, mean", facts.rows.toFixed(1)],
      ["Batches", `${(batches.length / (facts.span || 1)).toFixed(1)}/s`], ["A batch runs", percent(facts.busy, 0)],
      ["Waited, median", ms(1000 * facts.wait)], ["Failed", String(facts.failed)],
    ];
    this._facts.replaceChildren(...shown.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", { class: "plain" }, value))));
    this._legend.replaceChildren(legend(new Map(facts.limits), batches.length));
    this._timeline.update(batches);
    this._body.replaceChildren(...[...batches].reverse().map(row));
  }

  _told({ state, error, seconds }) {
    if (state === "live") this._problem.replaceChildren();
    else {
      if (error.status === 403) error.message += ". This page needs the right to debug.";
      this._problem.replaceChildren(problem(error, state === "stopped" ? () => this._poller.again() : null));
      if (this._found === null) this._content.replaceChildren();
    }
    if (!this._paused) this._status.textContent = state === "failing" ? `Next try in ${Math.ceil(seconds)} s` : "";
  }
}

function head(...names) {
  const cell = (name) => el("th", { scope: "col", class: name.startsWith("#") ? "number" : null }, name.replace("#", ""));
  return el("thead", {}, el("tr", {}, ...names.map(cell)));
}

function row(batch) {
  const [color, name] = known(batch.limited_by);
  const cell = (text) => el("td", { class: "number" }, text);
  const time = `${clock(batch.at)}.${String(Math.floor(1000 * (batch.at % 1))).padStart(3, "0")}`;
  return el(
    "tr",
    {},
    el("th", { scope: "row", class: "mono" }, time),
    cell(String(batch.rows)),
    cell(String(batch.calls)),
    cell(String(batch.left_waiting)),
    el("td", {}, batch.failed ? el("span", { class: "state bad" }, "failed") : el("span", { class: `word c-${color}` }, short(name, 60))),
    cell(ms(1000 * batch.longest_wait)),
    cell(ms(1000 * batch.cores_wait)),
    cell(ms(1000 * batch.predicted)),
    cell(ms(1000 * batch.infer)),
    cell(ms(1000 * batch.took)),
  );
}

/** A bar of the limits to scale. */
function shares(limits, total) {
  const bar = svg("svg", { class: "sharebar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  let x = 0;
  for (const [word, number] of limits) {
    const width = (100 * number) / total;
    bar.append(svg("rect", { class: `area c-${known(word)[0]}`, x, width, y: 0, height: 10 }));
    x += width;
  }
  return bar;
}

/** What the words for limits mean; with their numbers where they have some. */
function legend(words, total = 0) {
  const items = Object.keys(LIMITS).filter((word) => words.has(word));
  return el(
    "ul",
    { class: "keys words" },
    ...items.map((word) => {
      const [color, name, meaning] = LIMITS[word];
      const share = total ? ` ${percent(words.get(word) / total, 0)}` : "";
      return el("li", {}, el("span", { class: `word c-${color}` }, name), el("b", {}, share), el("span", { class: "muted" }, meaning));
    }),
  );
}

/** Batches over time: as wide as they took, as high as they had rows. */
class Timeline {
  constructor() {
    this._batches = [];
    this._chosen = null;
    this._svg = svg("svg", { "aria-hidden": "true", height: HEIGHT, width: "100%" });
    this._tip = el("div", { class: "tip", hidden: true });
    this.element = el(
      "div",
      {
        class: "plot",
        tabindex: "0",
        role: "slider",
        "aria-label": "Batch, by its start",
        "aria-valuemin": "1",
        onkeydown: (event) => this._key(event),
        onpointermove: (event) => this._point(event),
        onpointerdown: (event) => this._point(event),
        onpointerleave: () => document.activeElement !== this.element && this._choose(null),
        onfocus: () => this._choose(this._chosen ?? this._batches.at(-1)?.started ?? null),
        onblur: () => this._choose(null),
      },
      this._svg,
      this._tip,
    );
    this._resized = new ResizeObserver(() => this._draw());
    this._resized.observe(this.element);
  }

  close() {
    this._resized.disconnect();
  }

  update(batches) {
    this._batches = batches;
    this._draw();
  }

  _draw() {
    const width = this.element.clientWidth;
    const batches = this._batches;
    if (!width || !batches.length) return;
    const first = batches[0].started;
    const end = Math.max(...batches.map(({ started, took }) => started + took));
    const span = Math.max(end - first, 1e-6);
    const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
    const most = Math.max(...batches.map(({ rows }) => rows));
    this._x = (time) => MARGIN.left + (inner.width * (time - first)) / span;
    const y = (rows) => MARGIN.top + inner.height * (1 - rows / most);
    this._svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const levels = [...new Set([0, Math.ceil(most / 2), most])].flatMap((rows) => [
      svg("line", { class: "level", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(rows), y2: y(rows) }),
      svg("text", { x: MARGIN.left - 6, y: y(rows) + 4, "text-anchor": "end" }, String(rows)),
    ]);
    const bars = batches.map((batch) =>
      svg("rect", {
        class: `area c-${batch.failed ? "bad" : known(batch.limited_by)[0]}`,
        x: this._x(batch.started),
        width: Math.max(1.5, this._x(batch.started + batch.took) - this._x(batch.started)),
        y: y(batch.rows),
        height: y(0) - y(batch.rows),
      }),
    );
    const ends = [[0, "start"], [0.5, "middle"], [1, "end"]].map(([share, anchor]) =>
      svg("text", { x: MARGIN.left + share * inner.width, y: HEIGHT - 5, "text-anchor": anchor }, share ? `+${duration(share * span)}` : clock(batches[0].at)),
    );
    this._pointer = svg("g", { class: "cursor" });
    this._svg.replaceChildren(...levels, ...bars, ...ends, this._pointer);
    this._pointOut();
  }

  _at() {
    const at = this._batches.findIndex(({ started }) => started === this._chosen);
    return at < 0 ? this._batches.length - 1 : at;
  }

  _choose(started) {
    this._chosen = started;
    this._pointOut();
  }

  _pointOut() {
    const batches = this._batches;
    if (!batches.length || !this._x) return;
    const at = this._at();
    const batch = batches[at];
    const lines = described(batch);
    this.element.setAttribute("aria-valuemax", String(batches.length));
    this.element.setAttribute("aria-valuenow", String(at + 1));
    this.element.setAttribute("aria-valuetext", lines.map(([name, value]) => `${name} ${value}`).join(", "));
    this._pointer.replaceChildren();
    this._tip.hidden = this._chosen === null;
    if (this._tip.hidden) return;
    const x = this._x(batch.started);
    this._pointer.append(svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
    this._tip.replaceChildren(...lines.map(([name, value]) => el("div", {}, el("span", {}, name), el("b", {}, value))));
    const left = x > this.element.clientWidth / 2;
    this._tip.style.left = left ? "auto" : `${x + 8}px`;
    this._tip.style.right = left ? `${this.element.clientWidth - x + 8}px` : "auto";
  }

  _point(event) {
    if (!this._x) return;
    const x = event.clientX - this.element.getBoundingClientRect().left;
    const distance = ({ started, took }) => {
      const [from, to] = [this._x(started), this._x(started + took)];
      return x < from ? from - x : Math.max(0, x - to);
    };
    const nearest = this._batches.reduce((best, batch) => (distance(batch) <= distance(best) ? batch : best));
    this._choose(nearest.started);
  }

  _key(event) {
    const last = this._batches.length - 1;
    const at = this._at();
    const next = {
      ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1,
      PageDown: at - 10, PageUp: at + 10, Home: 0, End: last,
    }[event.key];
    if (event.key === "Escape") this._choose(null);
    else if (next !== undefined && last >= 0) this._choose(this._batches[Math.min(last, Math.max(0, next))].started);
    else return;
    event.preventDefault();
  }
}

function described(batch) {
  return [
    ["started", clock(batch.at)],
    ["rows", `${batch.rows} of ${batch.calls} ${batch.calls === 1 ? "call" : "calls"}`],
    ["left waiting", String(batch.left_waiting)],
    ["limited by", batch.failed ? "failed" : short(known(batch.limited_by)[1], 60)],
    ["waited", ms(1000 * batch.longest_wait)],
    ["engine", ms(1000 * batch.infer)],
    ["in all", ms(1000 * batch.took)],
  ];
}
