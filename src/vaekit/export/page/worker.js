// The networks, in a thread of their own: encode, decode, draw new latents, walk from one to another.

import * as ort from "./ort/ort.js";
import { readNpy } from "./npy.js";
import { QUARTER, around, chosen, coloured, moved, normal, ofMixture, straight, uniform, whitened } from "./priors.js";

const AT_ONCE = 32; // latents that a network gets together
const CHOSEN_BY = 0x9e3779b9; // apart from the seed of the noise

const place = (name) => new URL(`./ort/${name}`, import.meta.url).href;
ort.env.wasm.wasmPaths = { mjs: place("ort-wasm-simd-threaded.js"), wasm: place("ort-wasm-simd-threaded.wasm") };
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;

let model;
const sessions = new Map();
const arrays = new Map();

async function fetched(name) {
  const response = await fetch(new URL(`./model/${name}`, import.meta.url)).catch(() => {
    throw new Error(`model/${name} cannot be fetched: the server of this page does not answer; start it again`);
  });
  if (!response.ok) throw new Error(`model/${name} is not there (${response.status})`);
  return response.arrayBuffer();
}

/** What `make` gives for a name, made once; a failure is not kept. */
async function once(known, name, make) {
  if (!known.has(name)) known.set(name, await make(name));
  return known.get(name);
}

const session = (name) => once(sessions, name, async () => opened(await fetched(name), name));
const array = (name) => once(arrays, name, async () => readNpy(await fetched(name), `model/${name}`));

async function opened(bytes, name) {
  try {
    return await ort.InferenceSession.create(new Uint8Array(bytes));
  } catch (error) {
    throw new Error(`model/${name} cannot be opened: ${error.message || error}`);
  }
}

/** The outputs of a network for inputs {name: {data, shape}}. */
async function run(name, inputs) {
  const network = await session(name);
  const feeds = {};
  for (const [key, { data, shape }] of Object.entries(inputs)) {
    feeds[key] = new ort.Tensor(data instanceof BigInt64Array ? "int64" : "float32", data, shape);
  }
  const found = await network.run(feeds);
  return Object.fromEntries(Object.entries(found).map(([key, tensor]) => [key, tensor.data]));
}

/** Rows of `size` numbers each, some at a time, through a function that gives rows. */
async function inParts(rows, size, of, tell = () => {}) {
  const parts = [];
  for (let start = 0; start < rows.length; start += AT_ONCE * size) {
    parts.push(await of(rows.slice(start, start + AT_ONCE * size), start / size));
    tell(Math.min(1, (start + AT_ONCE * size) / rows.length));
  }
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((start, part) => (all.set(part, start), start + part.length), 0);
  return all;
}

/** The slope of the flow at w for each angle, of pictures of which is told (N, F), away from any by `guidance`. */
function slopeOf(told, guidance) {
  const d = model.latent_dim;
  const field = async (w, a, about) => {
    const n = w.length / d;
    const inputs = { w: { data: w, shape: [n, d] }, a: { data: new Float32Array(n).fill(a), shape: [n] } };
    if (about) inputs.told = { data: BigInt64Array.from(about.flat(), BigInt), shape: [n, about[0].length] };
    return (await run("prior_step.onnx", inputs)).slope;
  };
  return async (w, a) => {
    if (!told) return field(w, a, null);
    const those = await field(w, a, told.rows);
    if (guidance === 1) return those;
    const any = await field(w, a, told.rows.map(() => told.unknown));
    return those.map((value, i) => any[i] + guidance * (value - any[i]));
  };
}

/** What is told of n pictures: those asked for, else as frequent as they are; null for a flow without labels. */
function toldOf({ conditions }, asked, n, random) {
  if (!conditions) return null;
  const { unknown, names, shares } = conditions;
  if (!shares) {
    const row = unknown.map((any, k) => any - 2 + (asked[names[k]] ?? 2)); // rows of an attribute: absent, present, unknown
    return { unknown, rows: Array.from({ length: n }, () => row) };
  }
  const rows = asked.class !== undefined ? Array(n).fill(asked.class) : chosen(random, shares, n);
  return { unknown, rows: rows.map((row) => [row]) };
}

async function arraysOf(prior, names) {
  return Promise.all(names.map((name) => array(`${prior.name}-${name}.npy`)));
}

const operations = {
  async open({ about }) {
    model = about;
    await session("decoder.onnx");
    await session("encoder.onnx");
    await run("decoder.onnx", { z: { data: new Float32Array(model.latent_dim), shape: [1, model.latent_dim] } });
    return { threads: ort.env.wasm.numThreads };
  },

  async encode({ x }) {
    return run("encoder.onnx", { x: { data: x, shape: [1, ...model.image_shape] } });
  },

  async decode({ z }, tell) {
    const d = model.latent_dim;
    return inParts(z, d, async (part) => (await run("decoder.onnx", { z: { data: part, shape: [part.length / d, d] } })).x_hat, tell);
  },

  async draw({ prior, count, temperature, seed, asked, guidance }, tell) {
    const d = model.latent_dim;
    const eps = normal(uniform(seed), count * d, temperature);
    const random = uniform(seed ^ CHOSEN_BY);
    if (prior.kind === "normal") return eps;
    if (prior.kind === "gaussian") {
      const [mean, root] = await arraysOf(prior, ["mean", "root"]);
      return coloured(eps, mean.data, root.data);
    }
    if (prior.kind === "mixture") {
      const [weights, mean, scale] = await arraysOf(prior, ["weights", "mean", "scale"]);
      return ofMixture(eps, chosen(random, [...weights.data], count), mean, scale);
    }
    const [mean, root] = await arraysOf(prior, ["mean", "root"]);
    const told = toldOf(prior, asked, count, random);
    const u = await inParts(eps, d, async (part, start) => {
      const rows = told && { ...told, rows: told.rows.slice(start, start + part.length / d) };
      const share = part.length / eps.length;
      return moved(part, slopeOf(rows, guidance), 0, QUARTER, prior.steps, (done) => tell(start * d / eps.length + share * done));
    });
    return coloured(u, mean.data, root.data);
  },

  async walk({ from, to, shares, prior }, tell) {
    if (!prior) return straight(from, to, shares);
    const d = model.latent_dim;
    const [mean, root, inverse] = await arraysOf(prior, ["mean", "root", "inverse"]);
    const ends = new Float32Array(2 * d);
    ends.set(from);
    ends.set(to, d);
    const slope = (n) => slopeOf(prior.conditions ? any(prior, n) : null, 1);
    const noise = await moved(whitened(ends, mean.data, inverse.data), slope(2), QUARTER, 0, prior.steps, (done) => tell(done / 3));
    const way = around(noise.slice(0, d), noise.slice(d), shares);
    const u = await moved(way, slope(shares.length), 0, QUARTER, prior.steps, (done) => tell((1 + 2 * done) / 3));
    return coloured(u, mean.data, root.data);
  },

  async directions() {
    return array("directions.npy");
  },

  async latents() {
    return array("latents.npy");
  },
};

/** Of n pictures nothing is told. */
function any({ conditions }, n) {
  return { unknown: conditions.unknown, rows: Array(n).fill(conditions.unknown) };
}

async function answer({ id, name, given }) {
  const tell = (share) => self.postMessage({ id, share });
  try {
    self.postMessage({ id, result: await operations[name](given, tell) });
  } catch (error) {
    self.postMessage({ id, error: error.message || String(error) });
  }
}

// One after another: onnxruntime-web does not bear two networks that run at once.
let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last.then(() => answer(data));
};
