// The kernel of a notebook as the source of records: each request is a message, and so is each answer.

import type { Heard, ModelEntry, Request, Source } from "./live";
import { Recording } from "./record";

/** What anywidget gives to `render`. */
export interface Model {
  get(name: "content"): DataView; // of the record;
  get(name: "menu"): ModelEntry[];
  get(name: "view"): string;
  send(content: unknown): void;
  on(event: "msg:custom", heard: (content: Answer, buffers: DataView[]) => void): void;
  off(event: "msg:custom", heard: (content: Answer, buffers: DataView[]) => void): void;
}
interface Answer {
  to: string; // the id of the request
  event: string; // record, head, error, or one of those before the end
  data: Record<string, string | number>;
}

/** Send a request, report its events, and return the bytes of its answer. */
function ask(model: Model, request: object, heard: Heard): Promise<[Answer, ArrayBuffer]> {
  const id = crypto.getRandomValues(new Uint32Array(4)).join("-");
  return new Promise((resolve, reject) => {
    const listen = (answer: Answer, buffers: DataView[]) => {
      if (answer.to !== id) return; // of another request, or of another view of the widget
      const [view] = buffers;
      if (answer.event === "error") reject(new Error(String(answer.data.error)));
      else if (view) {
        const bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
        resolve([answer, bytes as ArrayBuffer]);
      } else return heard(answer.event, answer.data);
      model.off("msg:custom", listen);
    };
    model.on("msg:custom", listen);
    model.send({ id, ...request });
  });
}

export const kernelOf = (model: Model): Source => ({
  models: async () => model.get("menu"),
  async look(request: Request, heard: Heard) {
    const [answer, bytes] = await ask(model, { look: request }, heard);
    return new Recording(bytes, String(answer.data.id));
  },
  async head(id: string, a: number, h: number) {
    return (await ask(model, { head: [id, a, h] }, () => undefined))[1];
  },
});
