// One sequential and one diverging palette, both distinct for color-blind readers and in gray.

export type Theme = "light" | "dark";
type RGB = [number, number, number];

const SEQUENTIAL: Record<Theme, RGB[]> = {
  light: [
    [250, 249, 246],
    [213, 226, 236],
    [150, 190, 218],
    [75, 140, 190],
    [24, 88, 147],
    [6, 40, 84],
  ],
  dark: [
    [24, 26, 30],
    [24, 51, 82],
    [25, 89, 140],
    [57, 138, 184],
    [134, 193, 216],
    [240, 248, 240],
  ],
};
const DIVERGING: Record<Theme, RGB[]> = {
  light: [
    [146, 64, 6],
    [217, 128, 52],
    [250, 249, 246],
    [88, 146, 194],
    [16, 72, 130],
  ],
  dark: [
    [255, 188, 110],
    [178, 96, 28],
    [24, 26, 30],
    [44, 104, 158],
    [150, 208, 246],
  ],
};

function mix(stops: RGB[], x: number): RGB {
  const at = Math.min(Math.max(x, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(at), stops.length - 2);
  const t = at - i;
  return stops[i].map((c, n) => Math.round(c + t * (stops[i + 1][n] - c))) as RGB;
}

/** The square root spreads small weights, which are most of them. */
const bend = (weight: number) => Math.sqrt(Math.max(0, weight));

const tables = new Map<Theme, Uint32Array>();

/** 1,024 colors of weights from 0 to 1, as pixels. */
export function weightTable(theme: Theme): Uint32Array {
  let table = tables.get(theme);
  if (!table) {
    table = new Uint32Array(1025);
    for (let i = 0; i <= 1024; i++) {
      const [r, g, b] = mix(SEQUENTIAL[theme], bend(i / 1024));
      table[i] = (255 << 24) | (b << 16) | (g << 8) | r;
    }
    tables.set(theme, table);
  }
  return table;
}

const css = (rgb: RGB) => `rgb(${rgb.join(" ")})`;
export const weightColor = (theme: Theme, w: number) => css(mix(SEQUENTIAL[theme], bend(w)));
/** x from -1 (orange) to 1 (blue). */
export const signColor = (theme: Theme, x: number) => css(mix(DIVERGING[theme], (x + 1) / 2));
/** The color of text on `weightColor`. */
export const onWeight = (theme: Theme, w: number) =>
  bend(w) > 0.55 === (theme === "light") ? "#fff" : theme === "light" ? "#1b1a17" : bend(w) > 0.55 ? "#0c1116" : "#e9e6df";

/** Draw a matrix of weights on a canvas of as many pixels. */
export function paint(
  canvas: HTMLCanvasElement,
  data: ArrayLike<number>,
  n: number,
  m: number,
  theme: Theme,
) {
  canvas.width = m;
  canvas.height = n;
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(m, n);
  const pixels = new Uint32Array(image.data.buffer);
  const table = weightTable(theme);
  for (let i = 0; i < pixels.length; i++) pixels[i] = table[(data[i] * 1024) | 0];
  context.putImageData(image, 0, 0);
}
