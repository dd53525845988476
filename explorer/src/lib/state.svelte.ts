// What all regions of one explorer share: the record, the selection, and what is being computed.
// A page has one explorer and keeps its selection in the address, so that a view can be sent; a
// notebook may have several, each with its own.

import { getContext, setContext } from "svelte";
import type { Theme } from "./color";
import type { ModelEntry, Request, Source } from "./live";
import { meanHead, rollout } from "./math";
import type { Head, Layer, Recording, Step } from "./record";

export type Picture = "matrix" | "arcs" | "image";
export type Mode = "head" | "mean" | "rollout";
export type Range = [number, number]; // the first position, and the one after the last

export class Session {
  record = $state.raw<Recording | undefined>();
  before = $state.raw<Recording | undefined>(); // of the last run, for comparison
  a = $state(0); // attention module
  h = $state(0); // head
  i = $state(0); // query
  j = $state(0); // key
  s = $state(0); // step
  layer = $state(0); // of the states
  picture = $state<Picture>("matrix");
  mode = $state<Mode>("head");
  hover = $state.raw<{ i: number; j: number }>({ i: -1, j: -1 });
  ranges = $state.raw<Record<string, Range>>({}); // of the tokens to which pictures are restricted
  ablate = $state<[number, number][]>([]);
  mask = $state("own");
  source: Source | undefined; // what runs the model
  models = $state.raw<ModelEntry[]>([]); // that it runs
  request = $state.raw<Request | undefined>(); // whose record is shown
  busy = $state("");
  told = $state(""); // the tokens that have been generated
  theme = $state<Theme>("light");
  fetched = $state(0); // heads of long inputs that have come
  problem = $state("");

  get live() {
    return this.source !== undefined;
  }
  get header() {
    return this.record!.header;
  }
  get attention(): Layer {
    return this.header.attention[this.a];
  }
  get queries() {
    return this.record!.tokens(this.attention.queries);
  }
  get keys() {
    return this.record!.tokens(this.attention.keys);
  }
  /** The tokens of a sequence that pictures show. */
  range(name: string): Range {
    return this.ranges[name] ?? [0, this.record!.tokens(name).length];
  }
  restrict(name: string, range?: Range) {
    const { [name]: _, ...others } = this.ranges;
    this.ranges = range ? { ...others, [name]: range } : others;
  }
  get rows(): Range {
    return this.range(this.attention.queries);
  }
  get columns(): Range {
    return this.range(this.attention.keys);
  }
  get step(): Step | undefined {
    return this.header.output.steps[this.s];
  }
  /** What the query predicts, where it is the next token. */
  predicted(i: number): string {
    const { output } = this.header;
    if (output.kind !== "tokens" || this.attention.queries !== output.steps[0]?.sequence) return "";
    const step = output.steps.find((one) => one.position === i);
    return step ? this.record!.name(step.chosen) : "";
  }
  /** The query and key that are looked at now; derived, so that nothing is drawn twice. */
  readonly qi: number = $derived(this.hover.i >= 0 ? this.hover.i : this.i);
  readonly kj: number = $derived(this.hover.j >= 0 ? this.hover.j : this.j);

  private shownHead: Head | undefined = $derived.by(() => {
    if (!this.record || this.fetched < 0) return undefined;
    if (this.mode === "mean") return meanHead(this.record, this.a);
    if (this.mode === "rollout") return rollout(this.record, this.a);
    return this.record.head(this.a, this.h);
  });
  get head(): Head | undefined {
    return this.shownHead;
  }

  /** Show another record; keep what still exists of the selection. */
  open(record: Recording, hash = "") {
    this.record = record;
    this.ranges = {};
    if (!record.header.image && this.picture === "image") this.picture = "matrix";
    if (record.header.image && !this.before) this.picture = "image";
    const { attention, output, states } = record.header;
    this.layer = Math.max(0, (states.at(-1)?.explained.length ?? 1) - 1);
    this.s = Math.max(0, (output.prompt ?? 1) - 1);
    this.a = attention.length - 1;
    this.h = 0;
    this.pinStep(this.s);
    if (hash) this.restore(hash);
    this.clamp();
  }

  clamp() {
    const within = (x: number, n: number) => Math.min(Math.max(0, x | 0), Math.max(0, n - 1));
    this.a = within(this.a, this.header.attention.length);
    this.h = within(this.h, this.attention.heads);
    this.i = within(this.i, this.queries.length);
    this.j = within(this.j, this.keys.length);
    this.s = within(this.s, this.header.output.steps.length);
    this.hover = { i: -1, j: -1 };
  }

  focus(a: number, h: number) {
    this.a = a;
    this.h = h;
    this.mode = "head";
    this.clamp();
    void this.fetch();
  }

  async fetch() {
    const { record, a, h } = this;
    if (!record || !this.source || record.head(a, h)) return;
    try {
      record.addHead(a, h, await this.source.head(record.id, a, h));
      this.fetched += 1;
    } catch (error) {
      this.problem = String(error);
    }
  }

  pin(i: number, j?: number) {
    this.i = i;
    if (j !== undefined) this.j = j;
    else this.j = this.strongest(i);
    const { steps } = this.header.output;
    const at = steps.findIndex((s) => s.sequence === this.attention.queries && s.position === i);
    if (at >= 0 && steps[this.s]?.position !== i) this.s = at;
  }

  strongest(i: number): number {
    const head = this.head;
    if (!head) return 0;
    let best = 0;
    for (let j = 1; j < head.m; j++)
      if (head.weights[i * head.m + j] > head.weights[i * head.m + best]) best = j;
    return best;
  }

  pinStep(s: number) {
    this.s = s;
    const step = this.header.output.steps[s];
    if (step && step.sequence === this.attention.queries) {
      this.i = step.position;
      this.j = this.strongest(step.position);
    }
  }

  isAblated(a: number, h: number) {
    return this.ablate.some(([x, y]) => x === a && y === h);
  }
  toggleAblated(a: number, h: number) {
    this.ablate = this.isAblated(a, h)
      ? this.ablate.filter(([x, y]) => x !== a || y !== h)
      : [...this.ablate, [a, h]];
  }

  /** Run a request, and show its record. */
  private async send(next: Request, hash = "") {
    this.busy = "The model is computing";
    this.told = "";
    this.problem = "";
    try {
      const record = await this.source!.look(next, (event, data) => {
        if (event === "token") this.told += data.text;
        if (event === "effect") this.busy = `Measured: ${data.name}`;
      });
      this.before = this.record;
      this.request = next;
      this.open(record, hash);
      void this.fetch();
    } catch (error) {
      this.problem = error instanceof Error ? error.message : String(error);
    }
    this.busy = "";
    this.told = "";
  }

  async run(model: string, inputs: Record<string, string>) {
    const same = this.record?.header.model.name === model;
    this.mask = "own";
    this.ablate = [];
    await this.send({ model, inputs }, same ? this.hash : "");
  }
  /** Run the same input again, with the changes. */
  readonly change = () =>
    this.request &&
    this.send({ ...this.request, ablate: this.ablate, mask: this.mask, effects: false }, this.hash);
  /** Measure the effect of each head. */
  readonly measure = () =>
    this.request && this.send({ ...this.request, effects: true }, this.hash);

  get hash(): string {
    const { a, h, i, j, s, layer, picture, mode } = this;
    const ranges = Object.entries(this.ranges).map(([name, [from, to]]) => [name, `${from}-${to}`]);
    return new URLSearchParams([
      ...Object.entries({ a, h, q: i, k: j, s, layer, picture, mode }).map(([k, v]) => [k, String(v)]),
      ...ranges,
    ]).toString();
  }

  restore(hash: string) {
    const values = new URLSearchParams(hash.replace(/^#/, ""));
    const number = (name: string, old: number) => {
      const value = Number.parseInt(values.get(name) ?? "", 10);
      return Number.isFinite(value) && value >= 0 ? value : old;
    };
    this.a = number("a", this.a);
    this.h = number("h", this.h);
    this.i = number("q", this.i);
    this.j = number("k", this.j);
    this.s = number("s", this.s);
    this.layer = number("layer", this.layer);
    this.ranges = {};
    for (const name of Object.keys(this.header.sequences)) {
      const [from, to] = (values.get(name) ?? "").split("-").map(Number);
      if (from >= 0 && from < to && to <= this.record!.tokens(name).length) this.restrict(name, [from, to]);
    }
    const picture = values.get("picture");
    if (picture === "matrix" || picture === "arcs" || (picture === "image" && this.header.image))
      this.picture = picture;
    const mode = values.get("mode");
    if (mode === "head" || mode === "mean" || mode === "rollout") this.mode = mode;
    this.clamp();
    if (!values.has("k")) this.j = this.strongest(this.i);
  }
}

const KEY = Symbol("session");
export const provideSession = (session: Session) => setContext(KEY, session);
export const useSession = () => getContext<Session>(KEY);
