// Latents drawn from the priors of a model, as vaekit draws them. Letters: N latents of d entries, one after another.

export const QUARTER = Math.PI / 2; // the angle of the latents of a flow; noise is at 0

/** Numbers in [0, 1) that follow from a seed (mulberry32). */
export function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** `size` numbers of N(0, scale^2), by Box and Muller. */
export function normal(random, size, scale = 1) {
  return Float32Array.from({ length: size }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    return scale * radius * Math.cos(2 * Math.PI * random());
  });
}

/** Indices as frequent as their weights. */
export function chosen(random, weights, count) {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return Array.from({ length: count }, () => {
    let left = random() * total;
    const found = weights.findIndex((weight) => (left -= weight) < 0);
    return found < 0 ? weights.length - 1 : found;
  });
}

/** u (N, d) of mean zero and covariance I -> mean + u root, with root (d, d). */
export function coloured(u, mean, root) {
  const d = mean.length;
  const z = new Float32Array(u.length);
  for (let n = 0; n < u.length; n += d) {
    z.set(mean, n);
    for (let i = 0; i < d; i++) {
      const value = u[n + i];
      for (let j = 0, row = i * d; j < d; j++) z[n + j] += value * root[row + j];
    }
  }
  return z;
}

/** The inverse of `coloured`: z (N, d) -> (z - mean) inverse. */
export function whitened(z, mean, inverse) {
  const apart = z.map((value, i) => value - mean[i % mean.length]);
  return coloured(apart, new Float32Array(mean.length), inverse);
}

/** Noise (N, d) and a component of each -> z (N, d) = mean_k + scale_k eps, scale (K, d, d) lower or (K, d). */
export function ofMixture(eps, components, mean, scale) {
  const d = eps.length / components.length;
  const full = scale.shape.length === 3;
  const z = new Float32Array(eps.length);
  components.forEach((k, n) => {
    for (let i = 0; i < d; i++) {
      let value = mean.data[k * d + i];
      if (!full) value += scale.data[k * d + i] * eps[n * d + i];
      else for (let j = 0, row = (k * d + i) * d; j <= i; j++) value += scale.data[row + j] * eps[n * d + j];
      z[n * d + i] = value;
    }
  });
  return z;
}

/** w (N, d) moved by slope(w, a) from one angle to another, by Heun's method. */
export async function moved(w, slope, start, stop, steps, tell = () => {}) {
  const h = (stop - start) / steps;
  for (let step = 0; step < steps; step++) {
    const here = await slope(w, start + step * h);
    const there = await slope(w.map((value, i) => value + h * here[i]), start + (step + 1) * h);
    w = w.map((value, i) => value + (h / 2) * (here[i] + there[i]));
    tell((step + 1) / steps);
  }
  return w;
}

/** From noise a to noise b (d each) at shares of the way (S): (S, d), along a great circle, on which noise keeps its length. */
export function around(a, b, shares) {
  const norm = (v) => Math.sqrt(v.reduce((sum, value) => sum + value * value, 0)) || 1;
  const [lengthA, lengthB, d] = [norm(a), norm(b), a.length];
  const cos = a.reduce((sum, value, i) => sum + value * b[i], 0) / (lengthA * lengthB);
  const angle = Math.acos(Math.min(1, Math.max(-1, cos)));
  const circle = Math.sin(angle) > 1e-4;
  const way = new Float32Array(shares.length * d);
  shares.forEach((share, s) => {
    const [towardsA, towardsB] = circle ? [Math.sin((1 - share) * angle), Math.sin(share * angle)] : [1 - share, share];
    const direction = a.map((value, i) => (towardsA * value) / lengthA + (towardsB * b[i]) / lengthB);
    const length = (lengthA + share * (lengthB - lengthA)) / norm(direction);
    way.set(direction.map((value) => value * length), s * d);
  });
  return way;
}

/** On the straight line from a to b. */
export function straight(a, b, shares) {
  const way = new Float32Array(shares.length * a.length);
  shares.forEach((share, s) => way.set(a.map((value, i) => value + share * (b[i] - value)), s * a.length));
  return way;
}
