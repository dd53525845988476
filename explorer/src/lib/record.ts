// The reader of a record: safetensors with the structure as JSON in its metadata.
// The fields are described in src/qkv/explorer/schema.py.

export type SequenceName = string;
export interface Token {
  text: string;
  special: boolean;
}
export interface Layer {
  name: string;
  stack: string;
  layer: number;
  kind: "self" | "cross";
  queries: SequenceName;
  keys: SequenceName;
  heads: number;
  kv_heads: number;
  d_head: number;
  causal: boolean;
  scale: number;
  long: boolean;
  stats: Record<Stat, number[]>;
  tensors: Partial<Record<"weights" | "thumbnails" | "q" | "k" | "v" | "bias" | "mask", string>>;
}
export type Stat = "entropy" | "distance" | "special" | "first";
export interface States {
  stack: string;
  sequence: SequenceName;
  explained: [number, number][];
  points: string;
  neighbors: string;
  similarity: string;
}
export interface Step {
  name: string;
  sequence: SequenceName;
  position: number;
  chosen: number;
}
export interface Node {
  id: number;
  parent: number;
  step: number;
  text: string;
  logprob: number;
  total: number;
  kept: boolean;
  ended: boolean;
  score: number;
}
export interface Header {
  format: string;
  version: number;
  made: { qkv: string; torch: string; seconds: number };
  model: { name: string; family: string; parameters: number; about: string; weak: string };
  task: { kind: string; inputs: Record<string, string>; output: string; note: string };
  sequences: Record<SequenceName, Token[]>;
  image?: { png: string; grid: [number, number]; prefix: number };
  attention: Layer[];
  states: States[];
  output: {
    kind: "classes" | "positions" | "tokens";
    names: Record<string, string>;
    steps: Step[];
    ids: string;
    logits: string;
    tail: string;
    chosen: string;
    prompt?: number;
  };
  lens?: { layers: string[]; ids: string; logprobs: string; chosen: string };
  beam?: {
    size: number;
    best: number[];
    nodes: Node[];
    length_penalty: number;
    length_rule: "gnmt" | "power";
  };
  ablation?: { heads: [number, number][]; effects: string };
  changes?: { ablate: [number, number][]; mask: string; before: string };
}

export interface Tensor {
  shape: number[];
  data: Float32Array;
}
interface Entry {
  dtype: "F16" | "F32" | "I32" | "U8";
  shape: number[];
  data_offsets: [number, number];
}

let halves: Float32Array | undefined;

/** The values of all 16-bit floating-point numbers. */
function halfTable(): Float32Array {
  if (halves) return halves;
  halves = new Float32Array(65536);
  for (let i = 0; i < 65536; i++) {
    const sign = i & 0x8000 ? -1 : 1;
    const exponent = (i >> 10) & 31;
    const fraction = i & 1023;
    halves[i] =
      exponent === 0
        ? sign * fraction * 2 ** -24
        : exponent === 31
          ? fraction
            ? NaN
            : sign * Infinity
          : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return halves;
}

/** A safetensors file, whose tensors are decoded when they are first used. */
export class Tensors {
  private entries: Record<string, Entry>;
  private start: number;
  private decoded = new Map<string, Tensor>();
  readonly metadata: Record<string, string>;

  constructor(private bytes: ArrayBuffer) {
    const length = Number(new DataView(bytes).getBigUint64(0, true));
    if (length > bytes.byteLength - 8) throw new Error("the record is truncated");
    const text = new TextDecoder().decode(new Uint8Array(bytes, 8, length));
    const { __metadata__, ...entries } = JSON.parse(text);
    this.metadata = __metadata__ ?? {};
    this.entries = entries;
    this.start = 8 + length;
  }

  has(name: string): boolean {
    return name in this.entries;
  }

  get(name: string): Tensor {
    let tensor = this.decoded.get(name);
    if (!tensor) this.decoded.set(name, (tensor = this.decode(name)));
    return tensor;
  }

  private decode(name: string): Tensor {
    const entry = this.entries[name];
    if (!entry) throw new Error(`the record has no tensor ${name}`);
    const [from, to] = entry.data_offsets;
    // A copy, because typed arrays begin at multiples of their element's size.
    const bytes = this.bytes.slice(this.start + from, this.start + to);
    return { shape: entry.shape, data: numbers(bytes, entry.dtype) };
  }
}

function numbers(bytes: ArrayBuffer, dtype: Entry["dtype"]): Float32Array {
  if (dtype === "F32") return new Float32Array(bytes);
  if (dtype === "I32") return Float32Array.from(new Int32Array(bytes));
  if (dtype === "U8") return Float32Array.from(new Uint8Array(bytes));
  const table = halfTable();
  const raw = new Uint16Array(bytes);
  const values = new Float32Array(raw.length);
  for (let i = 0; i < raw.length; i++) values[i] = table[raw[i]];
  return values;
}

/** One head: matrices, row by row. */
export interface Head {
  weights: Float32Array;
  n: number; // queries
  m: number; // keys
  q?: Float32Array;
  k?: Float32Array;
  v?: Float32Array;
  bias?: Float32Array;
}

export class Recording {
  readonly header: Header;
  readonly tensors: Tensors;
  /** Heads of a long input, which came one by one. */
  private fetched = new Map<string, Head>();

  constructor(
    bytes: ArrayBuffer,
    readonly id = "",
  ) {
    this.tensors = new Tensors(bytes);
    const header = JSON.parse(this.tensors.metadata.record ?? "null") as Header | null;
    if (header?.format !== "qkv-record" || header.version !== 1)
      throw new Error(
        `this page reads the format qkv-record, version 1, and got ${header?.format}, version ${header?.version}`,
      );
    this.header = header;
  }

  tokens(name: SequenceName): Token[] {
    return this.header.sequences[name];
  }

  tensor(name: string): Float32Array {
    return this.tensors.get(name).data;
  }

  /** One head, or undefined where it has to be asked for. */
  head(a: number, h: number): Head | undefined {
    const layer = this.header.attention[a];
    const n = this.tokens(layer.queries).length;
    const m = this.tokens(layer.keys).length;
    const { weights, q, k, v, bias } = layer.tensors;
    if (!weights) return this.fetched.get(`${a} ${h}`);
    const part = (name: string | undefined, index: number, count: number) => {
      if (!name) return undefined;
      const { data } = this.tensors.get(name);
      const size = data.length / count;
      return data.subarray(index * size, (index + 1) * size);
    };
    const group = Math.floor((h * layer.kv_heads) / layer.heads);
    return {
      weights: part(weights, h, layer.heads)!,
      n,
      m,
      q: part(q, h, layer.heads),
      k: part(k, group, layer.kv_heads),
      v: part(v, group, layer.kv_heads),
      bias: part(bias, h, layer.heads),
    };
  }

  /** Keep a head of a long input, which came as a safetensors file. */
  addHead(a: number, h: number, bytes: ArrayBuffer) {
    const layer = this.header.attention[a];
    const tensors = new Tensors(bytes);
    const optional = (name: string) => (tensors.has(name) ? tensors.get(name).data : undefined);
    this.fetched.set(`${a} ${h}`, {
      weights: tensors.get("weights").data,
      n: this.tokens(layer.queries).length,
      m: this.tokens(layer.keys).length,
      q: optional("q"),
      k: optional("k"),
      v: optional("v"),
      bias: optional("bias"),
    });
    if (this.fetched.size > 12) this.fetched.delete(this.fetched.keys().next().value!);
  }

  /** At most `size` x `size` numbers of a head, each the maximum of a rectangle. */
  thumbnail(a: number, h: number, size: number): { data: Float32Array; n: number; m: number } {
    const layer = this.header.attention[a];
    const small = layer.tensors.thumbnails;
    if (!layer.tensors.weights && small) {
      const { shape, data } = this.tensors.get(small);
      const length = shape[1] * shape[2];
      return { data: data.subarray(h * length, (h + 1) * length), n: shape[1], m: shape[2] };
    }
    const head = this.head(a, h)!;
    const [n, m] = [Math.min(size, head.n), Math.min(size, head.m)];
    const data = new Float32Array(n * m);
    for (let i = 0; i < head.n; i++) {
      const row = Math.floor((i * n) / head.n) * m;
      for (let j = 0; j < head.m; j++) {
        const at = row + Math.floor((j * m) / head.m);
        const w = head.weights[i * head.m + j];
        if (w > data[at]) data[at] = w;
      }
    }
    return { data, n, m };
  }

  name(id: number): string {
    return this.header.output.names[String(id)] ?? `#${id}`;
  }
}

function decode(base64: string): Uint8Array {
  const fast = Uint8Array as unknown as { fromBase64?: (text: string) => Uint8Array };
  if (fast.fromBase64) return fast.fromBase64(base64);
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** The record in this page, if it was saved with one. */
export function inlinedRecord(): Recording | undefined {
  const element = document.getElementById("record");
  if (!element) return undefined;
  const bytes = decode(element.textContent!.trim());
  element.remove();
  return new Recording(bytes.buffer as ArrayBuffer);
}
