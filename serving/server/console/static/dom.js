// Elements made of texts. Whatever a server, a model or a file calls itself goes through here as a
// text: nothing in the console makes HTML of a string, and the page's policy would let nothing do so.

// Characters of a text from outside that are shown; a label may have megabytes.
const SHOWN = 300;

/** An element of a tag with attributes, properties that begin with "on" as listeners, and children:
 *  elements, texts, and null for none. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

/** A text from outside, cut where it is long. */
export function short(text, most = SHOWN) {
  const whole = String(text ?? "");
  return whole.length > most ? `${whole.slice(0, most)}…` : whole;
}

/** An error as a page shows it, with a way to try again where there is one. */
export function problem(error, again = null) {
  const hint = error.retryAfter ? ` The server asks to wait ${error.retryAfter} s.` : "";
  return el(
    "div",
    { class: "problem", role: "alert" },
    el("strong", {}, error.title ?? "It did not work"),
    el("p", {}, short(error.message, 2000) + hint),
    again && el("button", { type: "button", onclick: again }, "Try again"),
  );
}

/** A share of 1 in per cent; a small one that is not 0 is said to be below the last digit. */
export function percent(share, digits = 1) {
  const least = 10 ** -digits;
  if (share > 0 && 100 * share < least / 2) return `< ${least} %`;
  return `${(100 * share).toFixed(digits)} %`;
}

/** Bytes in the unit that fits. */
export function bytes(size) {
  if (size === null || size === undefined) return "";
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${size.toFixed(unit && size < 100 ? 1 : 0)} ${units[unit]}`;
}

/** Milliseconds with two or three digits that count, of microseconds where they are few. */
export function ms(value) {
  if (value === null || value === undefined) return "";
  if (value < 0.1) return `${(1000 * value).toFixed(0)} µs`;
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

/** A whole number in the unit that fits: 11.7 M. */
export function count(value) {
  const steps = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const [size, sign] = steps.find(([step]) => value >= step) ?? [1, ""];
  return sign ? `${(value / size).toFixed(1)} ${sign}` : String(value);
}

/** Sets a length that a style sheet cannot know. */
export function styled(element, properties) {
  for (const [name, value] of Object.entries(properties)) element.style.setProperty(name, value);
  return element;
}
