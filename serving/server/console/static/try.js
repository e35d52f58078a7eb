// One picture, one model: what it answers, and where the time of the call went.

import { asked, bars, css, colour, leftOut, LISTED, overlay, servedBy, stages } from "./answers.js";
import { answering, Choice, none } from "./choice.js";
import { el, percent, problem, short, styled } from "./dom.js";
import { Gallery } from "./gallery.js";
import { chooser } from "./picture.js";

// Classes that a list shows, most.
const COUNTS = [5, 10, 25, 100];

export function mount(place, api, parameters) {
  const stop = new AbortController();
  const page = new Page(api, stop.signal, parameters);
  const [zone, end] = chooser(
    (picture) => page.take(picture),
    (files, target) => page.gallery.takes(files, target),
  );
  place.append(
    el("div", { class: "head" }, el("h1", {}, "Try an image")),
    el(
      "div",
      { class: "columns" },
      el("div", { class: "stack asked" }, el("div", { class: "panel stack" }, page.choice.element, page.count, zone), page.gallery.element),
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
    this.gallery = new Gallery(api, signal);
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
      else this.result.replaceChildren(none(() => this.start()));
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
    this.gallery.show(model);
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
        SHOWN[model.task](answer, this._picture, this.gallery),
        stages(answer),
      );
      this.told.textContent = TOLD[model.task](answer, this.gallery);
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
  embedding: (_, { nearest }) => (nearest ? `${short(nearest.name, 100)}, similarity ${nearest.score.toFixed(3)}` : "Nothing to compare it with yet"),
};
const SHOWN = {
  classification: (answer) => (answer.labels.length ? bars(answer.labels) : el("p", { class: "empty" }, "It names no class.")),
  segmentation: masked,
  embedding: ({ values }, picture, gallery) => gallery.compared(picture, values),
};

/** The mask over the picture, with a legend that shows and hides classes. */
function masked(answer, picture) {
  // Class 0 is the background of most sets.
  const hidden = new Set(answer.areas.length > 1 ? [0] : []);
  const found = answer.areas.slice(0, 3).map((area) => `${short(area.name, 60)} ${percent(area.fraction)}`);
  const view = overlay(answer, picture, `The mask over the picture: ${found.join(", ")}`);
  const fade = el("input", { type: "range", min: 0, max: 100, value: 60, oninput: () => view.fade(fade.value / 100) });
  const rows = answer.areas.slice(0, LISTED).map((area) => {
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
          el("tbody", {}, rows, leftOut(answer.areas.length, 3)),
        ),
      ),
    ),
  );
}
