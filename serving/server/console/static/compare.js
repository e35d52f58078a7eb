// One picture, two versions: how their answers differ.

import { asked, bars, classesOf, colour, cosine, css, drawn, leftOut, LISTED, overlay, servedBy, stages } from "./answers.js";
import { answering, Choice, none } from "./choice.js";
import { el, percent, problem, short, styled } from "./dom.js";
import { chooser, copied } from "./picture.js";

// Classes that are asked of each side, and that are shown of both.
const ASKED = 100;
const SHOWN = 15;

export function mount(place, api, parameters) {
  const stop = new AbortController();
  const page = new Page(api, stop.signal, parameters);
  const [zone, end] = chooser((picture) => page.take(picture));
  place.append(
    el("div", { class: "head" }, el("h1", {}, "Compare two answers")),
    el(
      "div",
      { class: "columns" },
      el(
        "div",
        { class: "panel stack" },
        page.choices.map((choice) => choice.element),
        zone,
        el("p", { class: "note" }, "A version serves one variant at a time. Two variants of it are compared as two models, each of which names its own in config.pbtxt (parameter variant)."),
      ),
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
    this.choices = ["A", "B"].map((side) => new Choice(side, () => this.ask()));
    this.told = el("p", { class: "visually-hidden", role: "status" });
    this.result = el("div", { class: "stack result" }, el("p", { class: "panel empty" }, "The two answers to your image come here."));
  }

  async start() {
    try {
      const models = await answering(this._api, this._signal);
      const [a, b] = this.choices;
      a.fill(models, this._wanted);
      // Another version of the same model first, else another model of the same task.
      const other = models.filter((model) => model !== a.model && model.task === a.model?.task);
      const wanted = other.find((model) => model.name === a.model.name) ?? other[0] ?? a.model;
      b.fill(models, { model: wanted?.name, version: wanted?.version });
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

  async ask() {
    const [a, b] = this.choices.map((choice) => choice.model);
    if (!a || !b || !this._picture) return;
    this._run.abort();
    const run = (this._run = new AbortController());
    this.result.setAttribute("aria-busy", "true");
    try {
      if (a.task !== b.task) throw new Error(`A is for ${a.task}, B for ${b.task}: their answers cannot be compared.`);
      const signal = AbortSignal.any([run.signal, this._signal]);
      const options = { labels: ASKED, signal };
      // One after the other: at the same time they would take the cores from each other.
      const answers = [await asked(this._api, a, this._picture, options)];
      answers.push(await asked(this._api, b, this._picture, options));
      this.result.replaceChildren(...COMPARED[a.task](answers, this._picture), timed(answers));
      this.told.textContent = this.result.querySelector("h2").textContent;
    } catch (error) {
      if (error.name === "AbortError") return;
      this.result.replaceChildren(problem(error, () => this.ask()));
    } finally {
      if (run === this._run) this.result.removeAttribute("aria-busy");
    }
  }
}

const COMPARED = { classification: scores, segmentation: masks, embedding: points };

/** The head of a side. */
function side(letter, answer) {
  return el("div", { class: "head" }, el("h2", {}, letter), el("span", { class: "note name" }, servedBy(answer)));
}

function timed(answers) {
  const most = Math.max(...answers.map((answer) => answer.total_us));
  return el("div", { class: "pair" }, answers.map((answer, index) => el("div", { class: "panel stack" }, side("AB"[index], answer), stages(answer, most))));
}

/** The classes of both sides by name, largest difference first. */
function scores([a, b]) {
  const of = (answer) => new Map(answer.labels.map((label) => [label.name, label.score]));
  const [first, second] = [of(a), of(b)];
  const rows = [...new Set([...first.keys(), ...second.keys()])]
    .map((name) => ({ name, a: first.get(name), b: second.get(name), gap: (second.get(name) ?? 0) - (first.get(name) ?? 0) }))
    .sort((x, y) => Math.abs(y.gap) - Math.abs(x.gap))
    .slice(0, SHOWN);
  const [bestA, bestB] = [a.labels[0]?.name, b.labels[0]?.name];
  const verdict = bestA === bestB ? `Both say ${short(bestA, 80)}.` : `A says ${short(bestA, 80)}, B says ${short(bestB, 80)}.`;
  const most = Math.max(1e-6, ...rows.map((row) => Math.abs(row.gap)));
  const cell = (score) => el("td", { class: "number" }, score === undefined ? "below" : percent(score));
  const body = rows.map((row) => {
    const length = `${(50 * Math.abs(row.gap)) / most}%`;
    return el(
      "tr",
      {},
      el("th", { scope: "row", class: "name", title: short(row.name, 1000) }, short(row.name, 120)),
      cell(row.a),
      cell(row.b),
      el("td", { class: "number" }, `${row.gap >= 0 ? "+" : "−"}${(100 * Math.abs(row.gap)).toFixed(1)}`),
      el("td", { class: "gap", "aria-hidden": "true" }, styled(el("i", { class: row.gap >= 0 ? "up" : "down" }), { width: length })),
    );
  });
  return [
    el(
      "div",
      { class: "panel stack" },
      el("h2", { class: "name" }, verdict),
      el("div", { class: "pair" }, [a, b].map((answer, index) => el("div", { class: "stack" }, side("AB"[index], answer), bars(answer.labels.slice(0, 5))))),
    ),
    el(
      "div",
      { class: "table", tabindex: 0, role: "region", "aria-label": "Scores of both answers" },
      el(
        "table",
        { class: "gaps" },
        el("caption", { class: "inset" }, `Score of each class; largest difference first. “below” is less than the ${ASKED} best.`),
        el("thead", {}, el("tr", {}, ["Class", "A", "B", "B − A, points", ""].map((title, index) => (title ? el("th", { scope: "col", class: index ? "number" : "" }, title) : el("td", {}))))),
        el("tbody", {}, body),
      ),
    ),
  ];
}

/** Both masks, and where they differ. */
function masks([a, b], picture) {
  const views = [a, b].map((answer, index) => {
    const view = overlay(answer, picture, `The mask of ${"AB"[index]}`);
    view.draw(new Set([0]));
    view.fade(0.6);
    return view;
  });
  const [width, height] = [Math.max(a.width, b.width), Math.max(a.height, b.height)];
  // Classes are the same where their names are: versions may number them differently.
  const names = new Map();
  const numbers = [a, b].map((answer) => new Map(answer.areas.map((area) => [area.index, numbered(names, area.name)])));
  const grids = [a, b].map((answer, index) => spread(views[index].classes, answer, width, height, numbers[index]));
  const differ = new Uint8Array(width * height);
  let count = 0;
  for (let at = 0; at < differ.length; at += 1) {
    if (grids[0][at] !== grids[1][at]) {
      differ[at] = 1;
      count += 1;
    }
  }
  const map = el("canvas", { class: "mask" });
  drawn(map, differ, width, height, (value) => (value ? [214, 40, 90, 235] : [0, 0, 0, 0]));
  const under = picture.canvas ? copied(picture.canvas) : el("canvas", { width, height });
  under.classList.add("grey");
  const share = percent(count / differ.length, 2);
  const of = (answer) => new Map(answer.areas.map((area) => [area.name, area]));
  const [first, second] = [of(a), of(b)];
  const rows = [...names.keys()]
    .map((name) => ({ name, index: (first.get(name) ?? second.get(name)).index, a: first.get(name)?.fraction ?? 0, b: second.get(name)?.fraction ?? 0 }))
    .sort((x, y) => Math.abs(y.b - y.a) - Math.abs(x.b - x.a));
  return [
    el(
      "div",
      { class: "panel stack" },
      el("h2", {}, count ? `${share} of the pixels differ` : "Every pixel agrees"),
      el(
        "div",
        { class: "pair three" },
        views.map((view, index) => el("figure", {}, side("AB"[index], [a, b][index]), view.element)),
        el("figure", {}, el("div", { class: "head" }, el("h2", {}, "Difference"), el("span", { class: "note" }, "red where the classes differ")), el("div", { class: "over-picture", role: "img", "aria-label": `Difference of the masks: ${share} of the pixels` }, under, map)),
      ),
    ),
    el(
      "div",
      { class: "table areas-compared", tabindex: 0, role: "region", "aria-label": "Areas of both masks" },
      el(
        "table",
        {},
        el("caption", { class: "inset" }, "Area of each class; largest difference first"),
        el("thead", {}, el("tr", {}, ["Class", "A", "B", "B − A, points"].map((title, index) => el("th", { scope: "col", class: index ? "number" : "" }, title)))),
        el(
          "tbody",
          {},
          rows.slice(0, LISTED).map((row) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, el("span", { class: "check" }, styled(el("i", { class: "swatch" }), { background: css(colour(row.index)) }), el("span", { class: "name" }, short(row.name, 120)))),
              el("td", { class: "number" }, percent(row.a)),
              el("td", { class: "number" }, percent(row.b)),
              el("td", { class: "number" }, `${row.b >= row.a ? "+" : "−"}${(100 * Math.abs(row.b - row.a)).toFixed(2)}`),
            ),
          ),
          leftOut(rows.length, 4),
        ),
      ),
    ),
  ];
}

/** The number of a name, a new one for a new name. */
function numbered(names, name) {
  if (!names.has(name)) names.set(name, names.size);
  return names.get(name);
}

/** Classes on a grid of height × width, by the numbers that both sides share. */
function spread(classes, answer, width, height, numbers) {
  const found = new Uint16Array(width * height);
  const table = new Uint16Array(1 << 16);
  for (const [index, number] of numbers) table[index] = number;
  for (let y = 0; y < height; y += 1) {
    const row = Math.floor((y * answer.height) / height) * answer.width;
    for (let x = 0; x < width; x += 1) {
      found[y * width + x] = table[classes[row + Math.floor((x * answer.width) / width)]];
    }
  }
  return found;
}

function points([a, b]) {
  const same = a.values.length === b.values.length;
  const found = same ? cosine(a.values, b.values).toFixed(4) : "";
  return [
    el(
      "div",
      { class: "panel stack" },
      el("h2", {}, same ? `Cosine similarity ${found}` : "The points have different numbers of values"),
      el(
        "p",
        { class: "note" },
        same
          ? "1 is the same direction. It says how far two variants of one network agree; points of networks that were trained apart mean different things, however near they lie."
          : `A gives ${a.values.length}, B ${b.values.length}: they cannot be compared.`,
      ),
    ),
  ];
}
