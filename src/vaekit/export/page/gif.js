// A film as GIF: 256 colours that are chosen from all of its frames.

const BITS = 5; // of each colour that are looked at when colours are chosen
const COLOURS = 256;

/** Frames (ImageData of one size) -> the bytes of a GIF that repeats without end. */
export function gif(frames, delayMsec) {
  const { width, height } = frames[0];
  const { palette, nearest } = paletteOf(frames);
  const bytes = [...ascii("GIF89a"), ...two(width), ...two(height), 0xf7, 0, 0];
  for (let i = 0; i < COLOURS; i++) bytes.push(...(palette[i] ?? [0, 0, 0]));
  bytes.push(0x21, 0xff, 11, ...ascii("NETSCAPE2.0"), 3, 1, 0, 0, 0);
  for (const frame of frames) {
    bytes.push(0x21, 0xf9, 4, 0, ...two(Math.round(delayMsec / 10)), 0, 0);
    bytes.push(0x2c, 0, 0, 0, 0, ...two(width), ...two(height), 0, 8);
    const packed = packedBy8(indices(frame.data, nearest));
    for (let start = 0; start < packed.length; start += 255) {
      const block = packed.slice(start, start + 255);
      bytes.push(block.length);
      for (const byte of block) bytes.push(byte);
    }
    bytes.push(0);
  }
  bytes.push(0x3b);
  return new Uint8Array(bytes);
}

const ascii = (text) => [...text].map((letter) => letter.charCodeAt(0));
const two = (value) => [value & 255, value >> 8];

const keyOf = (data, i) => ((data[i] >> (8 - BITS)) << (2 * BITS)) | ((data[i + 1] >> (8 - BITS)) << BITS) | (data[i + 2] >> (8 - BITS));

/**
 * Up to 256 colours, by cutting the box of the most spread colours in two, again and again (median cut), and the nearest
 * of them by key.
 */
function paletteOf(frames) {
  const counts = new Map();
  for (const { data } of frames)
    for (let i = 0; i < data.length; i += 4) {
      const key = keyOf(data, i);
      const known = counts.get(key) ?? [0, 0, 0, 0];
      counts.set(key, [known[0] + data[i], known[1] + data[i + 1], known[2] + data[i + 2], known[3] + 1]);
    }
  const points = [...counts.values()].map(([r, g, b, count]) => ({ at: [r / count, g / count, b / count], count }));
  const boxes = [boxOf(points)];
  while (boxes.length < COLOURS) {
    const widest = boxes.reduce((best, one) => (one.points.length > 1 && one.weight > best.weight ? one : best), { weight: 0 });
    if (!widest.points) break;
    boxes.splice(boxes.indexOf(widest), 1, ...halves(widest));
  }
  const palette = boxes.map(({ points: inside }) => mean(inside));
  const nearest = new Map([...counts].map(([key, [r, g, b, count]]) => [key, nearestOf(palette, r / count, g / count, b / count)]));
  return { palette, nearest };
}

function boxOf(points) {
  const sides = [0, 1, 2].map((c) => {
    const values = points.map(({ at }) => at[c]);
    return values.reduce((most, value) => Math.max(most, value), -1) - values.reduce((least, value) => Math.min(least, value), 256);
  });
  const axis = sides.indexOf(Math.max(...sides));
  return { points, axis, weight: sides[axis] * Math.sqrt(points.reduce((sum, { count }) => sum + count, 0)) };
}

function halves({ points, axis }) {
  const sorted = [...points].sort((a, b) => a.at[axis] - b.at[axis]);
  const half = sorted.reduce((sum, { count }) => sum + count, 0) / 2;
  let [seen, cut] = [0, 0];
  while (cut < sorted.length - 1 && (cut === 0 || seen + sorted[cut].count <= half)) seen += sorted[cut++].count;
  return [boxOf(sorted.slice(0, cut)), boxOf(sorted.slice(cut))];
}

function mean(points) {
  const total = points.reduce((sum, { count }) => sum + count, 0);
  return [0, 1, 2].map((c) => Math.round(points.reduce((sum, { at, count }) => sum + at[c] * count, 0) / total));
}

/** The place in the palette of the colour that is nearest. */
function nearestOf(palette, r, g, b) {
  const distances = palette.map((colour) => (colour[0] - r) ** 2 + (colour[1] - g) ** 2 + (colour[2] - b) ** 2);
  return distances.indexOf(Math.min(...distances));
}

/** The place in the palette of each pixel. */
function indices(data, nearest) {
  const found = new Uint8Array(data.length / 4);
  for (let i = 0; i < data.length; i += 4) found[i / 4] = nearest.get(keyOf(data, i));
  return found;
}

/** Bytes in the codes of Lempel, Ziv and Welch, as GIF packs them. */
function packedBy8(values) {
  const [clear, end] = [256, 257];
  const out = [];
  let [bits, held, size, next, codes] = [0, 0, 9, 258, new Map()];
  const emit = (code) => {
    held |= code << bits;
    bits += size;
    while (bits >= 8) {
      out.push(held & 255);
      held >>>= 8;
      bits -= 8;
    }
  };
  emit(clear);
  let run = values[0];
  for (const value of values.subarray(1)) {
    const key = (run << 8) | value;
    if (codes.has(key)) {
      run = codes.get(key);
      continue;
    }
    emit(run);
    if (next === 4096) {
      emit(clear);
      [size, next, codes] = [9, 258, new Map()];
    } else {
      if (next === 1 << size) size++;
      codes.set(key, next++);
    }
    run = value;
  }
  emit(run);
  emit(end);
  if (bits) out.push(held & 255);
  return out;
}
