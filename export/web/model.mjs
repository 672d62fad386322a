// What a program must do around an exported .onnx: prepare pictures and texts, and turn its outputs into words.
//
// Pure JavaScript, for Node and browsers; the model itself runs in onnxruntime (`worker.mjs`, `caption.mjs`).

// Return a model's description and vocabulary, which stand in the file itself; null where they do not.
export function companions(file) {
  const bytes = new Uint8Array(file);
  const found = {};
  for (const [field, start, end] of fields(bytes, 0, bytes.length)) {
    if (field !== 14) continue; // metadata_props of a ModelProto: pairs of key and value
    const [key, value] = ["", ""].map((_, i) => {
      const part = [...fields(bytes, start, end)].find(([number]) => number === i + 1);
      return part ? new TextDecoder().decode(bytes.subarray(part[1], part[2])) : "";
    });
    found[key] = value;
  }
  if (!found["model.json"]) return null;
  const description = described(found["model.json"], found["vocabulary.txt"] ?? "");
  if (description.about.sha256 && found.sha256 !== sha256(bytes.subarray(0, bytes.length - 76))) // its own field is 76 bytes
    throw new Error("the file is damaged: its sha256 is not the one at its end. Copy or export it again");
  return description;
}

// Read a description and a vocabulary, and check that they are what was exported. Older descriptions have no hashes.
export function described(json, lines) {
  const about = JSON.parse(json);
  const own = about.sha256?.["model.json"];
  if (own !== undefined) {
    const found = { "model.json": json.replaceAll(own, "0".repeat(64)), "vocabulary.txt": lines };
    for (const [name, text] of Object.entries(found))
      if (sha256(new TextEncoder().encode(text)) !== about.sha256[name])
        throw new Error(`${name} is damaged, or of another file: its sha256 is not the one in model.json. Export the model again`);
  }
  const vocabulary = lines.replace(/\n$/, "").split("\n");
  if (vocabulary.length !== about.pieces)
    throw new Error(`the vocabulary has ${vocabulary.length} pieces, expected ${about.pieces}: export the model again`);
  if (about.form !== "one" || !["captioner", "vqa", "classifier", "matcher"].includes(about.task))
    throw new Error(`a ${about.task} of form "${about.form}" does not run here: export a captioner, an answerer, a classifier or a matcher as one file`);
  return { about, vocabulary };
}

// SHA-256 in hexadecimal (FIPS 180-4). crypto.subtle would need https, which a page from this machine's network has not.
export function sha256(bytes) {
  const [state, rounds] = [[], []];
  const fraction = (x) => ((x - Math.floor(x)) * 2 ** 32) | 0;
  for (let n = 2; rounds.length < 64; n++) {
    let prime = true;
    for (let i = 2; i * i <= n; i++) prime &&= n % i !== 0;
    if (!prime) continue;
    if (state.length < 8) state.push(fraction(Math.sqrt(n)));
    rounds.push(fraction(Math.cbrt(n)));
  }
  const last = new Uint8Array(bytes.length % 64 < 56 ? 64 : 128);
  const whole = bytes.length - (bytes.length % 64);
  last.set(bytes.subarray(whole));
  last[bytes.length - whole] = 0x80;
  new DataView(last.buffer).setBigUint64(last.length - 8, 8n * BigInt(bytes.length));
  const [w, k] = [new Int32Array(64), Int32Array.from(rounds)];
  const turn = (x, n) => (x >>> n) | (x << (32 - n));
  for (const part of [bytes.subarray(0, whole), last])
    for (let at = 0; at < part.length; at += 64) {
      for (let i = 0; i < 16; i++) {
        const j = at + 4 * i;
        w[i] = (part[j] << 24) | (part[j + 1] << 16) | (part[j + 2] << 8) | part[j + 3];
      }
      for (let i = 16; i < 64; i++) {
        const one = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >>> 3);
        const two = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >>> 10);
        w[i] = w[i - 16] + one + w[i - 7] + two;
      }
      let [a, b, c, d, e, f, g, h] = state;
      for (let i = 0; i < 64; i++) {
        const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i]) | 0;
        const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
        h = g, g = f, f = e, e = (d + one) | 0, d = c, c = b, b = a, a = (one + two) | 0;
      }
      [a, b, c, d, e, f, g, h].forEach((value, i) => (state[i] = (state[i] + value) | 0));
    }
  return state.map((value) => (value >>> 0).toString(16).padStart(8, "0")).join("");
}

// The fields of a protocol buffer's message that have a length: [number, start, end].
function* fields(bytes, at, end) {
  const number = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (at >= end) throw new Error("this is not an .onnx file, or a part of one");
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < end) {
    const key = number();
    const kind = key % 8;
    if (kind === 0) number();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = number();
      if (at + length > end) throw new Error("this is not an .onnx file, or a part of one");
      yield [Math.floor(key / 8), at, at + length];
      at += length;
    } else throw new Error("this is not an .onnx file, or a part of one");
  }
}

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
  } else if (fit !== "stretch") throw new Error(`resize "${about.resize}" is not known: use newer programs`);
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

// Where the model's square lies over a picture: left, top, width and height, in the picture's pixels.
export function seen(width, height, { image_shape: [rows, columns], resize }) {
  const fit = resize.split("-")[0];
  if (fit === "stretch") return [0, 0, width, height];
  const scale = Math[fit === "pad" ? "min" : "max"](columns / width, rows / height);
  return [(width - columns / scale) / 2, (height - rows / scale) / 2, columns / scale, rows / scale];
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
  const pieces = written(stop < 0 ? ids : ids.slice(0, stop), about).map((one) => vocabulary[one]);
  if (about.spelling) return spelled(pieces.join(""), about.spelling.word_end ?? " ");
  let text = pieces.join(" ");
  for (const [pattern, rewrite] of about.join_rules)
    text = text.replace(new RegExp(pattern, "gu"), rewrite.replaceAll("\\1", "$1"));
  return text;
}

function written(ids, about) {
  return ids.filter((one) => one >= Object.keys(about.special_ids).length);
}

// Pieces of GPT-2 or CLIP, whose characters stand for bytes.
function spelled(joined, end) {
  const plain = [...Array(256).keys()].filter((b) => (b > 32 && b < 127) || (b > 160 && b < 173) || b > 173);
  const table = new Map(plain.map((byte) => [String.fromCodePoint(byte), byte]));
  let next = 256;
  for (let byte = 0; byte < 256; byte++) if (!plain.includes(byte)) table.set(String.fromCodePoint(next++), byte);
  const bytes = [...joined.replaceAll(end, "\u0120")].filter((one) => table.has(one)).map((one) => table.get(one));
  return new TextDecoder().decode(Uint8Array.from(bytes)).trim();
}

// Each word of a caption with the places of its pieces, for maps of attention.
export function placed(ids, about, vocabulary) {
  const special = about.special_ids;
  const stop = ids.findIndex((one) => one === special.end || one === special.pad);
  const groups = [];
  ids.slice(0, stop < 0 ? ids.length : stop).forEach((one, at) => {
    if (one < Object.keys(special).length) return;
    const piece = vocabulary[one];
    const before = groups.length && vocabulary[ids[at - 1]];
    const goes_on = about.spelling
      ? about.spelling.word_end ? before && !before.endsWith(about.spelling.word_end) : !piece.startsWith("\u0120")
      : piece.startsWith("##");
    if (groups.length && goes_on) groups.at(-1).places.push(at);
    else groups.push({ places: [at] });
  });
  return groups.map(({ places }) => ({ places, word: words(places.map((at) => ids[at]), about, vocabulary) }));
}

const IDEOGRAPHS = [
  [0x4e00, 0x9fff], [0x3400, 0x4dbf], [0x20000, 0x2a6df], [0x2a700, 0x2ceaf], [0xf900, 0xfaff], [0x2f800, 0x2fa1f],
];
const MAX_TEXT = 10_000; // bytes

// A text in lower case, in one form of each letter, without what is not seen.
export function normalized(text, about) {
  const gaps = new RegExp(about.gaps, "gu");
  const seen = text.replace(new RegExp(about.unseen, "gu"), "").replace(gaps, " ");
  return seen.normalize("NFKC").toLowerCase().normalize("NFKC").replace(gaps, " ").replace(/^ +| +$/g, "");
}

// A text as ids: the start, then each word's longest matching pieces, then padding.
export function tokens(text, about, vocabulary) {
  if (about.rule) throw new Error("this model cuts texts by a tokenizer.json, which these programs do not read");
  if (new TextEncoder().encode(text).length > MAX_TEXT) throw new Error("the text has more than 10,000 bytes");
  const special = about.special_ids;
  const idOf = new Map(vocabulary.map((piece, i) => [piece, i]));
  const ids = [special.start];
  for (const word of [...normalized(text, about)].map(separated).join("").split(" ").filter(Boolean)) {
    const letters = [...word];
    const pieces = [];
    let at = 0;
    while (at < letters.length && new TextEncoder().encode(word).length <= 100) {
      let end = letters.length;
      while (end > at && !idOf.has((at ? "##" : "") + letters.slice(at, end).join(""))) end--;
      if (end === at) break;
      pieces.push(idOf.get((at ? "##" : "") + letters.slice(at, end).join("")));
      at = end;
    }
    ids.push(...(at < letters.length ? [special.unk] : pieces));
  }
  if (ids.length === 1 && !about.allow_empty) throw new Error("the text has no words");
  return Array.from({ length: about.max_length }, (_, i) => ids[i] ?? special.pad);
}

function separated(character) {
  const code = character.codePointAt(0);
  const alone =
    /^\p{P}$/u.test(character) ||
    (/^[!-~]$/.test(character) && !/^[0-9a-z]$/i.test(character)) ||
    IDEOGRAPHS.some(([first, last]) => first <= code && code <= last);
  return alone ? ` ${character} ` : /^[\p{Cc}\p{Cf}]$/u.test(character) ? " " : character;
}

// What a model says, from its outputs as plain arrays: a caption, an answer, labels or a probability.
export function result(outputs, about, vocabulary) {
  if (outputs.ids) return words(outputs.ids, about, vocabulary);
  const logits = outputs.logits;
  if (about.task === "matcher") return `fits with probability ${(1 / (1 + Math.exp(-logits[0]))).toFixed(3)}`;
  if (about.multi_label) return about.labels.filter((_, i) => logits[i] > 0).join(", ") || "nothing";
  return about.labels[logits.indexOf(Math.max(...logits))];
}

// What a session takes: the picture's RGBA bytes and, of all but captioners, a text. `ort` is onnxruntime's module.
export async function run(ort, session, { about, vocabulary }, rgba, text = "") {
  const feeds = { image: new ort.Tensor("uint8", pixels(rgba, about), [1, ...about.image_shape]) };
  if (about.task !== "captioner")
    feeds.tokens = new ort.Tensor("int32", Int32Array.from(tokens(text, about, vocabulary)), [1, about.max_length]);
  const found = await session.run(feeds);
  const outputs = Object.fromEntries(Object.entries(found).map(([name, tensor]) => [name, Array.from(tensor.data)]));
  const said = result(outputs, about, vocabulary);
  if (!outputs.attention) return { said, words: [] };
  const [rows, columns] = about.attention;
  const size = rows * columns;
  const [read, shift] = outputs.ids ? [outputs.ids, 0] : [Array.from(feeds.tokens.data).slice(1), 1];
  const heat = placed(read, about, vocabulary).map(({ word, places }) => ({
    word,
    rows,
    columns,
    heat: Array.from({ length: size }, (_, i) =>
      places.reduce((sum, at) => sum + outputs.attention[(at + shift) * size + i], 0) / places.length),
  }));
  return { said, words: heat };
}
