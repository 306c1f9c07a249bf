// From files to what the model takes, x (C, H, W) in [-1, 1], and back to pixels.

const LANCZOS = 3; // lobes on each side
const MOST_PIXELS = 100e6; // of a picture that is opened

/** The picture in a file as the model takes it: upright, over white, fitted, resized with Lanczos' filter. */
export async function readPicture(file, model) {
  const [channels, height, width] = model.image_shape;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: model.colour_profiles ? "default" : "none" });
  } catch {
    throw new Error(`${file.name || "this"} is no picture that this browser can read`);
  }
  try {
    if (bitmap.width * bitmap.height > MOST_PIXELS) throw new Error(`${file.name} has more than 100 million pixels`);
    const [left, top, w, h] = box(bitmap.width, bitmap.height, height, width, model.fit);
    const canvas = new OffscreenCanvas(w, h);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, w, h);
    context.drawImage(bitmap, -left, -top);
    const planes = planesOf(context.getImageData(0, 0, w, h).data, channels);
    const [innerHeight, innerWidth] = inner(w, h, height, width, model.fit);
    const resized = planes.map((plane) => lanczos(plane, h, w, innerHeight, innerWidth));
    return framed(resized, innerHeight, innerWidth, height, width);
  } finally {
    bitmap.close();
  }
}

/** The part of a picture that is shown: left, top, width, height; its middle where it is cropped. */
export function box(pictureWidth, pictureHeight, height, width, fit) {
  if (fit !== "crop") return [0, 0, pictureWidth, pictureHeight];
  const w = Math.max(1, Math.min(pictureWidth, even((pictureHeight * width) / height)));
  const h = Math.max(1, Math.min(pictureHeight, even((pictureWidth * height) / width)));
  return [Math.floor((pictureWidth - w) / 2), Math.floor((pictureHeight - h) / 2), w, h];
}

/** Rounded, a half to the even number, as Python does. */
function even(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 ? floor + 1 : floor;
}

/** Height and width of a picture without its bars. */
function inner(w, h, height, width, fit) {
  if (fit !== "pad") return [height, width];
  const scale = Math.min(height / h, width / w);
  return [Math.max(1, even(h * scale)), Math.max(1, even(w * scale))];
}

/** RGBA pixels -> one plane of bytes a channel; grey by the weights of ITU-R 601, as Pillow has them. */
function planesOf(rgba, channels) {
  const size = rgba.length / 4;
  const planes = Array.from({ length: channels }, () => new Uint8ClampedArray(size));
  for (let i = 0; i < size; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) planes[0][i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
    else [planes[0][i], planes[1][i], planes[2][i]] = [r, g, b];
  }
  return planes;
}

/** One plane (h, w) resized to (height, width): Lanczos' filter, as wide as a pixel of the result, rounded between the two ways. */
export function lanczos(plane, h, w, height, width) {
  const across = resample(plane, h, w, width);
  return transposed(resample(transposed(across, h, width), width, h, height), width, height);
}

function resample(plane, rows, from, to) {
  if (from === to) return plane;
  const scale = from / to;
  const stretch = Math.max(1, scale);
  const out = new Uint8ClampedArray(rows * to);
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - LANCZOS * stretch + 0.5));
    const last = Math.min(from, Math.trunc(center + LANCZOS * stretch + 0.5));
    const weights = new Float64Array(last - first);
    for (let k = first; k < last; k++) weights[k - first] = filter((k - center + 0.5) / stretch);
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    for (let row = 0; row < rows; row++) {
      let value = 0;
      for (let k = first; k < last; k++) value += weights[k - first] * plane[row * from + k];
      out[row * to + i] = Math.floor(value / total + 0.5);
    }
  }
  return out;
}

function filter(x) {
  if (x === 0) return 1;
  if (Math.abs(x) >= LANCZOS) return 0;
  return (LANCZOS * Math.sin(Math.PI * x) * Math.sin((Math.PI * x) / LANCZOS)) / (Math.PI * x) ** 2;
}

function transposed(plane, rows, columns) {
  const out = new Uint8ClampedArray(plane.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = plane[r * columns + c];
  return out;
}

/** Planes (h, w) in the middle of a black picture, as x (C, height, width) in [-1, 1]. */
function framed(planes, h, w, height, width) {
  const x = new Float32Array(planes.length * height * width).fill(-1);
  const [top, left] = [Math.floor((height - h) / 2), Math.floor((width - w) / 2)];
  planes.forEach((plane, c) => {
    for (let row = 0; row < h; row++)
      for (let column = 0; column < w; column++)
        x[(c * height + top + row) * width + left + column] = plane[row * w + column] / 127.5 - 1;
  });
  return x;
}

/** The picture number n of x (N, C, H, W) as pixels of a canvas. */
export function toPixels(x, [channels, height, width], n = 0) {
  const size = height * width;
  const pixels = new ImageData(width, height);
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) {
      const value = x[n * channels * size + Math.min(c, channels - 1) * size + i];
      pixels.data[4 * i + c] = Math.round((value + 1) * 127.5);
    }
    pixels.data[4 * i + 3] = 255;
  }
  return pixels;
}

/** One number a pixel, from 0 to `most`, as colours from dark to bright. */
export function toMap(values, [, height, width], most) {
  const pixels = new ImageData(width, height);
  values.forEach((value, i) => pixels.data.set([...heat(Math.min(1, value / most)), 255], 4 * i));
  return pixels;
}

const HEAT = [[12, 8, 38], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]; // by eye, after "inferno"

function heat(share) {
  const at = share * (HEAT.length - 1);
  const low = Math.min(HEAT.length - 2, Math.floor(at));
  return HEAT[low].map((value, i) => Math.round(value + (at - low) * (HEAT[low + 1][i] - value)));
}

/** The mean over channels of |a - b|, (H * W). */
export function difference(a, b, [channels, height, width]) {
  const size = height * width;
  const map = new Float32Array(size);
  for (let i = 0; i < channels * size; i++) map[i % size] += Math.abs(a[i] - b[i]) / channels;
  return map;
}

/** The std over N pictures x (N, C, H, W), averaged over channels, (H * W). */
export function spread(x, [channels, height, width]) {
  const size = height * width;
  const one = channels * size;
  const count = x.length / one;
  const map = new Float32Array(size);
  for (let i = 0; i < one; i++) {
    let [sum, squares] = [0, 0];
    for (let n = 0; n < count; n++) [sum, squares] = [sum + x[n * one + i], squares + x[n * one + i] ** 2];
    map[i % size] += Math.sqrt(Math.max(0, squares / count - (sum / count) ** 2)) / channels;
  }
  return map;
}

/** Put pixels on a canvas of their size. */
export function show(canvas, pixels) {
  [canvas.width, canvas.height] = [pixels.width, pixels.height];
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}
