// Say what a picture shows by an exported .onnx, in Node; of all but captioners also to a text.
//
//     npm install --prefix export/web
//     node export/web/caption.mjs model.onnx photo.jpg ["is it a cat?"]

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import * as ort from "onnxruntime-web";
import sharp from "sharp";
import { companions, described, run } from "./model.mjs";

const [, , model, photo, text] = process.argv;

async function main() {
  if (!photo) throw new Error('node caption.mjs model.onnx photo.jpg ["a text"]');
  const file = readFileSync(model);
  const beside = (name) => readFileSync(join(dirname(model), name), "utf8");
  const description = companions(file) ?? described(beside("model.json"), beside("vocabulary.txt"));
  if (description.about.task !== "captioner" && !text)
    throw new Error(`a ${description.about.task} needs a text besides the picture: give it after the picture's name`);
  if (!existsSync(photo)) throw new Error(`there is no file ${photo}`);
  // the picture upright, as its EXIF says, in sRGB, with transparency
  const decoded = sharp(photo, { limitInputPixels: 50_000_000 }).rotate().toColourspace("srgb").ensureAlpha().raw();
  const { data, info } = await decoded.toBuffer({ resolveWithObject: true });
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(file);
  const { said } = await run(ort, session, description, { data, width: info.width, height: info.height }, text);
  console.log(said);
}

main().catch((error) => {
  console.error(`caption.mjs: ${error.message}`);
  process.exit(1);
});
