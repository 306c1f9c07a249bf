// The worker's operations as promises.

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let asked = 0;
let broken = null; // why nothing can be asked any more

worker.onmessage = ({ data: { id, share, result, error } }) => {
  const { done, failed, tell } = waiting.get(id) ?? {};
  if (!done) return undefined; // given up
  if (share !== undefined) return tell(share);
  waiting.delete(id);
  return error === undefined ? done(result) : failed(new Error(error));
};
worker.onerror = (event) => {
  broken = new Error(event.message || "this browser cannot load what the page computes with; a newer one can");
  for (const { failed } of waiting.values()) failed(broken);
  waiting.clear();
};

/** Ask the worker for an operation; `tell` hears which share of it is done. */
export function ask(name, given = {}, tell = () => {}) {
  return new Promise((done, failed) => {
    if (broken) return failed(broken);
    waiting.set(++asked, { done, failed, tell });
    return worker.postMessage({ id: asked, name, given });
  });
}

/** A function that runs `of` for the latest call alone while an earlier one is under way. */
export function latest(of) {
  let [busy, next] = [false, null];
  return async function call(...given) {
    next = given;
    if (busy) return;
    busy = true;
    try {
      while (next) {
        const now = next;
        next = null;
        await of(...now);
      }
    } finally {
      busy = false;
    }
  };
}
