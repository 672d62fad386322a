// Keep the page and its runtime, so that it opens without a network after the first time. Models are kept by worker.mjs.

const PAGE = "vtx-page";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== self.location.origin || pathname.endsWith(".onnx")) return;
  event.respondWith(newest(request));
});

// What the server has; without it, what was kept.
async function newest(request) {
  const kept = await caches.open(PAGE);
  try {
    const answer = await fetch(request);
    if (answer.ok) await kept.put(request, answer.clone()).catch(() => null); // a full disk is no reason to fail
    return answer;
  } catch (error) {
    const before = await kept.match(request);
    if (before) return before;
    throw error;
  }
}
