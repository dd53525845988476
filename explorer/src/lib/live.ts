// Where records come from: the server that `qkv explore` starts, or a kernel. A saved page asks nothing.

import { Recording } from "./record";

export interface ModelEntry {
  name: string;
  task: string;
  about: string;
  weak: string;
  example: Record<string, string>;
}
export interface Request {
  model: string;
  inputs: Record<string, string>;
  ablate?: [number, number][];
  mask?: string;
  effects?: boolean;
}
export type Heard = (event: string, data: Record<string, string | number>) => void;

/** What runs a model for the explorer. */
export interface Source {
  models(): Promise<ModelEntry[]>;
  /** Run a request; report its events as they come; return the record. */
  look(request: Request, heard: Heard): Promise<Recording>;
  /** One head of a long input, as a safetensors file. */
  head(id: string, a: number, h: number): Promise<ArrayBuffer>;
}

/** The server from which the page came. */
export const server: Source = {
  async models() {
    const answer = await fetch("explorer/models");
    if (!answer.ok) throw new Error(await answer.text());
    return (await answer.json()).models;
  },

  async look(request, heard) {
    const answer = await fetch("explorer/look", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(request),
    });
    if (!answer.ok) throw new Error((await answer.json()).error);
    let id = "";
    for await (const [event, data] of events(answer.body!)) {
      if (event === "error") throw new Error(String(data.error));
      if (event === "record") id = String(data.id);
      else heard(event, data);
    }
    if (!id) throw new Error("the server ended without an answer");
    const record = await fetch(`explorer/records/${id}`);
    if (!record.ok) throw new Error(await record.text());
    return new Recording(await record.arrayBuffer(), id);
  },

  async head(id, a, h) {
    const answer = await fetch(`explorer/records/${id}/${a}/${h}`);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.arrayBuffer();
  },
};

/** The server-sent events of a stream. */
async function* events(
  body: ReadableStream<Uint8Array>,
): AsyncGenerator<[string, Record<string, string | number>]> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    text += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const parts = text.split("\n\n");
    text = parts.pop()!;
    for (const part of parts) {
      const event = /^event: (.*)$/m.exec(part)?.[1] ?? "message";
      const data = /^data: (.*)$/m.exec(part)?.[1] ?? "{}";
      yield [event, JSON.parse(data)];
    }
    if (done) return;
  }
}
