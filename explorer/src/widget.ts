// The notebook's widget, for anywidget: a record comes as bytes, and messages run the model.

import { mount, unmount } from "svelte";
import styles from "./app.css?inline";
import { kernelOf, type Model } from "./lib/kernel";
import { Recording } from "./lib/record";
import { Session } from "./lib/state.svelte";
import Widget from "./Widget.svelte";

/** Whether the notebook is dark: JupyterLab and VS Code say so on the body. */
function isDark(): boolean {
  const { jpThemeLight, vscodeThemeKind } = document.body.dataset;
  if (jpThemeLight) return jpThemeLight === "false";
  if (vscodeThemeKind) return !/light/.test(vscodeThemeKind);
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function render({ model, el }: { model: Model; el: HTMLElement }) {
  const host = document.createElement("div");
  host.className = "qkv-explorer";
  host.dataset.lmSuppressShortcuts = "true"; // of JupyterLab, while one types in a field
  el.append(host);
  const root = host.attachShadow({ mode: "open" }); // styles stay inside, and outside
  const sheet = document.createElement("style");
  sheet.textContent = styles;
  root.append(sheet);

  const session = new Session();
  const paint = () => (host.dataset.theme = session.theme = isDark() ? "dark" : "light");
  paint();
  const watch = new MutationObserver(paint);
  watch.observe(document.body, { attributes: true });

  const menu = model.get("menu");
  if (menu.length) {
    const [first] = menu;
    session.models = menu;
    session.source = kernelOf(model);
    session.request = { model: first.name, inputs: first.example };
  }
  try {
    session.open(new Recording(bytesOf(model.get("content")), "first"), model.get("view"));
    void session.fetch();
  } catch (error) {
    session.problem = String(error);
  }
  const app = mount(Widget, { target: root, props: { session } });
  return () => {
    watch.disconnect();
    void unmount(app);
  };
}

/** The bytes of a view, at the start of a buffer. */
function bytesOf(view: DataView): ArrayBuffer {
  return view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength) as ArrayBuffer;
}

export default { render };
