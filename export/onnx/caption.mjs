// Caption an image with a captioner's .onnx of form `one`, in Node or (without the last lines) in a browser.
//
//     npm install onnxruntime-web pngjs
//     node caption.mjs model.onnx photo.png

import * as ort from "onnxruntime-web";

// Fit RGBA bytes, as a canvas gives them, to the model's size: transparency on white, aspect ratio kept, white borders.
export function pixels({ data, width, height }, about) {
  const [toHeight, toWidth] = about.image_shape;
  const scale = Math.min(toWidth / width, toHeight / height);
  const inner = [height, width].map((side) => Math.max(1, Math.floor(side * scale + 0.5)));
  let rows = new Float64Array(width * height * 3);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) rows[3 * i + c] = 255 + ((data[4 * i + c] - 255) * data[4 * i + 3]) / 255;
  rows = resized(rows.map(Math.round), height, width, inner[1], true); // columns first, as Pillow does
  rows = resized(rows, height, inner[1], inner[0], false);
  const padded = new Uint8Array(toHeight * toWidth * 3).fill(255);
  const [top, left] = [Math.floor((toHeight - inner[0]) / 2), Math.floor((toWidth - inner[1]) / 2)];
  for (let y = 0; y < inner[0]; y++)
    for (let i = 0; i < inner[1] * 3; i++) padded[((top + y) * toWidth + left) * 3 + i] = rows[y * inner[1] * 3 + i];
  return padded;
}

// Resize one axis: every new pixel is a triangle-weighted mean, over a wider range where the image shrinks.
function resized(values, height, width, size, across) {
  const length = across ? width : height;
  const step = length / size;
  const reach = Math.max(step, 1);
  const [outHeight, outWidth] = across ? [height, size] : [size, width];
  const result = new Float64Array(outHeight * outWidth * 3);
  for (let to = 0; to < size; to++) {
    const centre = (to + 0.5) * step;
    const [first, last] = [Math.max(0, Math.floor(centre - reach + 0.5)), Math.min(length, Math.floor(centre + reach + 0.5))];
    const weights = Array.from({ length: last - first }, (_, i) => Math.max(0, 1 - Math.abs(first + i + 0.5 - centre) / reach));
    const total = weights.reduce((a, b) => a + b, 0);
    for (let other = 0; other < (across ? height : width); other++)
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        weights.forEach((weight, i) => {
          const [y, x] = across ? [other, first + i] : [first + i, other];
          sum += weight * values[(y * width + x) * 3 + c];
        });
        const [y, x] = across ? [other, to] : [to, other];
        result[(y * outWidth + x) * 3 + c] = Math.round(sum / total);
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
