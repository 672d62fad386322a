// The page: a picture in, words out, and where the model looked for each. The model runs in a worker of this browser,
// or, where the page is served by `vtx demo`, in Keras behind it.

import { seen } from "./model.mjs";

const $ = (id) => document.getElementById(id);
let about = null; // the model's description
let engine = null; // {open, look}
let picture = null; // the Blob that is shown
let image = null; // and its decoded form
let seed = 0; // of the next drawing
let last = { load: "model.onnx" }; // what was opened
let asked = 0; // the number of the last question: answers to earlier ones are dropped

// --- two engines with the same answers: {said, words: [{word, rows, columns, heat}], ms}

function inBrowser() {
  const worker = new Worker("worker.mjs", { type: "module" });
  const waiting = new Map();
  let number = 0;
  worker.onmessage = ({ data: { id, said, answer, error } }) => {
    if (said) return state(said, true);
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    error ? reject(new Error(error)) : resolve(answer);
  };
  worker.onerror = () => {
    for (const { reject } of waiting.values()) reject(new Error("the worker stopped: load the page again"));
    waiting.clear();
  };
  const send = (message) =>
    new Promise((resolve, reject) => {
      waiting.set(++number, { resolve, reject });
      worker.postMessage({ id: number, ...message });
    });
  return {
    close: () => worker.terminate(),
    open: (how) => send({ ...how, gpu: $("gpu").checked }),
    look: (blob, text) => send({ picture: blob, text }),
  };
}

function onServer(description) {
  return {
    open: async () => description,
    look: async (blob, text, tell) => {
      const query = new URLSearchParams({ text, beams: $("beams").value, seed: seed++ });
      const gone = new Error("the server cannot be reached: is vtx demo still running?");
      const answer = await fetch(`ask?${query}`, { method: "POST", body: blob ?? "" }).catch(() => Promise.reject(gone));
      if (!answer.body || ![200, 413].includes(answer.status)) throw new Error(`the server answered ${answer.status}`);
      const found = { words: [] };
      let rest = "";
      for await (const part of parts(answer.body)) {
        rest += part;
        const ready = rest.split("\n");
        rest = ready.pop();
        for (const line of ready) Object.assign(found, JSON.parse(line));
        if (found.error) break;
        tell(found); // words as they are written, then all of them, then where the model looked
      }
      if (rest) Object.assign(found, JSON.parse(rest));
      if (found.error) throw new Error(found.error);
      if (found.said === undefined) throw gone;
      return found;
    },
  };
}

async function* parts(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let next; !(next = await reader.read()).done; ) yield next.value;
}

// --- what is shown

const LABELS = {
  matcher: "Does this text fit?", retriever: "How near is this text?", classifier: "The text beside it", generator: "Draw",
};

function state(said, busy = false) {
  $("state").textContent = said;
  $("progress").hidden = !busy;
}

function trouble(error) {
  $("trouble").textContent = error ? error.message : "";
}

async function open(how) {
  last = how;
  trouble();
  state("loading", true);
  try {
    about = await engine.open(how);
    const size = about.megabytes ? `, ${about.megabytes.toFixed(1)} MB` : "";
    const where = about.engine ? "Keras on this machine" : `this browser, ${about.threads} thread${about.threads > 1 ? "s" : ""}`;
    state(`${about.name}${size}, in ${where}`);
    $("ask").hidden = about.task === "captioner" && !about.talks;
    $("text").value = "";
    $("ask").querySelector("label").textContent = LABELS[about.task] ?? "Question";
    $("choose").hidden = $("take").hidden = about.task === "generator";
    $("hint").textContent = about.task === "generator" ? "Say what it should draw." : "Drop a photograph here, paste one, or";
    if (picture) await look();
  } catch (error) {
    state(about ? `${about.name} is still loaded` : "no model is loaded");
    trouble(error);
  }
}

async function show(blob) {
  trouble();
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  const decoded = await createImageBitmap(blob, options).catch(() => null);
  if (!decoded) return trouble(new Error("this file is no picture that the browser can read"));
  [picture, image] = [blob, decoded];
  $("view").hidden = false;
  $("hint").hidden = true;
  draw();
  await look();
}

async function look() {
  if (!about) return;
  const text = $("ask").hidden ? "" : $("text").value.trim();
  if (!$("ask").hidden && !text && !about.talks) {
    $("said").textContent = "";
    return $("text").focus();
  }
  const number = ++asked;
  trouble();
  $("said").textContent = "…";
  $("words").hidden = true;
  $("figures").textContent = "";
  try {
    const found = await engine.look(picture, text, (so_far) => {
      if (number === asked) $("said").textContent = so_far.said ?? so_far.part ?? "…";
    });
    if (number !== asked) return;
    if (found.drawn) await unroll(found.drawn);
    $("said").textContent = found.said || "(no words)";
    const more = found.words.length ? " · choose a word to see where the model looked" : "";
    $("figures").textContent = `${Math.round(found.ms)} ms${more}`;
    offer(found.words);
  } catch (error) {
    if (number !== asked) return;
    $("said").textContent = "";
    trouble(error);
  }
}

// Show what was drawn: a picture, or a clip that moves.
async function unroll(address) {
  const drawn = $("drawn");
  drawn.src = address;
  await drawn.decode();
  drawn.hidden = false;
  drawn.alt = $("text").value;
  $("hint").hidden = true;
}

// A button for each word; the one that is pressed shows its map.
function offer(words) {
  if (image) draw();
  const buttons = words.map((one) => {
    const button = document.createElement("button");
    button.textContent = one.word;
    button.setAttribute("aria-pressed", "false");
    const press = (on) => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(on && other === button)));
      draw(on ? one : null);
    };
    button.onclick = () => press(button.getAttribute("aria-pressed") !== "true");
    button.onmouseenter = button.onfocus = () => press(true);
    button.onmouseleave = button.onblur = () => press(false);
    return button;
  });
  $("words").replaceChildren(...buttons);
  $("words").hidden = !buttons.length;
}

// Draw the picture, and where a word looked: the rest is darkened.
function draw(word = null) {
  const longest = Math.max(image.width, image.height);
  const scale = Math.min(900 / longest, Math.max(1, 560 / longest));
  const [width, height] = [image.width, image.height].map((side) => Math.max(1, Math.round(side * scale)));
  const view = $("view");
  [view.width, view.height] = [width, height];
  const context = view.getContext("2d");
  context.drawImage(image, 0, 0, width, height);
  view.setAttribute("role", "img");
  view.setAttribute("aria-label", word ? `where the model looked for "${word.word}"` : "your picture");
  if (!word) return;
  const most = Math.max(...word.heat);
  const map = new OffscreenCanvas(word.columns, word.rows);
  const shade = map.getContext("2d").createImageData(word.columns, word.rows);
  word.heat.forEach((heat, i) => shade.data.set([0, 0, 0, Math.round(210 * (1 - heat / most))], 4 * i));
  map.getContext("2d").putImageData(shade, 0, 0);
  const [left, top, across, down] = seen(image.width, image.height, about);
  context.imageSmoothingQuality = "high";
  context.drawImage(map, left * scale, top * scale, across * scale, down * scale);
}

// --- ways in: a file, a drop, a paste, the camera

$("choose").onclick = () => $("photo").click();
$("photo").onchange = () => $("photo").files[0] && show($("photo").files[0]);
$("model").onclick = () => $("file").click();
$("file").onchange = () => $("file").files[0] && open({ file: $("file").files[0] });
$("gpu").onchange = () => {
  engine.close();
  engine = inBrowser();
  open(last);
};
$("ask").onsubmit = (event) => {
  event.preventDefault();
  if (!picture && about?.task !== "generator") return trouble(new Error("choose a picture first"));
  look();
};
$("beams").onchange = () => picture && look();
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (!file) return trouble(new Error("drop a file: a picture, or a model (.onnx)"));
  if (!file.name.endsWith(".onnx")) show(file);
  else if (about?.engine) trouble(new Error("this page shows the model that vtx demo was started with"));
  else open({ file });
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) show(file);
});

$("take").onclick = async () => {
  const camera = $("camera");
  trouble();
  if (camera.srcObject) {
    const still = new OffscreenCanvas(camera.videoWidth, camera.videoHeight);
    still.getContext("2d").drawImage(camera, 0, 0);
    close();
    return show(await still.convertToBlob({ type: "image/png" }));
  }
  try {
    camera.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    const why = error.name === "NotAllowedError" ? "the camera was not allowed" : "there is no camera that can be used";
    return trouble(new Error(`${why}: choose a file`));
  }
  await camera.play();
  $("view").hidden = $("hint").hidden = true;
  camera.hidden = $("stop").hidden = false;
  $("take").textContent = "take the picture";
};
$("stop").onclick = () => close();

function close() {
  $("camera").srcObject?.getTracks().forEach((track) => track.stop());
  $("camera").srcObject = null;
  $("camera").hidden = $("stop").hidden = true;
  $("view").hidden = !image;
  $("hint").hidden = Boolean(image);
  $("take").textContent = "use the camera";
}

// --- start: the model behind the page, or the one beside it

const description = await fetch("model.json").then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
if (description?.engine) {
  engine = onServer(description);
  $("model").hidden = true;
  $("turns").hidden = description.task !== "captioner";
  $("about").textContent = "A picture goes to this machine's vtx demo and no further; nothing is kept.";
} else {
  engine = inBrowser();
  $("gpu-label").hidden = !navigator.gpu;
  navigator.serviceWorker?.register("offline.mjs", { type: "module" }).catch(() => null);
}
await open(last);
document.body.dataset.ready = "yes";
