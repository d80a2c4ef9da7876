// Two networks answer for a photo and for its attacked copy. Every picture is a Uint8Array of 32 x 32 x 3.

import { SIDE, fit } from "./fit.js";

const SIZE = SIDE * SIDE * 3;
const NETWORKS = ["ordinary", "robust"];
const TOP = 3;
const LARGEST = 4096; // pixels per side of a photo read at once

const $ = (id) => document.getElementById(id);
const rounded = (share) => `${share < 0.005 ? "<1" : share > 0.995 ? ">99" : Math.round(100 * share)}\u00a0%`;
const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share < 0.0005 ? 0 : 1)}\u00a0%`;
const a = (name) => `${/^[aeiou]/.test(name) ? "an" : "a"} ${name}`;

let about, photos, ort;
const sessions = {};
let shown = null; // { index } of a stored photo, or { own }
let turn = Promise.resolve();

// Running the networks

/** Probabilities, one Float64Array of classes for each picture. */
export function classify(network, pictures) {
  const answer = turn.then(() => run(sessions[network], pictures));
  turn = answer.catch(() => {}); // one at a time: a session does not run twice at once
  return answer;
}

async function run(session, pictures) {
  const planes = SIDE * SIDE;
  const input = new Float32Array(pictures.length * SIZE);
  pictures.forEach((picture, n) => {
    for (let pixel = 0; pixel < planes; pixel++)
      for (let colour = 0; colour < 3; colour++)
        input[n * SIZE + colour * planes + pixel] = picture[3 * pixel + colour] / 255;
  });
  const tensor = new ort.Tensor("float32", input, [pictures.length, 3, SIDE, SIDE]);
  const output = session.outputNames[0];
  const { data, dims } = (await session.run({ [session.inputNames[0]]: tensor }))[output];
  return pictures.map((_, n) => {
    const row = Float64Array.from(data.subarray(n * dims[1], (n + 1) * dims[1]));
    return output === "probabilities" ? row : softmax(row);
  });
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

const best = (shares) => shares.indexOf(Math.max(...shares));

// Reading a visitor's photo

async function read(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // behind transparent pixels
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return fit(context.getImageData(0, 0, canvas.width, canvas.height));
}

// Showing

/** One stored picture: of `original`, `ordinary` or `robust` (attacked against that network). */
export function photo(set, index) {
  const start = (about.sets.indexOf(set) * about.truth.length + index) * SIZE;
  return photos.subarray(start, start + SIZE);
}

function paint(canvas, picture, words) {
  const image = new ImageData(SIDE, SIDE);
  for (let pixel = 0; pixel < SIDE * SIDE; pixel++) {
    image.data.set(picture.subarray(3 * pixel, 3 * pixel + 3), 4 * pixel);
    image.data[4 * pixel + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  if (words) canvas.setAttribute("aria-label", words);
}

const magnification = () => Math.floor(127 / about.steps);

function difference(original, attacked) {
  return original.map((value, i) => 128 + magnification() * (attacked[i] - value));
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function bar(share) {
  const filled = element("i");
  filled.style.width = `${100 * share}%`;
  const made = element("span", { className: "bar" }, filled);
  made.setAttribute("aria-hidden", "true");
  return made;
}

function list(place, shares, truth) {
  const order = Array.from(shares.keys()).sort((a, b) => shares[b] - shares[a]).slice(0, TOP);
  place.replaceChildren(...order.map((label, rank) => {
    const known = truth !== undefined;
    const mark = known && rank === 0 ? (label === truth ? " ✓" : " ✗") : "";
    const line = element("li", {},
      element("span", { textContent: about.labels[label] + mark }),
      element("span", { className: "share", textContent: rounded(shares[label]) }),
      bar(shares[label]));
    line.className = !known ? "" : label === truth ? "right" : rank === 0 ? "wrong" : "";
    Object.assign(line.dataset, { label: about.labels[label], probability: shares[label] });
    return line;
  }));
}

/** What an attack did to an answer: words and whether that is good, bad or neither. */
function verdict(before, after, truth) {
  const [was, is] = [about.labels[before], about.labels[after]];
  if (before === truth && after === truth) return [`Not fooled: still ${is}`, "good"];
  if (before === truth) return [`Fooled: now ${is}`, "bad"];
  if (after === truth) return [`Wrong at first (${was}), right by chance`, ""];
  return [before === after ? `Wrong with and without the attack: ${is}` : `Wrong before (${was}) and after (${is})`, ""];
}

function judge(network, [words, tone]) {
  const place = document.querySelector(`#${network} .verdict`);
  place.textContent = words;
  place.className = `verdict ${tone}`;
}

const aim = () => document.querySelector("input[name=aim]:checked").value;
const answers = (network, set) => document.querySelector(`#${network} [data-set=${set}]`);

async function show(wanted) {
  shown = wanted;
  const own = wanted.own !== undefined;
  const original = own ? wanted.own : photo("original", wanted.index);
  const target = aim();
  const attacked = own ? null : photo(target, wanted.index);
  const start = performance.now();
  const found = {};
  for (const network of NETWORKS) found[network] = await classify(network, own ? [original] : [original, attacked]);
  if (shown !== wanted || (!own && target !== aim())) return; // the visitor has gone on to another one
  const spent = performance.now() - start;

  const truth = own ? undefined : about.truth[wanted.index];
  const name = own ? "your own" : about.labels[truth];
  $("demo").classList.toggle("own", own);
  $("truth").textContent = own ? name : a(name);
  $("still").textContent = `still ${a(name)}`;
  paint($("original"), original, own ? "Your photo at 32 by 32 pixels" : `Photo of ${a(name)}`);
  if (!own) {
    paint($("attacked"), attacked, `The photo of ${a(name)} after the attack, a little noisier`);
    paint($("change"), difference(original, attacked), "The change, magnified: faint coloured noise");
  }
  $("note").textContent = NOTES[target];
  for (const network of NETWORKS) {
    const [before, after] = found[network];
    document.querySelector(`#${network} .target`).classList.toggle("on", network === target);
    list(answers(network, "original"), before, truth);
    if (after) list(answers(network, "attacked"), after, truth);
    judge(network, after ? verdict(best(before), best(after), truth) : [`Says ${about.labels[best(before)]}`, ""]);
  }
  const count = own ? 2 : 4;
  $("speed").textContent =
    `These ${count} answers took ${spent.toFixed(0)} ms, in this page: your photos stay on your device.`;
}

const NOTES = {
  ordinary: "Computed to fool the ordinary network, then shown to both: the robust one has it easier here.",
  robust: "Computed to fool the robust network, its fair test: it falls more often than to a borrowed attack.",
};

// All photos

async function count() {
  const total = about.truth.length;
  const right = Object.fromEntries(NETWORKS.map((network) => [network, about.sets.map(() => 0)]));
  const step = 8;
  for (let first = 0; first < total; first += step) {
    $("counting").textContent = `Counting: ${first} of ${total} photos…`;
    const indices = Array.from({ length: Math.min(step, total - first) }, (_, i) => first + i);
    for (const network of NETWORKS)
      for (const [column, set] of about.sets.entries()) {
        const shares = await classify(network, indices.map((index) => photo(set, index)));
        right[network][column] += shares.filter((row, i) => best(row) === about.truth[indices[i]]).length;
        await new Promise((resume) => setTimeout(resume)); // lets the page answer in between
      }
  }
  for (const network of NETWORKS)
    document.querySelectorAll(`[data-model=${network}] td`).forEach((cell, column) => {
      cell.replaceChildren(String(right[network][column]), bar(right[network][column] / total));
      cell.className = about.sets[column] === network ? "wrong" : "right";
    });
  $("counting").textContent = `Right answers for ${total} photos, counted just now in your browser:`;
}

function measured() {
  const words = (network) => {
    const { clean, robust, n, attack } = about.models[network].measured;
    return `${network} from ${percent(clean)} right to ${percent(robust)} (${attack}, ${n.toLocaleString("en")} photos)`;
  };
  const lines = NETWORKS.filter((network) => about.models[network].measured).map(words);
  const more = lines.length ? ` Measured on more photos, each network attacked itself: ${lines.join("; ")}.` : "";
  return `Robust is not unbreakable, and it costs right answers on plain photos.${more}`;
}

// Starting

async function fetched(path, received = () => {}) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: the server answered ${response.status}`);
  const parts = [];
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    received(value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

function complain(error) {
  $("problem").textContent = `The networks could not be loaded. ${error.message ?? error}. ` +
    "Reload the page; if that does not help, build it again with “make web”.";
  $("problem").hidden = false;
  $("status").hidden = true;
}

async function load() {
  about = JSON.parse(new TextDecoder().decode(await fetched("about.json")));
  const models = NETWORKS.map((network) => `models/${network}.onnx`);
  const total = about.runtime.bytes + NETWORKS.reduce((sum, network) => sum + about.models[network].bytes, 0);
  let bytes = 0;
  const received = (more) => {
    bytes += more;
    $("progress").value = bytes / total;
    $("status-text").textContent = `Loading the networks: ${(bytes / 1e6).toFixed(0)} of ${(total / 1e6).toFixed(0)} MB`;
  };
  const [module, wasm, stored, ...files] = await Promise.all([
    import("./ort/ort.js"),
    fetched("ort/ort-wasm-simd-threaded.wasm", received),
    fetched("photos.bin"),
    ...models.map((path) => fetched(path, received)),
  ]);
  ort = module;
  photos = stored;
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // several need isolation headers, which file servers do not send
  ort.env.wasm.wasmBinary = wasm.buffer;
  for (const [i, network] of NETWORKS.entries())
    sessions[network] = await ort.InferenceSession.create(files[i], { executionProviders: ["wasm"] });
}

function furnish() {
  $("steps").textContent = `${about.steps} of 255`;
  $("magnified").textContent = `× ${magnification()}`;
  $("labels").textContent = about.labels.join(", ");
  $("measured").textContent = measured();
  about.truth.forEach((truth, index) => {
    const words = `Photo ${index + 1}: ${about.labels[truth]}`;
    const choice = element("input", { type: "radio", name: "photo", value: index, checked: index === about.first });
    choice.setAttribute("aria-label", words);
    const canvas = element("canvas", { width: SIDE, height: SIDE });
    paint(canvas, photo("original", index));
    $("strip").append(element("label", { title: words }, choice, canvas));
  });
  $("strip").addEventListener("change", (event) => show({ index: Number(event.target.value) }).catch(complain));
  document.querySelectorAll("input[name=aim]").forEach((choice) =>
    choice.addEventListener("change", () => show({ ...shown }).catch(complain)));
  $("upload").addEventListener("change", upload);
}

async function upload(event) {
  const [file] = event.target.files;
  event.target.value = ""; // the same file can be chosen again
  if (!file) return;
  $("problem").hidden = true;
  let own;
  try {
    own = await read(file);
  } catch {
    $("problem").textContent = `${file.name} is no picture that this browser can read.`;
    $("problem").hidden = false;
    return;
  }
  document.querySelectorAll("input[name=photo]").forEach((choice) => { choice.checked = false; });
  await show({ own }).catch(complain);
}

async function start() {
  await load();
  furnish();
  $("demo").hidden = false;
  $("strip").scrollLeft = $("strip").children[about.first].offsetLeft - $("strip").clientWidth / 3;
  await show({ index: about.first });
  $("status").hidden = true;
  await count();
  document.documentElement.dataset.state = "ready";
}

start().catch(complain);
