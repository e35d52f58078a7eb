// The shell: which page is shown, and who looks at it.

import { Api, ApiError } from "./api.js";
import { el, problem } from "./dom.js";

// Each module has mount(element, api, parameters), which gives a function that ends the page.
const PAGES = {
  models: ["Models", () => import("./models.js")],
  try: ["Try", () => import("./try.js")],
  compare: ["Compare", () => import("./compare.js")],
  live: ["Live", () => import("./live.js")],
  batches: ["Batches", () => import("./batches.js")],
};

const byId = (id) => document.getElementById(id);
const main = byId("main");
const dialog = byId("credentials");
const api = new Api(askForCredentials);
// Counts navigations: a page whose module comes late is not shown over a later one.
let visit = 0;
let unmount = () => {};

for (const [name, [title]] of Object.entries(PAGES)) {
  byId("pages").append(el("a", { href: `#/${name}`, "data-page": name }, title));
}

/** Shows the page of the address. */
async function show({ focus = true } = {}) {
  const [, name, query = ""] = /^#\/(\w+)(?:\?(.*))?$/.exec(location.hash) ?? [null, "models"];
  const [title, load] = PAGES[name] ?? PAGES.models;
  const mine = ++visit;
  unmount();
  unmount = () => {};
  for (const link of byId("pages").children) {
    if (link.dataset.page === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${title} · convserve`;
  try {
    const page = await load();
    if (mine !== visit) return;
    const place = el("div", { class: `page page-${name}` });
    main.replaceChildren(place);
    unmount = page.mount(place, api, new URLSearchParams(query)) ?? (() => {});
  } catch (error) {
    // Modules come from the server too. What a browser says of one that did not come is of no use.
    const shown = error instanceof TypeError ? new ApiError(0, `the page “${title}” did not come`) : error;
    if (mine === visit) main.replaceChildren(problem(shown, () => show()));
  }
  if (focus) main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

/** Asks for a key or a token. */
function askForCredentials(reason = "") {
  byId("credentials-reason").textContent = reason;
  byId("credentials-forget").hidden = api.credentials === null;
  byId("credentials-value").value = "";
  dialog.returnValue = "cancel";
  if (!dialog.open) dialog.showModal();
  byId("credentials-value").focus();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const value = byId("credentials-value").value.trim();
        byId("credentials-value").value = "";
        const kind = dialog.querySelector("input[name=kind]:checked").value;
        const keep = byId("credentials-keep").checked;
        resolve(dialog.returnValue === "ok" && value ? { kind, value, keep } : null);
      },
      { once: true },
    );
  });
}

byId("identity").addEventListener("click", async () => {
  const given = await askForCredentials();
  if (given) {
    api.use(given);
    show({ focus: false });
  }
});
byId("credentials-cancel").addEventListener("click", () => dialog.close("cancel"));
byId("credentials-forget").addEventListener("click", () => {
  api.use(null);
  dialog.close("cancel");
  show({ focus: false });
});
api.addEventListener("credentials", () => {
  const kind = { key: "API key", token: "Token" }[api.credentials?.kind];
  byId("identity").textContent = kind ? `${kind} in use` : "Credentials";
});
api.dispatchEvent(new Event("credentials"));
addEventListener("hashchange", () => show());
show({ focus: false });
