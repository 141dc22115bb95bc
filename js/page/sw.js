// Keeps every file of the page, so that it works without a network after the first load.

const { name, files } = self.PAGE;

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(name)
      .then((cache) => cache.addAll(files.map((file) => new Request(file, { cache: "no-cache" }))))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  const outdated = (key) => key.startsWith("rdlite-page-") && key !== name;
  event.waitUntil(
    caches
      .keys()
      .then((keys) => Promise.all(keys.filter(outdated).map((key) => caches.delete(key))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  const found = caches.match(event.request, { cacheName: name, ignoreSearch: true });
  event.respondWith(found.then((kept) => kept ?? fetch(event.request)));
});
