// A page that sends an image to a convserve server over REST (the Open Inference Protocol) and shows
// the labels, or the mask over the image. No library, no build step.
//
// The page and the API have one origin, since the server refuses calls from pages of another:
// envoy.yaml serves both.

const form = document.querySelector('form');
const status = document.querySelector('#status');
const figure = document.querySelector('figure');
const canvas = document.querySelector('canvas');
const answer = document.querySelector('#answer');
const SHOWN = 5;

/** A JSON document of the server. Throws an Error with the server's words. */
async function ask(path, init) {
  let response;
  try {
    response = await fetch(path, init);
  } catch {
    throw new Error('No answer: is the server, and Envoy before it, still running?');
  }
  const text = await response.text();
  if (!response.ok) {
    let reason = text;
    try {
      reason = JSON.parse(text).error;
    } catch {
      // Envoy's own words, where no server answers.
    }
    throw new Error(`${response.status}: ${reason}`);
  }
  return JSON.parse(text);
}

/** The names of the models that serve. */
async function models() {
  const json = { 'Content-Type': 'application/json' };
  const index = await ask('/v2/repository/index', { method: 'POST', headers: json, body: '{}' });
  return index.filter(({ state }) => state === 'READY').map(({ name }) => name);
}

/** The outputs of a model for an image file, by name. `scores` asks for the ranked classes of one. */
async function infer(model, file, outputs) {
  // JSON, and behind it one element of BYTES: its length, the lowest byte first, then the file.
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, file.size, true);
  const encoded = {
    name: 'encoded',
    datatype: 'BYTES',
    shape: [1, 1],
    parameters: { binary_data_size: 4 + file.size },
  };
  const json = new TextEncoder().encode(JSON.stringify({ inputs: [encoded], outputs }));
  const answered = await ask(`/v2/models/${encodeURIComponent(model)}/infer`, {
    method: 'POST',
    headers: {
      'Content-Type': 'application/octet-stream',
      'Inference-Header-Content-Length': String(json.length),
    },
    body: new Blob([json, length, file]),
  });
  return Object.fromEntries(answered.outputs.map((output) => [output.name, output]));
}

/** Rows of a label and its share of 1, the largest first. Texts are VALUE:INDEX:NAME. */
function probabilities(texts) {
  const rows = texts.map((text) => /^([^:]*):([^:]*):?(.*)$/s.exec(text));
  const most = Math.max(...rows.map(([, value]) => Number(value)));
  const powers = rows.map(([, value]) => Math.exp(Number(value) - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return rows.map(([, , index, name], i) => ({ name: name || index, share: powers[i] / sum }));
}

/** Draws a mask over the image in the canvas; class 0, the background, stays as it is. Rows of a
 * class, its share of the pixels and its colour. */
function drawMask({ shape: [, height, width], data }, classes) {
  const pixels = new ImageData(width, height);
  const counts = new Map();
  data.forEach((index, i) => {
    counts.set(index, (counts.get(index) ?? 0) + 1);
    pixels.data.set([...colour(index), index === 0 ? 0 : 150], 4 * i);
  });
  const mask = new OffscreenCanvas(width, height);
  mask.getContext('2d').putImageData(pixels, 0, 0);
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = false; // a pixel of the mask has one class
  context.drawImage(mask, 0, 0, canvas.width, canvas.height);
  return [...counts]
    .sort(([, a], [, b]) => b - a)
    .map(([index, count]) => ({
      name: classes[index] ?? index,
      share: count / data.length,
      colour: index === 0 ? 'transparent' : `rgb(${colour(index)})`,
    }));
}

/** Colours that differ from their neighbours: steps of the golden angle. */
function colour(index) {
  const hue = (index * 137.5) % 360;
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.5 - 0.4 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

function show(rows) {
  answer.replaceChildren(
    ...rows.slice(0, SHOWN).map(({ name, share, colour }) => {
      const row = document.createElement('li');
      const label = document.createElement('span');
      const bar = document.createElement('meter');
      const number = document.createElement('span');
      label.textContent = name;
      if (colour) label.style.borderLeft = `1rem solid ${colour}`;
      bar.value = share;
      bar.setAttribute('aria-label', name);
      number.textContent = `${(100 * share).toFixed(1)} %`;
      row.append(label, bar, number);
      return row;
    }),
  );
}

async function showImage(file) {
  const image = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name}: not an image that this browser can show`);
  });
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext('2d').drawImage(image, 0, 0);
  figure.querySelector('figcaption').textContent = `${file.name}, ${image.width} × ${image.height}`;
  figure.hidden = false;
}

async function answerFor(model, file) {
  const path = `/v2/models/${encodeURIComponent(model)}`;
  const { outputs } = await ask(path);
  const scores = outputs.find(({ name }) => name === 'logits');
  if (scores) {
    const parameters = { classification: scores.shape.at(-1) };
    const { logits } = await infer(model, file, [{ name: 'logits', parameters }]);
    return probabilities(logits.data);
  }
  if (!outputs.some(({ name }) => name === 'mask')) {
    throw new Error(`${model} has neither logits nor a mask: this page cannot show its answer`);
  }
  const { mask } = await infer(model, file, [{ name: 'mask' }]);
  const { parameters } = await ask(`${path}/config`);
  return drawMask(mask, parameters?.classes?.string_value?.split('\n') ?? []);
}

let latest = 0; // Of two images that were chosen quickly, the answer to the newer one is shown.

async function update() {
  const file = form.image.files[0];
  if (!file) return;
  const turn = ++latest;
  answer.replaceChildren();
  say('Asking…');
  try {
    await showImage(file);
    const began = performance.now();
    const rows = await answerFor(form.model.value, file);
    if (turn !== latest) return;
    show(rows);
    say(`${form.model.value} answered in ${Math.round(performance.now() - began)} ms.`);
  } catch (error) {
    if (turn === latest) say(error.message, true);
  }
}

function say(text, bad = false) {
  status.textContent = text;
  status.classList.toggle('bad', bad);
}

function dropping(main) {
  main.addEventListener('dragover', (event) => {
    event.preventDefault();
    main.classList.add('over');
  });
  main.addEventListener('dragleave', () => main.classList.remove('over'));
  main.addEventListener('drop', (event) => {
    event.preventDefault();
    main.classList.remove('over');
    if (event.dataTransfer.files.length === 0) return;
    form.image.files = event.dataTransfer.files;
    update();
  });
}

dropping(document.querySelector('main'));
form.addEventListener('change', update);
try {
  const names = await models();
  form.model.append(...names.map((name) => new Option(name, name)));
  if (names.length === 0) say('The server has no model that is ready.', true);
} catch (error) {
  say(error.message, true);
}
