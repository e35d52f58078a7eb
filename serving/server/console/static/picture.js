// The way of a picture into a page: dropped, pasted, chosen or photographed. It stays the same from
// one page to the next.

import { bytes, el, short } from "./dom.js";
import { dropped, named } from "./files.js";

// Pixels of the longer side of what a page shows. The server always gets the file itself.
const SIDE = 1024;
// Pixels beyond which a browser is not asked to decode a picture: 100 million take 400 MB.
const MOST_PIXELS = 80e6;
// Milliseconds that a browser has for it.
const DECODE = 15_000;

let current = null;

/** A picture. blob: the file. canvas: what is shown of it, null where the browser cannot show it, and
 *  `reason` then says why. */
export async function opened(blob, name) {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  try {
    image.src = url;
    await Promise.race([
      new Promise((resolve, reject) => {
        image.onload = resolve;
        image.onerror = () => reject(new Error("the browser does not know it as an image"));
      }),
      new Promise((_, reject) => setTimeout(reject, DECODE, new Error("the browser takes too long for it"))),
    ]);
    const { naturalWidth: width, naturalHeight: height } = image;
    if (!width || !height) throw new Error("it has no size of its own");
    if (width * height > MOST_PIXELS) throw new Error(`${width} × ${height} pixels are too many to show`);
    const scale = Math.min(1, SIDE / Math.max(width, height));
    const canvas = el("canvas", { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return { blob, name, canvas, size: `${width} × ${height}`, reason: "" };
  } catch (error) {
    return { blob, name, canvas: null, size: "", reason: error.message };
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** A copy of a picture's canvas, of at most so many pixels a side. */
export function copied(canvas, side = SIDE) {
  const scale = Math.min(1, side / Math.max(canvas.width, canvas.height));
  const copy = el("canvas", { width: Math.max(1, Math.round(canvas.width * scale)), height: Math.max(1, Math.round(canvas.height * scale)) });
  copy.getContext("2d").drawImage(canvas, 0, 0, copy.width, copy.height);
  return copy;
}

/** The part of a page that takes pictures. taken: called with each, and at once with the last one.
 *  others: is offered all files of a drop or a paste first, [[file, name]] and where; true where it has
 *  taken them. Returns its element and a function that ends it. */
export function chooser(taken, others = () => false) {
  const stop = new AbortController();
  const options = { signal: stop.signal };
  const about = el("p", { class: "note name", role: "status" });
  const shown = el("div", { class: "shown" });
  const input = el("input", { type: "file", accept: "image/*", id: "picture", class: "visually-hidden" });
  const camera = el("button", { type: "button" }, "Use the camera");
  const zone = el(
    "div",
    { class: "zone" },
    shown,
    el("p", { class: "muted" }, "Drop or paste an image here, or"),
    el("div", { class: "row" }, input, el("label", { for: "picture", class: "button" }, "Choose a file"), camera),
    about,
  );

  async function take(blob, name) {
    about.textContent = "Opening…";
    current = await opened(blob, name);
    if (!stop.signal.aborted) show();
  }

  /** Takes files of a drop or a paste, [[file, name]] or its promise. */
  async function given(coming, target) {
    try {
      const files = await coming;
      if (stop.signal.aborted || (files.length && others(files, target))) return;
      if (!files.length) about.textContent = "There was no image in it.";
      else await take(files[0][0], files[0][1] || "from the clipboard");
      if (files.length > 1) about.textContent += ` · the first of ${files.length}`;
    } catch (error) {
      about.textContent = `It cannot be read: ${error.message}`;
    }
  }

  function show() {
    const { blob, canvas, name, size, reason } = current;
    shown.replaceChildren();
    if (canvas) {
      const small = copied(canvas, 480);
      small.setAttribute("role", "img");
      small.setAttribute("aria-label", `The picture ${short(name, 80)}`);
      shown.append(small);
    }
    about.textContent = [short(name, 80), size, bytes(blob.size), reason && `not shown: ${reason}`].filter(Boolean).join(" · ");
    taken(current);
  }

  input.addEventListener("change", () => {
    if (input.files[0]) take(input.files[0], input.files[0].name);
    input.value = "";
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  }, options);
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? zone.classList.remove("over"), options);
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    given(dropped(event.dataTransfer), event.target);
  }, options);
  document.addEventListener("paste", (event) => {
    const files = named(event.clipboardData.files);
    if (!files.length) return;
    event.preventDefault();
    given(files, event.target);
  }, options);
  camera.addEventListener("click", () => photographed(zone, camera, stop.signal, take, about));
  if (current) queueMicrotask(show);
  return [zone, () => stop.abort()];
}

/** Shows what the camera sees, until a photograph is taken or it is ended. Where the page may use no
 *  camera itself, as over plain HTTP, a telephone's own camera is asked for. */
async function photographed(zone, button, signal, take, about) {
  if (!navigator.mediaDevices) {
    const input = el("input", { type: "file", accept: "image/*", capture: "environment" });
    input.addEventListener("change", () => input.files[0] && take(input.files[0], "photograph"));
    input.click();
    return;
  }
  button.disabled = true;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    about.textContent = `No camera: ${error.name === "NotAllowedError" ? "the browser was not allowed to use it" : error.message}`;
    button.disabled = false;
    return;
  }
  const video = el("video", { autoplay: true, playsinline: true, muted: true, "aria-label": "What the camera sees" });
  video.srcObject = stream;
  const shoot = el("button", { type: "button", class: "main", disabled: true }, "Take the photograph");
  video.addEventListener("loadeddata", () => {
    shoot.disabled = false;
    shoot.focus();
  });
  const leave = el("button", { type: "button" }, "Stop the camera");
  const panel = el("div", { class: "camera" }, video, el("div", { class: "row" }, shoot, leave));
  function end() {
    for (const track of stream.getTracks()) track.stop();
    panel.remove();
    button.disabled = false;
    if (!signal.aborted) button.focus();
  }
  leave.addEventListener("click", end);
  signal.addEventListener("abort", end);
  shoot.addEventListener("click", () => {
    const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => blob && take(blob, "photograph"), "image/jpeg", 0.95);
    end();
  });
  if (signal.aborted) end();
  else zone.append(panel);
}
