// Every model that the reader may see: what serves, how good and how fast it is, or why it does not.

import { Admin } from "./admin.js";
import { bytes, count, el, ms, percent, problem, short, styled } from "./dom.js";

export const MODELS = "vision/v1/models";
// Milliseconds between two looks. Shorter shows a change sooner, longer asks the server less.
const LOOK = 5000;
// Milliseconds that an answer may take. A server that hangs must not look as if nothing had changed.
const PATIENCE = 15_000;
// Variants of one version that are listed, and lines about those that were not chosen.
const LISTED = 64;

const STATES = {
  READY: ["ok", "Ready"],
  LOADING: ["warn", "Loading"],
  UNLOADING: ["warn", "Unloading"],
  UNAVAILABLE: ["bad", "Not available"],
  "": ["", "Not loaded"],
};
const MEASURES = { top1: "top-1", miou: "mIoU", iou: "IoU", rank1: "rank-1", agreement: "agreement" };

/** The variant of a version that serves, as it was measured; undefined where it was not. */
const serving = (model) => model.variants?.find((variant) => variant.serves);
const first = (model) => Object.values(model.latency_ms ?? {})[0];

// Title, value to sort by, and whether the column holds numbers.
const COLUMNS = [
  ["Model", (model) => `${model.name}\n${model.version.padStart(12)}`],
  ["State", (model) => model.state],
  ["Task", (model) => model.task ?? ""],
  ["Serves", (model) => `${model.variant ?? ""} ${model.engine ?? ""}`],
  ["Accuracy", (model) => serving(model)?.accuracy.value, true],
  ["Size", (model) => serving(model)?.bytes, true],
  ["Batch of 1", first, true],
];

export function mount(place, api) {
  const stop = new AbortController();
  const page = new Page(place, api, stop.signal);
  page.look();
  const timer = setInterval(() => document.hidden || page.look(), LOOK);
  return () => {
    clearInterval(timer);
    stop.abort();
  };
}

class Page {
  constructor(place, api, signal) {
    this._api = api;
    this._signal = signal;
    this._looking = false;
    this._answered = false;
    this._admin = new Admin(api, () => this.look(), signal);
    this._groups = new Map();
    this._order = [0, 1];
    this._summary = el("span", { class: "muted", role: "status" }, "Asking the server…");
    this._filter = el("input", {
      type: "search", placeholder: "Name, task, …", "aria-label": "Show models with", spellcheck: "false",
      oninput: () => this._arrange(),
    });
    this._state = el(
      "select",
      { "aria-label": "Show models in state", onchange: () => this._arrange() },
      el("option", { value: "all" }, "All states"),
      el("option", { value: "ready" }, "Ready"),
      el("option", { value: "other" }, "Not ready"),
    );
    this._headers = COLUMNS.map(([title, , numeric], column) =>
      el(
        "th",
        { scope: "col", class: numeric ? "number" : "" },
        el("button", { type: "button", onclick: () => this._sortBy(column) }, title),
      ),
    );
    this._table = el("table", {}, el("thead", {}, el("tr", {}, this._headers)));
    this._trouble = el("div", {});
    this._none = el("p", { class: "empty", hidden: true }, "No model fits.");
    place.append(
      el("div", { class: "head" }, el("h1", {}, "Models"), this._summary, el("span", { class: "grow" }), this._filter, this._state),
      this._trouble,
      el("div", { class: "table models" }, this._table, this._none),
    );
    this._sortBy(0, 1);
  }

  /** Asks for the models, and shows what has changed. */
  async look() {
    if (this._looking) return;
    this._looking = true;
    try {
      const signal = AbortSignal.any([this._signal, AbortSignal.timeout(PATIENCE)]);
      const { models } = await this._api.get(MODELS, { signal });
      this._trouble.replaceChildren();
      this._take(models);
      if (!models.length) this._say("No models");
    } catch (error) {
      if (error.name === "AbortError") return;
      this._say(this._groups.size ? "Not up to date" : "");
      this._trouble.replaceChildren(problem(error, () => this.look()));
    } finally {
      this._looking = false;
    }
  }

  _take(models) {
    this._answered = true;
    const found = new Map(models.map((model) => [`${model.name}\n${model.version}`, model]));
    // A model that is loaded or unloaded gets another version: it stays as it was opened.
    const gone = new Map();
    for (const [key, group] of this._groups) {
      if (!found.has(key)) {
        gone.set(group.model.name, { open: group.open, focused: group.body.contains(document.activeElement) });
        group.body.remove();
        this._groups.delete(key);
      }
    }
    let held = null; // the group in which the focus was
    for (const [key, model] of found) {
      const group = this._groups.get(key);
      const text = JSON.stringify(model);
      if (group?.text === text) continue;
      const before = gone.get(model.name);
      const made = new Group(model, text, group?.open ?? before?.open ?? false, this._admin);
      const focused = group?.body.contains(document.activeElement) ?? before?.focused;
      if (group) group.body.replaceWith(made.body);
      this._groups.set(key, made);
      if (focused) held = made;
    }
    this._arrange();
    held?.toggle.focus(); // once it is in the page
  }

  _sortBy(column, direction = null) {
    const [before, was] = this._order;
    const towards = direction ?? (before === column ? -was : 1);
    this._order = [column, towards];
    this._headers.forEach((header, index) => {
      if (index === column) header.setAttribute("aria-sort", towards > 0 ? "ascending" : "descending");
      else header.removeAttribute("aria-sort");
    });
    this._arrange();
  }

  _arrange() {
    const [column, direction] = this._order;
    const value = COLUMNS[column][1];
    const sorted = [...this._groups.values()].sort((a, b) => compared(value(a.model), value(b.model), direction));
    const words = this._filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const group of sorted) {
      const isReady = group.model.state === "READY";
      const wanted = { all: true, ready: isReady, other: !isReady }[this._state.value];
      group.body.hidden = !wanted || !words.every((word) => group.words.includes(word));
      shown += group.body.hidden ? 0 : 1;
    }
    if (sorted.some((group, index) => group.body !== this._table.tBodies[index])) {
      const active = document.activeElement;
      this._table.append(...sorted.map((group) => group.body));
      if (active !== document.activeElement && this._table.contains(active)) active.focus();
    }
    const ready = sorted.filter((group) => group.model.state === "READY").length;
    this._none.hidden = shown > 0 || !this._answered;
    this._none.textContent = sorted.length ? "No model fits." : "The server has no models that you may see.";
    if (sorted.length) {
      const all = `${sorted.length} version${sorted.length === 1 ? "" : "s"}, ${ready} ready`;
      this._say(shown < sorted.length ? `${shown} of ${all}` : all);
    }
  }

  /** Tells how many there are; the same again is not told again to who hears the page. */
  _say(text) {
    if (this._summary.textContent !== text) this._summary.textContent = text;
  }
}

/** Order of two values in a direction; those that are missing come last in both. */
function compared(a, b, direction) {
  const missing = [a, b].map((value) => value === undefined || value === null || value === "");
  if (missing[0] || missing[1]) return missing[0] - missing[1];
  return direction * (typeof a === "number" ? a - b : a.localeCompare(b));
}

/** The rows of one version. */
class Group {
  constructor(model, text, open, admin) {
    this.model = model;
    this._admin = admin;
    this.text = text;
    this.open = false;
    this.words = [model.name, model.version, model.task, model.variant, model.engine, model.architecture]
      .join(" ")
      .toLowerCase();
    this.toggle = el(
      "button",
      { type: "button", class: "toggle", "aria-expanded": "false", onclick: () => this._show(!this.open) },
      el("span", { class: "name" }, short(model.name)),
    );
    const version = model.version && el("span", { class: "muted nowrap" }, ` version ${model.version}`);
    const [kind, word] = STATES[model.state] ?? ["", short(model.state, 40)];
    const chosen = serving(model);
    const latency = first(model);
    const values = [
      el("span", { class: `state ${kind}` }, word),
      model.task,
      served(model),
      chosen && accuracy(chosen.accuracy, model.measure),
      chosen && bytes(chosen.bytes),
      latency === undefined ? null : ms(latency),
    ];
    const cells = values.map((value, index) => {
      const [title, , numeric] = COLUMNS[index + 1];
      return el("td", { class: numeric ? "number" : "", "data-title": title }, value ? el("div", {}, value) : null);
    });
    const name = el("th", { scope: "row" }, this.toggle, version || null);
    this.body = el("tbody", {}, el("tr", {}, name, cells));
    if (model.reason) {
      this.body.append(el("tr", { class: "reason" }, el("td", { colspan: COLUMNS.length }, short(model.reason, 1000))));
    }
    if (open) this._show(true);
  }

  _show(open) {
    this.open = open;
    this.toggle.setAttribute("aria-expanded", String(open));
    this._details?.remove();
    this._details = open ? el("tr", { class: "details" }, el("td", { colspan: COLUMNS.length }, details(this.model, this._admin))) : null;
    if (open) this.body.append(this._details);
  }
}

function served(model) {
  if (!model.variant) return null;
  return [el("span", { class: "mono" }, short(model.variant, 60)), " ", el("span", { class: "muted" }, short(model.engine, 60))];
}

function accuracy({ value, low, high, n }, measure) {
  return [
    el("span", {}, percent(value)),
    el("span", { class: "interval" }, `${MEASURES[measure] ?? short(measure, 20)} ${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)}, n=${n}`),
  ];
}

/** All that is known of a version. */
function details(model, admin) {
  const parts = [actions(model, admin)];
  const tall = Object.entries(model.latency_ms ?? {});
  const columns = el("div", { class: "facts" }, facts(model), tall.length ? latencies(tall) : null);
  parts.push(columns);
  if (model.variants?.length) parts.push(variants(model));
  if (model.rejected?.length) {
    const lines = model.rejected.slice(0, LISTED).map((line) => el("li", {}, short(line, 1000)));
    parts.push(el("div", {}, el("h3", {}, "Not chosen here"), el("ul", { class: "note" }, lines)));
  }
  if (model.state !== "READY") parts.push(el("p", { class: "muted" }, "More is known once it serves."));
  return el("div", { class: "stack" }, parts);
}

/** What one may do with a version. */
function actions(model, admin) {
  const query = new URLSearchParams({ model: model.name, version: model.version });
  const link = (page, text, parameters = query) => el("a", { class: "button", href: `#/${page}?${parameters}` }, text);
  const serves = model.state === "READY";
  return el(
    "div",
    { class: "row actions" },
    serves && model.task ? [link("try", "Try an image"), link("compare", "Compare")] : null,
    serves ? [link("live", "Live"), link("batches", "Batches", new URLSearchParams({ model: `${model.name}/${model.version}` }))] : null,
    admin.buttons(model),
  );
}

function facts(model) {
  const [height, width, channels] = model.image ?? [];
  const lines = [
    ["Architecture", model.architecture],
    ["Image", model.image && `${width} × ${height}, ${channels === 1 ? "grey" : "RGB"}`],
    ["Classes", model.classes || null],
    ["Parameters", model.parameters && count(model.parameters)],
    ["GMACs", model.gmacs && model.gmacs.toFixed(2)],
    ["Pruned", model.pruning_ratio ? percent(model.pruning_ratio, 0) : null],
    ["Largest batch", model.max_batch_size],
    ["GPU memory", model.device_bytes ? bytes(model.device_bytes) : null],
    ["Measured on", model.dataset && `${model.dataset}, ${model.split}`],
    ["Built", model.created && moment(model.created)],
    ["Signed by", model.signed_by?.join(", ")],
  ].filter(([, value]) => value);
  if (!lines.length) return null;
  return el("dl", { class: "list" }, lines.map(([name, value]) => [el("dt", {}, name), el("dd", {}, short(value))]));
}

/** A time in UTC to the minute, as `2026-11-30 09:30 UTC`; any other text as it is. */
function moment(text) {
  const [, day, minute] = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d):[\d.]+(?:Z|\+00:00)$/.exec(text) ?? [];
  return day ? `${day} ${minute} UTC` : text;
}

/** Latency by batch size, as measured here when the version was loaded. */
function latencies(entries) {
  const most = Math.max(...entries.map(([, value]) => value));
  const bars = entries.map(([size, value]) => [
    el("span", { class: "nowrap" }, `batch of ${size}`),
    el("span", { class: "bar" }, styled(el("i"), { width: `${(100 * value) / most}%` })),
    el("span", { class: "number" }, `${ms(value)}, ${ms(value / size)} an image`),
  ]);
  return el("div", {}, el("h3", {}, "Latency here, measured at load"), el("div", { class: "bars" }, bars));
}

/** The variants of a version in the engines that its build measured. */
function variants(model) {
  const sizes = [...new Set(model.variants.flatMap((one) => Object.keys(one.latency_ms)))];
  const [least, most] = [sizes[0], sizes.at(-1)];
  const shown = least === most ? [least] : [least, most];
  const head = ["Variant", "Engine", "Accuracy", "Lost against FP32", "Agrees", "Size", ...shown.map((size) => `Batch of ${size}`), "Gate"];
  const rows = model.variants.slice(0, LISTED).map((one) =>
    el(
      "tr",
      { class: one.serves ? "serves" : "" },
      el("th", { scope: "row" }, el("span", { class: "mono" }, short(one.variant, 60)), one.serves ? el("span", { class: "tag" }, "serves") : null),
      el("td", {}, short(one.engine, 60)),
      el("td", { class: "number" }, accuracy(one.accuracy, model.measure)),
      el("td", { class: "number" }, points(one.drop)),
      el("td", { class: "number" }, percent(one.agreement)),
      el("td", { class: "number" }, bytes(one.bytes)),
      shown.map((size) => el("td", { class: "number" }, ms(one.latency_ms[size]))),
      el(
        "td",
        {},
        el("span", { class: `state ${one.gate.passed ? "ok" : "bad"}` }, one.gate.passed ? "passed" : "failed"),
        one.gate.passed ? null : el("p", { class: "note" }, short(one.gate.reason)),
      ),
    ),
  );
  const titles = head.map((title, index) => el("th", { scope: "col", class: index > 1 && index < head.length - 1 ? "number" : "" }, title));
  const machine = [...new Set(model.variants.map((one) => one.machine))].join("; ");
  return el(
    "div",
    { class: "inner", tabindex: 0, role: "region", "aria-label": "Variants" },
    el("table", {}, el("caption", {}, `Variants as their build measured them, on ${short(machine)}`), el("thead", {}, el("tr", {}, titles)), el("tbody", {}, rows)),
  );
}

/** A loss of accuracy in points, with its interval. */
function points({ value, low, high }) {
  const shown = (share) => (100 * share).toFixed(2);
  return [el("span", {}, shown(value)), el("span", { class: "interval" }, `${shown(low)} to ${shown(high)}`)];
}
