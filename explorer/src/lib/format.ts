/** A token as it is shown: white space becomes visible. */
export function show(text: string): string {
  if (text === "") return "∅";
  return text
    .replace(/▁/g, " ")
    .replace(/\n/g, "⏎")
    .replace(/\t/g, "⇥")
    .replace(/^ +/, (spaces) => "·".repeat(spaces.length))
    .replace(/ +$/, (spaces) => "·".repeat(spaces.length));
}

/** A token among others, without the mark of its leading space. */
export function word(text: string): string {
  const shown = show(text);
  return shown.length > 1 ? shown.replace(/^·/, "") : shown;
}

export const percent = (x: number) =>
  x >= 0.9995
    ? "100 %"
    : x >= 0.0995
      ? `${(100 * x).toFixed(1)} %`
      : x >= 0.0001
        ? `${(100 * x).toPrecision(2)} %`
        : x > 0
          ? "< 0.01 %"
          : "0 %";

export const fixed = (x: number, digits = 3) =>
  !Number.isFinite(x) ? (x < 0 ? "−∞" : "–") : x.toFixed(digits).replace("-", "−");

export const signed = (x: number, digits = 3) =>
  (x > 0 ? "+" : x < 0 ? "−" : "±") + Math.abs(x).toFixed(digits);

export const count = (x: number) =>
  x >= 1e9
    ? `${(x / 1e9).toFixed(1)} billion`
    : x >= 1e6
      ? `${(x / 1e6).toFixed(1)} million`
      : x.toLocaleString("en-US");

/** "encoder.blocks.3.self_attention" as "encoder 4". Layers count from 1 where people read. */
export function layerLabel(
  layer: { name: string; stack: string; layer: number; kind: string },
  many: boolean,
) {
  if (!layer.name.includes("blocks.")) return layer.name; // not of a stack
  const stack = layer.stack.replace(/^encoder\.stack$|^stack$/, "");
  const cross = layer.kind === "cross" ? "cross " : "";
  return many ? `${stack || "stack"} ${cross}${layer.layer + 1}`.trim() : `layer ${layer.layer + 1}`;
}
