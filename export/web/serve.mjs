// Serve the page and a model on this machine, with the headers that let a browser use several threads.
//
//     npm install
//     npm start -- ../../exported/onnx/model.onnx [--port 8000]

import { createHash } from "node:crypto";
import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const TYPES = {
  ".html": "text/html; charset=utf-8", ".mjs": "text/javascript", ".css": "text/css", ".wasm": "application/wasm",
  ".json": "application/json", ".svg": "image/svg+xml",
};
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp", "Cache-Control": "no-cache",
  "X-Content-Type-Options": "nosniff",
};

const given = process.argv.slice(2);
const at = given.indexOf("--port");
const port = at < 0 ? 8000 : Number(given.splice(at, 2)[1]);
const model = given[0] && resolve(given[0]);
if (model && !existsSync(model)) {
  console.error(`serve.mjs: there is no file ${given[0]}`);
  process.exit(1);
}

const hashes = new Map(); // of files, until they change
async function tagOf(path, { mtimeMs, size }) {
  const key = `${path} ${mtimeMs} ${size}`;
  if (!hashes.has(key)) {
    const hash = createHash("sha256");
    for await (const part of createReadStream(path)) hash.update(part);
    hashes.set(key, `"${hash.digest("hex")}"`);
  }
  return hashes.get(key);
}

const server = createServer(async (request, response) => {
  const end = (status) => response.writeHead(status, HEADERS).end();
  if (!["GET", "HEAD"].includes(request.method)) return end(405);
  let name;
  try {
    name = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
  } catch {
    return end(400);
  }
  const path = name === "/model.onnx" ? model : join(HERE, name === "/" ? "index.html" : name);
  if (!path || (path !== model && !path.startsWith(HERE)) || !existsSync(path)) return end(404);
  const about = statSync(path);
  if (!about.isFile()) return end(404);
  const ETag = await tagOf(path, about);
  if (request.headers["if-none-match"] === ETag) return response.writeHead(304, { ...HEADERS, ETag }).end();
  const type = TYPES[extname(path)] ?? "application/octet-stream";
  response.writeHead(200, { ...HEADERS, ETag, "Content-Type": type, "Content-Length": about.size });
  if (request.method === "HEAD") return response.end();
  createReadStream(path).on("error", () => response.destroy()).pipe(response);
});
server.on("error", (error) => {
  console.error(`serve.mjs: ${error.code === "EADDRINUSE" ? `port ${port} is taken: choose another with --port` : error.message}`);
  process.exit(1);
});
server.listen(port, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/`));
