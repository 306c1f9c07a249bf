// Arrays as NumPy's save() writes them.

/** A .npy of 32-bit floats -> {shape, data}. Throws an Error for anything else. */
export function readNpy(buffer, name) {
  const bytes = new Uint8Array(buffer);
  const version = bytes[6];
  if (bytes.length < 12 || String.fromCharCode(...bytes.slice(1, 6)) !== "NUMPY") throw new Error(`${name} is no .npy file`);
  const view = new DataView(buffer);
  const start = version === 1 ? 10 : 12;
  const length = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  const header = new TextDecoder().decode(bytes.slice(start, start + length));
  const shape = header.match(/'shape': \(([^)]*)\)/)?.[1].split(",").map((part) => part.trim()).filter(Boolean);
  if (!shape || !header.includes("'<f4'") || header.includes("'fortran_order': True")) throw new Error(`${name} holds no 32-bit floats`);
  const bytesOfAll = 4 * shape.reduce((product, size) => product * Number(size), 1);
  if (buffer.byteLength - start - length !== bytesOfAll) throw new Error(`${name} is cut short`);
  return { shape: shape.map(Number), data: new Float32Array(buffer.slice(start + length)) };
}
