import type { Head, Layer, Node, Recording } from "./record";

/** Each number of the arithmetic of one cell: query i, key j of a head. */
export interface Cell {
  products: Float64Array; // q_d k_d
  dot: number;
  scaled: number;
  bias: number;
  score: number;
  allowed: boolean;
  largest: number; // of the row's scores
  sum: number; // of exp(score - largest) over the allowed keys
  weight: number;
  scores: Float64Array; // of the row; -Infinity where hidden
  weights: Float64Array;
}

export function isAllowed(record: Recording, layer: Layer, i: number, j: number): boolean {
  const mask = layer.tensors.mask;
  if (mask) return record.tensor(mask)[i * record.tokens(layer.keys).length + j] > 0;
  const more = record.tokens(layer.keys).length - record.tokens(layer.queries).length;
  return !layer.causal || j <= i + more;
}

export function cellOf(
  record: Recording,
  layer: Layer,
  head: Head,
  i: number,
  j: number,
): Cell | undefined {
  if (!head.q || !head.k) return undefined;
  const d = layer.d_head;
  const scores = new Float64Array(head.m).fill(-Infinity);
  const dots = new Float64Array(head.m);
  let largest = -Infinity;
  for (let key = 0; key < head.m; key++) {
    let dot = 0;
    for (let x = 0; x < d; x++) dot += head.q[i * d + x] * head.k[key * d + x];
    dots[key] = dot;
    if (!isAllowed(record, layer, i, key)) continue;
    scores[key] = dot * layer.scale + (head.bias ? head.bias[i * head.m + key] : 0);
    largest = Math.max(largest, scores[key]);
  }
  let sum = 0;
  for (const score of scores) sum += Math.exp(score - largest);
  const weights = scores.map((score) => Math.exp(score - largest) / sum);
  const products = new Float64Array(d);
  for (let x = 0; x < d; x++) products[x] = head.q[i * d + x] * head.k[j * d + x];
  return {
    products,
    dot: dots[j],
    scaled: dots[j] * layer.scale,
    bias: head.bias ? head.bias[i * head.m + j] : 0,
    score: scores[j],
    allowed: scores[j] > -Infinity,
    largest,
    sum,
    weight: weights[j],
    scores,
    weights,
  };
}

export interface Candidate {
  id: number;
  name: string;
  logit: number;
  probability: number; // at the temperature, before top-p
  kept: number; // after top-p; 0 for those that it leaves out
}

/** The candidates of a step at a temperature; those beyond the record's are in one sum. */
export function candidates(
  record: Recording,
  step: number,
  temperature: number,
  topP: number,
): { list: Candidate[]; rest: number; restCount: number; entropy: number; nucleus: number } {
  const { output } = record.header;
  const ids = record.tensors.get(output.ids);
  const n = ids.shape[1];
  const logits = record.tensor(output.logits).subarray(step * n, (step + 1) * n);
  const tail = record.tensors.get(output.tail);
  const bins = tail.shape[2];
  const levels = tail.data.subarray(step * 2 * bins, step * 2 * bins + bins);
  const counts = tail.data.subarray(step * 2 * bins + bins, (step + 1) * 2 * bins);
  const t = Math.max(temperature, 1e-3);
  const first = logits[0];
  let sum = 0;
  for (const logit of logits) sum += Math.exp((logit - first) / t);
  let rest = 0;
  let entropySum = 0;
  levels.forEach((level, b) => (rest += counts[b] * Math.exp((level - first) / t)));
  const total = sum + rest;
  const list: Candidate[] = [];
  let before = 0;
  let mass = 0;
  for (let x = 0; x < n; x++) {
    const probability = Math.exp((logits[x] - first) / t) / total;
    const id = ids.data[step * n + x];
    const inside = before < topP - 1e-9 || x === 0;
    before += probability;
    mass += inside ? probability : 0;
    if (probability > 0) entropySum -= probability * Math.log(probability);
    list.push({ id, name: record.name(id), logit: logits[x], probability, kept: inside ? 1 : 0 });
  }
  levels.forEach((level, b) => {
    const p = Math.exp((level - first) / t) / total;
    if (p > 0) entropySum -= counts[b] * p * Math.log(p);
  });
  const restInside = before < topP - 1e-9 ? rest / total : 0;
  for (const one of list) one.kept = one.kept ? one.probability / (mass + restInside) : 0;
  let restCount = 0;
  for (const count of counts) restCount += count;
  const nucleus = restInside ? NaN : list.filter((one) => one.kept > 0).length;
  return { list, rest: rest / total, restCount, entropy: entropySum, nucleus };
}

/** Wu et al. 2016, eq. 14: the score of a hypothesis, its log-probability over lp. */
export function score(node: Node, alpha: number, rule: "gnmt" | "power"): number {
  const base = rule === "gnmt" ? (5 + node.step) / 6 : node.step;
  return node.total / base ** alpha;
}

/** The mean of a layer's heads. */
export function meanHead(record: Recording, a: number): Head | undefined {
  const layer = record.header.attention[a];
  const first = record.head(a, 0);
  if (!first || !layer.tensors.weights) return undefined;
  const weights = new Float32Array(first.weights.length);
  for (let h = 0; h < layer.heads; h++) {
    const one = record.head(a, h)!.weights;
    for (let x = 0; x < weights.length; x++) weights[x] += one[x] / layer.heads;
  }
  return { weights, n: first.n, m: first.m };
}

/** Abnar and Zuidema 2020: shares of the inputs in each token, through a stack up to a layer. */
export function rollout(record: Recording, a: number): Head | undefined {
  const last = record.header.attention[a];
  if (last.kind !== "self" || record.tokens(last.queries).length > 256) return undefined;
  const n = record.tokens(last.queries).length;
  let share = new Float32Array(n * n);
  for (let i = 0; i < n; i++) share[i * n + i] = 1;
  for (let b = 0; b <= a; b++) {
    const layer = record.header.attention[b];
    if (layer.kind !== "self" || layer.stack !== last.stack) continue;
    const mean = meanHead(record, b);
    if (!mean) return undefined;
    const next = new Float32Array(n * n);
    for (let i = 0; i < n; i++)
      for (let k = 0; k < n; k++) {
        const w = 0.5 * mean.weights[i * n + k] + (i === k ? 0.5 : 0);
        if (w > 1e-7) for (let j = 0; j < n; j++) next[i * n + j] += w * share[k * n + j];
      }
    share = next;
  }
  return { weights: share, n, m: n };
}

export const norm = (values: ArrayLike<number>) => {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] ** 2;
  return Math.sqrt(sum);
};
