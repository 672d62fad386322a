// Run an exported .onnx off the page's thread. Messages: {load}, {file} or {picture, text}; answers carry the same id.

import { companions, described, run } from "./model.mjs";

const RUNTIME = "./node_modules/onnxruntime-web/dist/";
const MODELS = "vtx-models";
let ort, session, description;

// Say what went wrong in words, under the id of the message that asked.
self.onmessage = async ({ data: { id, ...asked } }) => {
  try {
    const answer = asked.picture ? await look(asked) : await open(asked, (said) => self.postMessage({ id, said }));
    self.postMessage({ id, answer });
  } catch (error) {
    self.postMessage({ id, error: String(error.message ?? error) });
  }
};

// Open a model: one that was chosen, or the one that stands beside the page.
async function open({ file, load, gpu }, tell) {
  tell("loading the runtime");
  ort ??= await import(`${RUNTIME}${gpu ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs"}`);
  ort.env.wasm.wasmPaths = new URL(RUNTIME, import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  const bytes = file ? await file.arrayBuffer() : await fetched(load, tell);
  const found = companions(bytes);
  if (!found) throw new Error("the file has no description in it: export it again with this version");
  tell("opening the model");
  const opened = await ort.InferenceSession.create(bytes, { executionProviders: [gpu ? "webgpu" : "wasm"] });
  await session?.release();
  [session, description] = [opened, found];
  return { ...description.about, threads: ort.env.wasm.numThreads, megabytes: bytes.byteLength / 1e6 };
}

// Fetch a file with progress. It is kept under its ETag, and read from there when it has not changed or is out of reach.
async function fetched(address, tell) {
  const kept = await caches.open(MODELS);
  const head = await fetch(address, { method: "HEAD" }).catch(() => null);
  if (head && !head.ok) throw new Error(`there is no model at ${address} (${head.status}): choose a file`);
  const before = await kept.match(address);
  const same = before && (!head || before.headers.get("ETag") === head.headers.get("ETag"));
  if (same) return before.arrayBuffer();
  if (!head) throw new Error("the server cannot be reached, and no model was kept: choose a file");
  const response = await fetch(address);
  if (!response.ok) throw new Error(`the model cannot be fetched: ${response.status}`);
  const total = Number(response.headers.get("Content-Length"));
  const parts = [];
  let done = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { value, done: ended } = await reader.read();
    if (ended) break;
    parts.push(value);
    done += value.length;
    tell(`loading the model: ${(done / 1e6).toFixed(0)}${total ? ` of ${(total / 1e6).toFixed(0)}` : ""} MB`);
  }
  if (total && done !== total) throw new Error("the connection was lost while the model came: load the page again");
  const file = new Blob(parts);
  const headers = { ETag: response.headers.get("ETag") ?? "" };
  await kept.put(address, new Response(file, { headers })).catch(() => tell("the model cannot be kept: the disk is full"));
  return file.arrayBuffer();
}

// Look at a picture: its bytes are decoded as they are, upright, without a colour profile, as the model learned to.
async function look({ picture, text }) {
  if (!session) throw new Error("no model is loaded yet");
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const image = await createImageBitmap(picture, options).catch(() => null);
  if (!image) throw new Error("this file is no picture that the browser can read");
  if (image.width * image.height > 50e6) throw new Error("the picture has more than 50 million pixels");
  const context = new OffscreenCanvas(image.width, image.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, image.width, image.height);
  const start = performance.now();
  const found = await run(ort, session, description, rgba, text);
  return { ...found, ms: performance.now() - start, resize: description.about.resize };
}
