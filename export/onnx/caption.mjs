// Caption an image with a captioner's .onnx of form `one`, in Node or (without the last lines) in a browser.
//
//     npm install onnxruntime-web pngjs
//     node caption.mjs model.onnx photo.png

import * as ort from "onnxruntime-web";

// Fit RGBA bytes, as a canvas gives them, to the model's size, as `about.resize` says: transparency on white, then
// "pad" (aspect ratio kept, white borders), "stretch", "crop" (the middle in the model's aspect ratio) or "shortest"
// (the shortest side fits, then the middle), each also with "-bicubic" or "-lanczos".
export function pixels({ data, width, height }, about) {
  const [toHeight, toWidth] = about.image_shape;
  const [fit, filter = "bilinear"] = about.resize.split("-");
  const size = [toHeight, toWidth];
  let from = [[0, height], [0, width]];
  if (fit === "pad") {
    const scale = Math.min(toWidth / width, toHeight / height);
    [height, width].forEach((side, axis) => (size[axis] = Math.max(1, Math.floor(side * scale + 0.5))));
  } else if (fit === "shortest") {
    size[0] = Math.max(toHeight, Math.floor((toWidth * height) / width));
    size[1] = Math.max(toWidth, Math.floor((toHeight * width) / height));
  } else if (fit === "crop") {
    const part = [Math.min(height, (width * toHeight) / toWidth), Math.min(width, (height * toWidth) / toHeight)];
    from = [height, width].map((side, axis) => [(side - part[axis]) / 2, (side + part[axis]) / 2]);
  } else if (fit !== "stretch") throw new Error(`resize "${about.resize}" is not known: use a newer caption.mjs`);
  let rows = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) rows[3 * i + c] = Math.round(255 + ((data[4 * i + c] - 255) * data[4 * i + 3]) / 255);
  rows = resized(rows, height, width, size[1], true, from[1], filter); // columns first, as Pillow does
  rows = resized(rows, height, size[1], size[0], false, from[0], filter);
  const fitted = new Uint8Array(toHeight * toWidth * 3).fill(255);
  const [top, left] = [Math.trunc((toHeight - size[0]) / 2), Math.trunc((toWidth - size[1]) / 2)]; // negative: cut off
  for (let y = Math.max(0, top); y < Math.min(toHeight, top + size[0]); y++)
    for (let x = Math.max(0, left); x < Math.min(toWidth, left + size[1]); x++)
      for (let c = 0; c < 3; c++) fitted[(y * toWidth + x) * 3 + c] = rows[((y - top) * size[1] + x - left) * 3 + c];
  return fitted;
}

// The reach of each filter, and its weight at a distance.
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - x)],
  bicubic: [2, (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0)],
  lanczos: [3, (x) => (x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

// Resize a part of one axis: every new pixel is a weighted mean, over a wider range where the image shrinks.
function resized(values, height, width, size, across, [start, end], filter) {
  const length = across ? width : height;
  const step = (end - start) / size;
  if (step === 1 && start === 0) return values;
  const [support, weigh] = FILTERS[filter];
  const scale = Math.max(step, 1);
  const reach = support * scale;
  const [outHeight, outWidth] = across ? [height, size] : [size, width];
  const result = new Uint8Array(outHeight * outWidth * 3);
  for (let to = 0; to < size; to++) {
    const centre = start + (to + 0.5) * step;
    const [first, last] = [Math.max(0, Math.trunc(centre - reach + 0.5)), Math.min(length, Math.trunc(centre + reach + 0.5))];
    const weights = Array.from({ length: last - first }, (_, i) => weigh(Math.abs(first + i + 0.5 - centre) / scale));
    const total = weights.reduce((a, b) => a + b, 0);
    for (let other = 0; other < (across ? height : width); other++)
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        weights.forEach((weight, i) => {
          const [y, x] = across ? [other, first + i] : [first + i, other];
          sum += weight * values[(y * width + x) * 3 + c];
        });
        const [y, x] = across ? [other, to] : [to, other];
        result[(y * outWidth + x) * 3 + c] = Math.min(255, Math.max(0, Math.round(sum / total)));
      }
  }
  return result;
}

// The ids before the first end or padding, as a text.
export function words(ids, about, vocabulary) {
  const special = about.special_ids;
  const stop = ids.findIndex((one) => one === special.end || one === special.pad);
  const written = (stop < 0 ? ids : ids.slice(0, stop)).filter((one) => one >= Object.keys(special).length);
  let text = written.map((one) => vocabulary[one]).join(" ");
  for (const [pattern, rewrite] of about.join_rules)
    text = text.replace(new RegExp(pattern, "gu"), rewrite.replaceAll("\\1", "$1"));
  return text;
}

export async function caption(session, rgba, about, vocabulary) {
  const image = new ort.Tensor("uint8", pixels(rgba, about), [1, ...about.image_shape]);
  const { ids } = await session.run({ image });
  return words(Array.from(ids.data), about, vocabulary);
}

if (typeof process !== "undefined" && process.argv[1]?.endsWith("caption.mjs")) {
  const { readFileSync } = await import("node:fs");
  const { dirname, join } = await import("node:path");
  const { PNG } = (await import("pngjs")).default;
  const [, , model, photo] = process.argv;
  if (!photo) throw new Error("node caption.mjs model.onnx photo.png");
  const beside = (name) => readFileSync(join(dirname(model), name), "utf8");
  const session = await ort.InferenceSession.create(readFileSync(model));
  const vocabulary = beside("vocabulary.txt").trimEnd().split("\n");
  console.log(await caption(session, PNG.sync.read(readFileSync(photo)), JSON.parse(beside("model.json")), vocabulary));
}
