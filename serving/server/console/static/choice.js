// The choice of a model's version, of those that serve and answer images.

import { el, short } from "./dom.js";
import { MODELS } from "./models.js";

/** The versions that answer images. */
export async function answering(api, signal) {
  const { models } = await api.get(MODELS, { signal });
  return models.filter((model) => model.state === "READY" && model.task && model.image);
}

/** What stands where no version answers images. again: called when the reader wants to look again. */
export function none(again) {
  return el(
    "div",
    { class: "panel empty" },
    el("p", {}, "No model that answers images is ready, or none that you may see."),
    el("button", { type: "button", onclick: again }, "Look again"),
  );
}

/** A list of versions to choose from. wanted: the choice at first, {model, version} by name. */
export class Choice {
  constructor(title, changed) {
    this._models = [];
    this._select = el("select", { onchange: changed });
    this.element = el("label", { class: "field" }, title, this._select);
  }

  /** Fills the list. preferred: number of the entry that is chosen where `wanted` is not there. */
  fill(models, wanted = {}, preferred = 0) {
    this._models = models;
    this._select.replaceChildren(
      ...models.map((model, index) =>
        el("option", { value: index }, `${short(model.name, 60)} · version ${model.version} · ${short(model.variant, 30)} · ${model.task}`),
      ),
    );
    const index = models.findIndex((model) => model.name === wanted.model && (!wanted.version || model.version === wanted.version));
    const chosen = index >= 0 ? index : Math.min(preferred, models.length - 1);
    if (chosen >= 0) this._select.value = String(chosen);
  }

  /** The version that is chosen; undefined where there is none. */
  get model() {
    return this._models[Number(this._select.value)];
  }

  focus() {
    this._select.focus();
  }
}
