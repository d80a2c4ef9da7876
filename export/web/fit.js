// Brings a photo to 32 x 32: scaled (bilinear, antialiased) until it just covers that, its centre cut out.

export const SIDE = 32;

/** The picture of RGBA pixels of any size: the bytes that Pillow's resize (rows first) and crop give. */
export function fit({ data, width, height }) {
  const short = Math.min(width, height);
  const wide = Math.floor((SIDE * width) / short);
  const high = Math.floor((SIDE * height) / short);
  const columns = windows(width, wide, halfEven(wide - SIDE));
  const rows = windows(height, high, halfEven(high - SIDE));
  const narrow = new Uint8Array(height * SIDE * 3);
  for (let y = 0; y < height; y++)
    columns.forEach(({ first, weights }, x) => {
      for (let colour = 0; colour < 3; colour++)
        narrow[(y * SIDE + x) * 3 + colour] = weighted(data, (y * width + first) * 4 + colour, 4, weights);
    });
  const picture = new Uint8Array(SIDE * SIDE * 3);
  rows.forEach(({ first, weights }, y) => {
    for (let place = 0; place < SIDE * 3; place++)
      picture[y * SIDE * 3 + place] = weighted(narrow, first * SIDE * 3 + place, SIDE * 3, weights);
  });
  return picture;
}

const ONE = 2 ** 22; // weights are whole numbers of this share, as in Pillow

/** For each of 32 places from `skip` on: where its source pixels begin, and their weights. */
function windows(from, to, skip) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  return Array.from({ length: SIDE }, (_, place) => {
    const centre = (skip + place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach + 0.5));
    const raw = Array.from({ length: end - first }, (_, i) =>
      Math.max(0, 1 - Math.abs((first + i - centre + 0.5) / reach)));
    const sum = raw.reduce((total, weight) => total + weight, 0);
    return { first, weights: raw.map((weight) => Math.round((weight / sum) * ONE)) };
  });
}

function weighted(source, start, step, weights) {
  let sum = ONE / 2;
  for (let i = 0; i < weights.length; i++) sum += source[start + i * step] * weights[i];
  return Math.min(255, Math.floor(sum / ONE));
}

/** Half of a whole number, rounded to the even neighbour. */
function halfEven(twice) {
  const floor = Math.floor(twice / 2);
  return twice % 2 && floor % 2 ? floor + 1 : floor;
}
