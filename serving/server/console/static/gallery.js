// Pictures that a probe is compared with by their points. They stay in this page: the server sees each
// once for a version, and keeps none.

import { asked, cosine } from "./answers.js";
import { bytes, el, problem, short, styled } from "./dom.js";
import { maybeImage, named } from "./files.js";
import { copied, opened } from "./picture.js";

// Pictures that a gallery holds, and bytes of the file of each, most.
const MOST = 500;
const LARGEST = 32 * 2 ** 20;
// Pictures that are shown beside a probe, and reasons of those that have no point.
const NEAREST = 12;
const REASONS = 20;
// Pixels of the longer side of a small picture.
const SIDE = 96;
// A server that is full is asked again so often for one picture, after at most so many seconds each.
const TRIES = 10;
const LONGEST_WAIT = 30;
// Answers about the picture itself, which asking again does not change.
const REFUSED = new Set([400, 413, "file"]);

// {blob, name, small, points, reasons}; small: a canvas, null where the browser cannot show it. points
// and reasons: by the key of a version. As long as the page is open.
let pictures = [];

const keyOf = (model) => JSON.stringify([model.name, model.version, model.variant]);
const many = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

export class Gallery {
  /** signal: ends it. */
  constructor(api, signal) {
    this._api = api;
    this._signal = signal;
    this._model = null;
    this._probe = null; // {picture, values, key, place}: what was compared last, and where it is shown
    this.nearest = null; // {name, score}: what came first
    this._drawn = new WeakSet(); // pictures with a place among the small ones
    this._run = new AbortController();
    this._count = el("span", { class: "note" });
    this._status = el("p", { class: "note name", role: "status" });
    this._progress = el("progress", { "aria-label": "Pictures of the gallery that the model has seen" });
    this._trouble = el("div", {});
    this._small = el("ul", { class: "thumbnails", tabindex: 0, role: "list", "aria-label": "Pictures in the gallery" });
    this._reasons = el("ul", { class: "note reasons" });
    this._files = el("input", { type: "file", accept: "image/*", multiple: true, id: "gallery-files", class: "visually-hidden" });
    this._folder = el("input", { type: "file", webkitdirectory: true, id: "gallery-folder", class: "visually-hidden" });
    this._clear = el("button", { type: "button", class: "quiet", onclick: () => this._empty() }, "Empty it");
    for (const input of [this._files, this._folder]) {
      input.addEventListener("change", () => {
        this.add(named(input.files));
        input.value = "";
      });
    }
    this.element = el(
      "section",
      { class: "panel stack gallery", "aria-label": "Gallery", hidden: true },
      el("div", { class: "head" }, el("h2", {}, "Gallery"), this._count, el("span", { class: "grow" }), this._clear),
      el("p", { class: "note" }, "Drop several pictures or a folder, and each picture above is compared with them. They stay in this page."),
      el(
        "div",
        { class: "row" },
        this._files,
        el("label", { for: "gallery-files", class: "button" }, "Add pictures"),
        this._folder,
        el("label", { for: "gallery-folder", class: "button" }, "Add a folder"),
      ),
      this._status,
      this._progress,
      this._trouble,
      this._small,
      this._reasons,
    );
    signal.addEventListener("abort", () => this._run.abort());
  }

  /** Shows the gallery to a version; to none that gives no points. */
  show(model) {
    const wanted = model?.task === "embedding" ? model : null;
    if (wanted && this._model && keyOf(wanted) === keyOf(this._model)) return;
    this._model = wanted;
    this._probe = null;
    this.element.hidden = !wanted;
    this._draw();
    this._measure();
  }

  /** Whether files that were dropped or pasted at an element are for the gallery; it takes them then. */
  takes(files, target) {
    if (!this._model || (files.length < 2 && !this.element.contains(target))) return false;
    this.add(files);
    return true;
  }

  /** Adds files, [[file, name]], as far as there is room. */
  add(files) {
    const left = { "no image": 0, "there already": 0, [`more than ${bytes(LARGEST)}`]: 0, [`more than ${MOST} pictures`]: 0 };
    const [noImage, twice, large, over] = Object.keys(left);
    const known = new Set(pictures.map(({ blob, name }) => identity(blob, name)));
    let added = 0;
    for (const [file, name] of files) {
      const same = identity(file, name);
      if (!maybeImage(file)) left[noImage] += 1;
      else if (known.has(same)) left[twice] += 1;
      else if (file.size > LARGEST) left[large] += 1;
      else if (pictures.length >= MOST) left[over] += 1;
      else {
        known.add(same);
        pictures.push({ blob: file, name, small: undefined, points: new Map(), reasons: new Map() });
        added += 1;
      }
    }
    const reasons = Object.entries(left).filter(([, number]) => number).map(([reason, number]) => `${number} left out: ${reason}`);
    this._status.textContent = [`${many(added, "picture")} added`, ...reasons].join("; ");
    this._draw();
    this._measure();
  }

  /** What the gallery says of a picture's point; it says more as more of its own are known. */
  compared(picture, values) {
    this._probe = { picture, values, key: keyOf(this._model), place: el("div", { class: "stack" }) };
    this._compare();
    return this._probe.place;
  }

  _compare() {
    if (!this._probe) return;
    const { picture, values, key, place } = this._probe;
    const others = pictures.filter((one) => one.blob !== picture.blob);
    const known = others.filter((one) => one.points.get(key)?.length === values.length);
    const scored = known.map((one) => ({ ...one, score: cosine(one.points.get(key), values) })).sort((a, b) => b.score - a.score);
    this.nearest = scored[0] ?? null;
    const none = others.length ? "No picture of the gallery has a point yet." : "There is nothing to compare it with: add pictures to the gallery, or keep this one there and show another.";
    const list = scored.length ? el("ol", { class: "nearest" }, scored.slice(0, NEAREST).map(row)) : el("p", {}, none);
    // The button stays the same one, so that who is at it stays there while the gallery grows.
    const keep = place.querySelector(".row") ?? el("div", { class: "row" }, el("button", { type: "button", onclick: () => this._keep(picture, values, key) }, "Keep it in the gallery"));
    keep.hidden = others.length < pictures.length;
    const note = el("p", { class: "note" }, told(scored.length, values.length));
    if (keep.isConnected) {
      place.firstChild.replaceWith(list);
      place.lastChild.replaceWith(note);
    } else place.replaceChildren(list, keep, note);
  }

  /** Adds a picture whose point is known. */
  _keep(picture, values, key) {
    if (pictures.length >= MOST) {
      this._status.textContent = `It holds ${MOST} pictures, and no more.`;
      return;
    }
    const small = picture.canvas && copied(picture.canvas, SIDE);
    pictures.push({ blob: picture.blob, name: picture.name, small, points: new Map([[key, values]]), reasons: new Map() });
    this._status.textContent = `${short(picture.name, 80)} added`;
    this._draw();
    this._files.focus();
  }

  _empty() {
    this._run.abort();
    pictures = [];
    this._status.textContent = "The gallery is empty.";
    this._trouble.replaceChildren();
    this._draw();
    this._files.focus();
  }

  /** Asks for the points that are missing, one after the other, so that others get answers meanwhile. */
  async _measure() {
    this._run.abort();
    const run = (this._run = new AbortController());
    const model = this._model;
    if (!model || this._signal.aborted) return;
    const key = keyOf(model);
    const missing = () => pictures.find((one) => !one.points.has(key) && !one.reasons.has(key));
    this._trouble.replaceChildren();
    try {
      for (let one = missing(); one; one = missing()) {
        await this._ask(one, model, key, run.signal);
        if (run.signal.aborted) return;
        this._draw();
      }
    } catch (error) {
      if (run.signal.aborted) return;
      this._trouble.replaceChildren(problem(error, () => this._measure()));
    }
  }

  async _ask(one, model, key, signal) {
    if (one.small === undefined) {
      const { canvas } = await opened(one.blob, one.name);
      one.small = canvas && copied(canvas, SIDE);
    }
    for (let tries = 1; ; tries += 1) {
      try {
        const { values } = await asked(this._api, model, one, { signal });
        one.points.set(key, Float32Array.from(values));
        return;
      } catch (error) {
        if (REFUSED.has(error.status)) {
          one.reasons.set(key, error.message);
          return;
        }
        const seconds = error.retryAfter ?? 1;
        if (error.status !== 429 || tries === TRIES || seconds > LONGEST_WAIT) throw error;
        await waited(seconds, signal);
      }
    }
  }

  _draw() {
    const key = this._model && keyOf(this._model);
    const refused = pictures.filter((one) => one.reasons.has(key));
    const seen = pictures.filter((one) => one.points.has(key)).length + refused.length;
    this._count.textContent = pictures.length ? many(pictures.length, "picture") : "";
    this._clear.hidden = this._small.hidden = !pictures.length;
    this._progress.hidden = seen === pictures.length;
    this._progress.max = pictures.length || 1;
    this._progress.value = seen;
    if (!pictures.length) this._small.replaceChildren();
    for (const one of pictures) {
      if (one.small !== undefined && !this._drawn.has(one)) this._small.append(thumbnail(one));
      if (one.small !== undefined) this._drawn.add(one);
    }
    this._compare();
    this._reasons.hidden = !refused.length;
    this._reasons.replaceChildren(
      ...refused.slice(0, REASONS).map((one) => el("li", { class: "name" }, `${short(one.name, 80)}: ${short(one.reasons.get(key))}`)),
      ...(refused.length > REASONS ? [el("li", {}, `and ${refused.length - REASONS} more`)] : []),
    );
  }
}

/** What tells a file from others. */
function identity(blob, name) {
  return JSON.stringify([name, blob.size, blob.lastModified]);
}

function thumbnail({ small, name }) {
  const shown = small ? copied(small, SIDE) : el("span", { class: "note" }, "?");
  shown.setAttribute("role", "img");
  shown.setAttribute("aria-label", short(name, 80));
  shown.title = short(name);
  return el("li", { class: "small" }, shown);
}

function row({ small, name, score }) {
  return el(
    "li",
    {},
    el("span", { class: "small", "aria-hidden": "true" }, small ? copied(small, SIDE) : null),
    el("span", { class: "name" }, short(name, 80)),
    el("span", { class: "bar" }, styled(el("i"), { width: `${100 * Math.max(0, score)}%` })),
    el("span", { class: "number" }, score.toFixed(3)),
  );
}

function told(compared, size) {
  const shown = compared > NEAREST ? `The nearest ${NEAREST} of ${compared}. ` : "";
  const measure = compared ? "Cosine similarity: 1 is the same direction. " : "";
  return `${shown}${measure}A point of ${many(size, "value")}.`;
}

/** Waits, unless the signal ends it. */
function waited(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
