// One picture, one model: what it answers, and where the time of the call went.

import { asked, bars, cosine, css, colour, overlay, servedBy, stages } from "./answers.js";
import { answering, Choice } from "./choice.js";
import { el, percent, problem, short, styled } from "./dom.js";
import { chooser, copied } from "./picture.js";

// Pictures that are kept for comparison, of each version that gives embeddings.
const KEPT = 24;
// Classes that a list shows, most.
const COUNTS = [5, 10, 25, 100];

// The points of pictures so far, by version: the server keeps none.
const gallery = new Map();

export function mount(place, api, parameters) {
  const stop = new AbortController();
  const page = new Page(api, stop.signal, parameters);
  const [zone, end] = chooser((picture) => page.take(picture));
  place.append(
    el("div", { class: "head" }, el("h1", {}, "Try an image")),
    el(
      "div",
      { class: "columns" },
      el("div", { class: "panel stack" }, page.choice.element, page.count, zone),
      page.result,
    ),
    page.told,
  );
  page.start();
  return () => {
    end();
    stop.abort();
  };
}

class Page {
  constructor(api, signal, parameters) {
    this._api = api;
    this._signal = signal;
    this._wanted = { model: parameters.get("model"), version: parameters.get("version") };
    this._picture = null;
    this._run = new AbortController();
    this.choice = new Choice("Model", () => this.ask());
    this._labels = el("select", { onchange: () => this.ask() }, COUNTS.map((number) => el("option", { value: number }, `${number} best`)));
    this.count = el("label", { class: "field" }, "Classes", this._labels);
    this.told = el("p", { class: "visually-hidden", role: "status" });
    this.result = el("div", { class: "panel stack result" }, el("p", { class: "empty" }, "The answer to your image comes here."));
  }

  async start() {
    try {
      const models = await answering(this._api, this._signal);
      this.choice.fill(models, this._wanted);
      if (models.length) this.ask();
      else this.result.replaceChildren(el("p", { class: "empty" }, "No model that answers images is ready, or none that you may see."));
    } catch (error) {
      if (error.name !== "AbortError") this.result.replaceChildren(problem(error, () => this.start()));
    }
  }

  take(picture) {
    this._picture = picture;
    this.ask();
  }

  /** Asks the model about the picture, once both are there. */
  async ask() {
    const model = this.choice.model;
    this.count.hidden = model?.task !== "classification";
    if (!model || !this._picture) return;
    this._run.abort();
    const run = (this._run = new AbortController());
    this.result.setAttribute("aria-busy", "true");
    try {
      const signal = AbortSignal.any([run.signal, this._signal]);
      const labels = Number(this._labels.value);
      const answer = await asked(this._api, model, this._picture, { labels, signal });
      this.result.replaceChildren(
        el("div", { class: "head" }, el("h2", {}, TITLES[model.task]), el("span", { class: "note name" }, servedBy(answer))),
        SHOWN[model.task](answer, this._picture),
        stages(answer),
      );
      this.told.textContent = TOLD[model.task](answer);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.result.replaceChildren(problem(error, () => this.ask()));
    } finally {
      if (run === this._run) this.result.removeAttribute("aria-busy");
    }
  }
}

const TITLES = { classification: "Best classes", segmentation: "Mask", embedding: "Nearest images" };
const TOLD = {
  classification: ({ labels: [best] }) => (best ? `${short(best.name, 100)}, ${percent(best.score)}` : "No class"),
  segmentation: ({ areas }) => `A mask of ${areas.length} classes`,
  embedding: ({ values }) => `A point of ${values.length} values`,
};
const SHOWN = {
  classification: (answer) => (answer.labels.length ? bars(answer.labels) : el("p", { class: "empty" }, "It names no class.")),
  segmentation: masked,
  embedding: nearest,
};

/** The mask over the picture, with a legend that shows and hides classes. */
function masked(answer, picture) {
  // Class 0 is the background of most sets.
  const hidden = new Set(answer.areas.length > 1 ? [0] : []);
  const found = answer.areas.slice(0, 3).map((area) => `${short(area.name, 60)} ${percent(area.fraction)}`);
  const view = overlay(answer, picture, `The mask over the picture: ${found.join(", ")}`);
  const fade = el("input", { type: "range", min: 0, max: 100, value: 60, oninput: () => view.fade(fade.value / 100) });
  const rows = answer.areas.map((area) => {
    const box = el("input", {
      type: "checkbox",
      checked: !hidden.has(area.index),
      onchange: () => {
        if (box.checked) hidden.delete(area.index);
        else hidden.add(area.index);
        view.draw(hidden);
      },
    });
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, el("label", { class: "check" }, box, styled(el("i", { class: "swatch" }), { background: css(colour(area.index)) }), el("span", { class: "name", title: short(area.name, 1000) }, short(area.name, 120)))),
      el("td", { class: "number" }, percent(area.fraction)),
      el("td", { class: "number" }, area.confidence ? percent(area.confidence, 0) : ""),
    );
  });
  const all = (shown) => {
    hidden.clear();
    for (const area of answer.areas) if (!shown) hidden.add(area.index);
    for (const row of rows) row.querySelector("input").checked = shown;
    view.draw(hidden);
  };
  view.draw(hidden);
  view.fade(0.6);
  return el(
    "div",
    { class: "masked" },
    view.element,
    el(
      "div",
      { class: "stack" },
      el("label", { class: "field" }, "Opacity of the mask", fade),
      el("div", { class: "row" }, el("button", { type: "button", onclick: () => all(true) }, "Show all"), el("button", { type: "button", onclick: () => all(false) }, "Hide all")),
      el(
        "div",
        { class: "areas", tabindex: 0, role: "region", "aria-label": "Classes in the mask" },
        el(
          "table",
          {},
          el("thead", {}, el("tr", {}, el("th", { scope: "col" }, `${answer.areas.length} class${answer.areas.length === 1 ? "" : "es"}`), el("th", { scope: "col", class: "number" }, "Area"), el("th", { scope: "col", class: "number" }, "Confidence"))),
          el("tbody", {}, rows),
        ),
      ),
    ),
  );
}

/** The pictures that this version has seen here, nearest first. */
function nearest(answer, picture) {
  const key = `${answer.model}\n${answer.version}\n${answer.variant}`;
  const seen = gallery.get(key) ?? [];
  const others = seen.filter((one) => one.blob !== picture.blob).map((one) => ({ ...one, score: cosine(one.values, answer.values) }));
  others.sort((a, b) => b.score - a.score);
  if (!seen.some((one) => one.blob === picture.blob)) {
    const small = picture.canvas ? copied(picture.canvas, 96) : null;
    gallery.set(key, [{ blob: picture.blob, name: picture.name, small, values: answer.values }, ...seen].slice(0, KEPT));
  }
  const note = `A point of ${answer.values.length} values. The server keeps no images: this one is compared with those that you have shown to the model since this page was opened.`;
  if (!others.length) return el("div", { class: "stack" }, el("p", {}, "This is the first one. Show another, and the two are compared."), el("p", { class: "note" }, note));
  return el(
    "div",
    { class: "stack" },
    el(
      "ol",
      { class: "nearest" },
      others.map((one) =>
        el(
          "li",
          {},
          el("span", { class: "small" }, one.small ? copied(one.small, 96) : null),
          el("span", { class: "name" }, short(one.name, 80)),
          el("span", { class: "bar" }, styled(el("i"), { width: `${100 * Math.max(0, one.score)}%` })),
          el("span", { class: "number" }, one.score.toFixed(3)),
        ),
      ),
    ),
    el("p", { class: "note" }, `Cosine similarity: 1 is the same direction. ${note}`),
  );
}
