// Charts over time, drawn as SVG, with the same numbers for the keyboard and as a table.

import { el, short } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
/** Pixels. */
const HEIGHT = 150;
const MARGIN = { top: 8, right: 8, bottom: 20, left: 54 };
/** Series of the same colour differ in their dashes. */
const DASHES = ["", "6 3", "2 3"];
const PAGE = 10;

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The time that somebody points at, in all charts of a page; null for the newest. */
export class Cursor extends EventTarget {
  constructor() {
    super();
    this.time = null;
  }

  set(time) {
    if (time === this.time) return;
    this.time = time;
    this.dispatchEvent(new Event("move"));
  }
}

/** The least number not below a value that is easy to read, as its half is. base: 10, or 1024 for
 *  bytes. */
export function niceAbove(value, base = 10) {
  if (!(value > 0) || !Number.isFinite(value)) return 1;
  const power = base ** Math.floor(Math.log(value) / Math.log(base) + 1e-9);
  const steps = base === 10 ? [1, 2, 4, 6, 8] : [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
  return (steps.find((step) => step * power >= value * (1 - 1e-9)) ?? base) * power;
}

/** Hours, minutes and seconds of a time in seconds since 1970. */
export function clock(time, seconds = true) {
  const date = new Date(1000 * time);
  const parts = [date.getHours(), date.getMinutes(), ...(seconds ? [date.getSeconds()] : [])];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

/** Lines over time. */
export class LineChart {
  /** title, note: texts above it. empty: stands where there is no number. format: a value as a text.
   *  base: as niceAbove has it. cursor: of the page. */
  constructor({ title, note = "", empty = "nothing yet", format, base = 10, cursor }) {
    this._title = title;
    this._empty = empty;
    this._base = base;
    this._format = format;
    this._cursor = cursor;
    this._data = { times: [], series: [], marks: [], from: 0, to: 1 };
    this._active = false;
    this._svg = svg("svg", { "aria-hidden": "true", height: HEIGHT, width: "100%" });
    this._tip = el("div", { class: "tip", hidden: true });
    this._plot = el(
      "div",
      {
        class: "plot",
        tabindex: "0",
        role: "slider",
        "aria-label": `${title}: point in time`,
        "aria-valuemin": "0",
        onkeydown: (event) => this._key(event),
        onpointermove: (event) => this._point(event),
        onpointerdown: (event) => this._point(event),
        onpointerleave: () => this._leave(),
        onfocus: () => this._enter(),
        onblur: () => this._leave(),
      },
      this._svg,
      this._tip,
    );
    this._legend = el("ul", { class: "keys" });
    this._table = el("div", { class: "table", tabindex: "0", role: "region", "aria-label": `${title}: table` });
    this._details = el(
      "details",
      { ontoggle: () => this._fillTable() },
      el("summary", {}, "Table"),
      this._table,
    );
    this.element = el(
      "figure",
      { class: "chart panel" },
      el("figcaption", {}, el("h2", {}, title), note && el("span", { class: "note" }, note)),
      this._plot,
      this._legend,
      this._details,
    );
    this._moved = () => this._point_out();
    cursor.addEventListener("move", this._moved);
    this._resized = new ResizeObserver(() => this._draw());
    this._resized.observe(this._plot);
  }

  /** Ends it. */
  close() {
    this._resized.disconnect();
    this._cursor.removeEventListener("move", this._moved);
  }

  /** Shows other numbers.
   *
   *  times: ascending, in seconds. series: {name, color, values}, a value or null for each time.
   *  marks: {time, text}. from, to: the times at its ends. */
  update(data) {
    this._data = data;
    this._draw();
  }

  /** Fills the table anew, if it is open. It does not change by itself while somebody reads it. */
  refreshTable() {
    this._fillTable();
  }

  _draw() {
    const { times, series, marks, from, to } = this._data;
    const width = this._plot.clientWidth;
    if (!width) return;
    this._svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const all = series.flatMap(({ values }) => values.filter((value, at) => value !== null && times[at] >= from));
    const top = niceAbove(all.reduce((most, value) => Math.max(most, value), 0), this._base);
    const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
    this._x = (time) => MARGIN.left + (inner.width * (time - from)) / (to - from);
    this._y = (value) => MARGIN.top + inner.height * (1 - value / top);
    this._pointer = svg("g", { class: "cursor" });
    this._svg.replaceChildren(
      ...this._levels(top, width),
      ...this._ticks(from, to),
      ...marks.filter((mark) => mark.time >= from).map((mark) => this._mark(mark)),
      ...series.flatMap((one, index) => this._line(one, index, times)),
      this._pointer,
    );
    if (!all.length) {
      const middle = { x: MARGIN.left + inner.width / 2, y: MARGIN.top + inner.height / 2 };
      this._svg.append(svg("text", { ...middle, dy: -6, class: "nothing", "text-anchor": "middle" }, this._empty));
    }
    this._point_out();
  }

  _levels(top, width) {
    return [0, 0.5, 1].flatMap((share) => {
      const y = this._y(share * top);
      return [
        svg("line", { class: "level", x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }),
        svg("text", { x: MARGIN.left - 6, y: y + 4, "text-anchor": "end" }, this._format(share * top)),
      ];
    });
  }

  _ticks(from, to) {
    const room = this._x(to) - this._x(from);
    const steps = [15, 30, 60, 120, 300];
    const step = steps.find((one) => (room * one) / (to - from) >= 64) ?? 300;
    const found = [];
    for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
      const x = this._x(time);
      if (x > this._x(to) - 20) continue;
      found.push(svg("line", { class: "level", x1: x, x2: x, y1: this._y(0), y2: this._y(0) + 4 }));
      const text = clock(time, step < 60);
      found.push(svg("text", { x, y: HEIGHT - 4, "text-anchor": "middle" }, text));
    }
    return found;
  }

  _mark({ time, text }) {
    const x = this._x(time);
    const line = svg("line", { class: "mark", x1: x, x2: x, y1: MARGIN.top, y2: this._y(0) });
    return svg("g", {}, line, svg("text", { x: x + 4, y: MARGIN.top + 8, class: "mark" }, text));
  }

  _line({ values, color, dash = 0 }, index, times) {
    let path = "";
    let before = false;
    const alone = [];
    values.forEach((value, at) => {
      if (value === null || times[at] < this._data.from) {
        before = false;
        return;
      }
      const x = this._x(times[at]).toFixed(1);
      const y = this._y(value).toFixed(1);
      path += `${before ? "L" : "M"}${x} ${y}`;
      if (!before && (values[at + 1] ?? null) === null) alone.push(svg("circle", { cx: x, cy: y, r: 2 }));
      before = true;
    });
    const look = { class: `line c-${color}`, "stroke-dasharray": DASHES[dash] };
    return [svg("path", { ...look, d: path }), ...alone.map((dot) => (dot.setAttribute("class", `dot c-${color}`), dot))];
  }

  /** The number of the point under the cursor; the newest where it is nowhere. */
  _at() {
    const { times } = this._data;
    const wanted = this._cursor.time;
    if (wanted === null || !times.length) return times.length - 1;
    let best = 0;
    times.forEach((time, at) => {
      if (Math.abs(time - wanted) < Math.abs(times[best] - wanted)) best = at;
    });
    return best;
  }

  _point_out() {
    const { times, series } = this._data;
    const at = this._at();
    const shown = this._cursor.time !== null && at >= 0;
    this._pointer?.replaceChildren();
    if (shown && this._x) {
      const x = this._x(times[at]);
      this._pointer.append(svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: this._y(0) }));
      for (const { values, color } of series) {
        if (values[at] !== null) {
          this._pointer.append(svg("circle", { class: `dot c-${color}`, cx: x, cy: this._y(values[at]), r: 3 }));
        }
      }
    }
    const texts = series.map(({ name, values }) => [name, this._text(values[at] ?? null)]);
    this._fillLegend(texts);
    this._fillTip(shown, at, texts);
    const said = texts.map(([name, value]) => `${short(name, 60)} ${value}`).join(", ") || this._empty;
    this._plot.setAttribute("aria-valuemax", String(Math.max(0, times.length - 1)));
    this._plot.setAttribute("aria-valuenow", String(Math.max(0, at)));
    this._plot.setAttribute("aria-valuetext", at < 0 ? said : `${clock(times[at])}: ${said}`);
  }

  _text(value) {
    return value === null ? "–" : this._format(value);
  }

  _fillLegend(texts) {
    const { series } = this._data;
    while (this._legend.children.length > texts.length) this._legend.lastChild.remove();
    texts.forEach(([name, value], index) => {
      let item = this._legend.children[index];
      if (!item) {
        const line = svg("line", { x1: 0, x2: 18, y1: 5, y2: 5 });
        const sample = svg("svg", { width: 18, height: 10, "aria-hidden": "true" }, line);
        item = el("li", {}, sample, el("span", { class: "name" }), el("b", {}));
        this._legend.append(item);
      }
      const line = item.querySelector("line");
      line.setAttribute("class", `line c-${series[index].color}`);
      line.setAttribute("stroke-dasharray", DASHES[series[index].dash ?? 0]);
      item.children[1].textContent = short(name, 60);
      item.children[1].title = name;
      item.children[2].textContent = value;
    });
  }

  _fillTip(shown, at, texts) {
    this._tip.hidden = !shown || !this._active;
    if (this._tip.hidden) return;
    const lines = texts.map(([name, value]) => el("div", {}, el("span", {}, short(name, 40)), el("b", {}, value)));
    this._tip.replaceChildren(el("div", { class: "when" }, clock(this._data.times[at])), ...lines);
    const x = this._x(this._data.times[at]);
    const left = x > this._plot.clientWidth / 2;
    this._tip.style.left = left ? "auto" : `${x + 8}px`;
    this._tip.style.right = left ? `${this._plot.clientWidth - x + 8}px` : "auto";
  }

  _fillTable() {
    if (!this._details.open) return;
    const { times, series, from } = this._data;
    const heads = [el("th", { scope: "col" }, "Time"), ...series.map(({ name }) => el("th", { scope: "col", class: "number" }, short(name, 60)))];
    const rows = times.flatMap((time, at) => {
      if (time < from) return [];
      const cells = series.map(({ values }) => el("td", { class: "number" }, this._text(values[at])));
      return [el("tr", {}, el("th", { scope: "row" }, clock(time)), ...cells)];
    });
    this._table.replaceChildren(
      el(
        "table",
        {},
        el("caption", { class: "visually-hidden" }, `${this._title}, newest first`),
        el("thead", {}, el("tr", {}, ...heads)),
        el("tbody", {}, ...rows.reverse()),
      ),
    );
  }

  _enter() {
    this._active = true;
    const { times } = this._data;
    if (this._cursor.time === null && times.length) this._cursor.set(times.at(-1));
    this._point_out();
  }

  _leave() {
    if (document.activeElement === this._plot) return;
    this._active = false;
    this._cursor.set(null);
    this._point_out();
  }

  _point(event) {
    const { from, to } = this._data;
    if (!this._x || !this._data.times.length) return;
    const box = this._plot.getBoundingClientRect();
    const share = (event.clientX - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right);
    this._active = true;
    this._cursor.set(from + Math.min(1, Math.max(0, share)) * (to - from));
  }

  _key(event) {
    const { times, from } = this._data;
    const first = times.findIndex((time) => time >= from);
    const last = times.length - 1;
    const at = this._at();
    const next = {
      ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1,
      PageDown: at - PAGE, PageUp: at + PAGE, Home: first, End: last,
    }[event.key];
    if (event.key === "Escape") {
      this._active = false;
      this._cursor.set(null);
    } else if (next !== undefined && last >= 0) {
      this._active = true;
      this._cursor.set(times[Math.min(last, Math.max(first, next))]);
    } else {
      return;
    }
    event.preventDefault();
  }
}
