// Calls of the vision service, and the pictures of its answers.

import { path } from "./api.js";
import { el, percent, short, styled } from "./dom.js";
import { copied } from "./picture.js";

// Classes of a mask that a page lists, the largest; a row each takes time that its reader waits for.
export const LISTED = 300;

export const METHODS = { classification: "classify", segmentation: "segment", embedding: "embed" };

// Kind, title, and microseconds of a stage. A call has its place in the queue while it is decoded.
const STAGES = [
  ["decode", "Decode and resize", (timing) => timing.decode_us],
  ["queue", "Wait for a batch", (timing) => Math.max(0, timing.queue_us - timing.decode_us)],
  ["infer", "Infer", (timing) => timing.infer_us],
  ["post", "Make the answer", (timing) => timing.postprocess_us],
];

/** The answer of a model's version to a picture, with `task`, and `total_us`, the time as seen here. */
export async function asked(api, model, picture, { labels = 5, signal }) {
  const method = METHODS[model.task];
  const query = { classification: `?top_k=${labels}`, segmentation: "?mask_size=model", embedding: "" }[model.task];
  const began = performance.now();
  const where = path("vision", "v1", "models", model.name, "versions", model.version, method) + query;
  const answer = await api.post(where, picture.blob, { signal });
  for (const named of answer.labels ?? answer.areas ?? []) named.name ||= `class ${named.index}`;
  return { ...answer, task: model.task, total_us: 1000 * (performance.now() - began) };
}

/** What gave an answer, in words. */
export function servedBy(answer) {
  return `${short(answer.model, 80)} version ${short(answer.version, 20)}, ${short(answer.variant, 40)}`;
}

/** The stages of a call, to scale. most: microseconds of the whole width. */
export function stages(answer, most = answer.total_us) {
  const times = STAGES.map(([kind, title, of]) => [kind, title, of(answer.timing)]);
  const known = times.reduce((sum, [, , time]) => sum + time, 0);
  times.push(["rest", "Network and the rest", Math.max(0, answer.total_us - known)]);
  const shown = (time) => `${(time / 1000).toFixed(time < 10_000 ? 2 : 1)} ms`;
  const bar = el("div", { class: "stages", "aria-hidden": "true" });
  for (const [kind, title, time] of times) {
    bar.append(styled(el("i", { class: kind, title: `${title}: ${shown(time)}` }), { width: `${(100 * time) / most}%` }));
  }
  const batch = answer.timing.batch_size;
  return el(
    "section",
    { class: "stack", "aria-label": "Where the time went" },
    el("div", { class: "row" }, el("h3", {}, "Where the time went"), el("span", { class: "note" }, `${shown(answer.total_us)} in all, batch of ${batch}`)),
    bar,
    el("ul", { class: "legend" }, times.map(([kind, title, time]) => el("li", {}, el("i", { class: kind }), `${title} `, el("span", { class: "muted" }, shown(time))))),
  );
}

/** A bar for each of some labels. */
export function bars(labels) {
  return el(
    "div",
    { class: "bars" },
    labels.map(({ name, score }, rank) => [
      el("span", { class: rank ? "name" : "name best", title: short(name, 1000) }, short(name, 120)),
      el("span", { class: "bar" }, styled(el("i"), { width: `${100 * score}%` })),
      el("span", { class: "number" }, percent(score)),
    ]),
  );
}

/** The classes of a mask's pixels, row-major: of one byte each, or two. */
export function classesOf(answer) {
  const text = atob(answer.raw);
  const raw = new Uint8Array(text.length);
  for (let at = 0; at < raw.length; at += 1) raw[at] = text.charCodeAt(at);
  const pixels = answer.width * answer.height;
  if (raw.length === pixels) return raw;
  if (raw.length === 2 * pixels) return new Uint16Array(raw.buffer);
  throw new Error(`a mask of ${answer.width} × ${answer.height} has not ${raw.length} bytes`);
}

/** A row of a table that says how many classes it leaves out; null where none. */
export function leftOut(number, columns) {
  return number > LISTED ? el("tr", {}, el("td", { class: "note", colspan: columns }, `${number - LISTED} smaller ones are not listed`)) : null;
}

/** The colour of a class, [red, green, blue]: classes beside each other in the list look different. */
export function colour(index) {
  if (index === 0) return [128, 128, 128];
  const hue = (index * 137.508) % 360;
  const light = [0.5, 0.62, 0.4][index % 3];
  const chroma = 0.72 * (1 - Math.abs(2 * light - 1));
  const channel = (shift) => {
    const k = (shift + hue / 30) % 12;
    return Math.round(255 * (light - (chroma / 2) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

/** A colour as style sheets write it. */
export const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

/** Draws a map [height, width] onto a canvas of its size. colourOf: [red, green, blue, alpha] of a
 *  value. */
export function drawn(canvas, values, width, height, colourOf) {
  canvas.width = width;
  canvas.height = height;
  const table = new Map();
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const packed = new Uint8ClampedArray(4);
  const word = new Uint32Array(packed.buffer);
  for (let at = 0; at < values.length; at += 1) {
    const value = values[at];
    let found = table.get(value);
    if (found === undefined) {
      packed.set(colourOf(value));
      found = word[0];
      table.set(value, found);
    }
    pixels[at] = found;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** A mask over its picture. Returns its element, `draw(hidden)` without the classes of a set, and
 *  `fade(opacity)`. */
export function overlay(answer, picture, describe) {
  const classes = classesOf(answer);
  const { width, height } = answer;
  const mask = el("canvas", { class: "mask" });
  const under = picture.canvas ? copied(picture.canvas) : el("canvas", { width, height });
  const frame = el("div", { class: "over-picture", role: "img", "aria-label": describe }, under, mask);
  const pointed = el("p", { class: "note", "aria-hidden": "true" }, " ");
  const names = new Map(answer.areas.map((area) => [area.index, area.name]));
  frame.addEventListener("pointermove", (event) => {
    const box = mask.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * height);
    if (x >= 0 && y >= 0 && x < width && y < height) pointed.textContent = `Here: ${short(names.get(classes[y * width + x]) ?? "?", 100)}`;
  });
  frame.addEventListener("pointerleave", () => (pointed.textContent = " "));
  const draw = (hidden) => drawn(mask, classes, width, height, (value) => (hidden.has(value) ? [0, 0, 0, 0] : [...colour(value), 255]));
  return { element: el("div", {}, frame, pointed), classes, draw, fade: (opacity) => styled(mask, { opacity: String(opacity) }) };
}

/** The cosine of the angle between two points on the unit sphere. */
export function cosine(a, b) {
  let sum = 0;
  for (let at = 0; at < a.length; at += 1) sum += a[at] * b[at];
  return sum;
}
