// The worker's operations as promises.

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let asked = 0;

worker.onmessage = ({ data: { id, share, result, error } }) => {
  const { done, failed, tell } = waiting.get(id) ?? {};
  if (!done) return undefined; // given up
  if (share !== undefined) return tell(share);
  waiting.delete(id);
  return error === undefined ? done(result) : failed(new Error(error));
};
worker.onerror = (event) => {
  const error = new Error(event.message || "the networks cannot be loaded");
  for (const { failed } of waiting.values()) failed(error);
  waiting.clear();
};

/** Ask the worker for an operation; `tell` hears which share of it is done. */
export function ask(name, given = {}, tell = () => {}) {
  return new Promise((done, failed) => {
    waiting.set(++asked, { done, failed, tell });
    worker.postMessage({ id: asked, name, given });
  });
}

/** A function that runs `of` for the latest call alone while an earlier one is under way. */
export function latest(of) {
  let [busy, next] = [false, null];
  return async function call(...given) {
    if (busy) {
      next = given;
      return;
    }
    busy = true;
    try {
      await of(...given);
    } finally {
      busy = false;
      if (next) {
        const again = next;
        next = null;
        call(...again);
      }
    }
  };
}
