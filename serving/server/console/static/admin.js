// Loading and unloading of models, for those who may.

import { path } from "./api.js";
import { el, problem, short } from "./dom.js";

const RIGHTS = "v2/repository/rights";
const DOING = { load: "Loading. It is measured first, which takes some seconds.", unload: "Unloading. Its accepted calls are answered first." };
const DONE = { load: "Loaded.", unload: "Unloaded." };

/** What the reader may change. Asks the server once who he is to it; nothing is offered before it has
 *  answered, nor where it gives him no right. */
export class Admin {
  /** changed: called when a model was loaded or unloaded. signal: ends it. */
  constructor(api, changed, signal) {
    this._api = api;
    this._changed = changed;
    this._may = new Set();
    this._states = new Map(); // by model: {doing} or {done} or {error}
    this._places = new Map(); // elements that show it, by model
    const ask = () => this._ask(signal);
    api.addEventListener("credentials", ask, { signal });
    ask();
  }

  /** Buttons that fit the state of a model; an empty element where nothing is offered. */
  buttons({ name, state }) {
    const place = el("div", { class: "row admin" });
    const places = (this._places.get(name) ?? []).filter(([one]) => one.isConnected);
    this._places.set(name, [...places, [place, state]]);
    this._fill(place, name, state);
    return place;
  }

  async _ask(signal) {
    try {
      const { load } = await this._api.get(RIGHTS, { signal });
      this._may = new Set(load);
    } catch {
      this._may = new Set(); // the page itself says what is wrong
    }
    for (const name of this._places.keys()) this._refresh(name);
  }

  _refresh(name) {
    for (const [place, state] of this._places.get(name) ?? []) this._fill(place, name, state);
  }

  _fill(place, name, state) {
    if (!this._may.has(name)) {
      place.replaceChildren();
      return;
    }
    const { doing, done, error } = this._states.get(name) ?? {};
    const serves = state === "READY";
    const button = (action, text) =>
      el("button", { type: "button", disabled: !!doing, onclick: () => this._try(name, action) }, text, el("span", { class: "visually-hidden" }, ` ${short(name, 80)}`));
    const focused = place.contains(document.activeElement);
    place.replaceChildren(
      button("load", serves ? "Load again" : "Load"),
      ...(state === "READY" || state === "LOADING" ? [button("unload", "Unload")] : []),
      el("span", { class: "note", role: "status", tabindex: "-1" }, doing ? DOING[doing] : done ? DONE[done] : ""),
      ...(error ? [problem(error)] : []),
    );
    if (focused) (place.querySelector("button:enabled") ?? place.querySelector("[role=status]")).focus();
  }

  async _try(name, action) {
    if (action === "unload" && !(await sure(name))) return;
    this._set(name, { doing: action });
    try {
      await this._api.post(path("v2", "repository", "models", name, action), {});
      this._set(name, { done: action });
    } catch (error) {
      this._set(name, { error });
    }
    this._changed();
  }

  _set(name, state) {
    this._states.set(name, state);
    this._refresh(name);
  }
}

/** Asks whether a model is really to be taken out of service. */
function sure(name) {
  const dialog = el(
    "dialog",
    { "aria-labelledby": "unload-title" },
    el(
      "form",
      { method: "dialog" },
      el("h2", { id: "unload-title", class: "name" }, `Unload ${short(name, 120)}?`),
      el("p", {}, "All its versions are taken out of service. Calls that were accepted are answered; new ones are refused until it is loaded again."),
      el(
        "div",
        { class: "row end" },
        el("button", { value: "cancel", class: "quiet", autofocus: true }, "Keep it"),
        el("button", { value: "unload", class: "main danger" }, "Unload"),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "unload");
    });
  });
}
