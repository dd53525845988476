import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

// The notebook's widget: one module, whose styles come with its components, into a shadow root.
export default defineConfig({
  plugins: [svelte({ emitCss: false, compilerOptions: { css: "injected" } })],
  build: {
    outDir: "../src/qkv/explorer/page",
    emptyOutDir: false,
    modulePreload: false,
    reportCompressedSize: false,
    rolldownOptions: {
      input: "src/widget.ts",
      preserveEntrySignatures: "strict",
      output: { format: "es", entryFileNames: "widget.js" },
      checks: { pluginTimings: false },
    },
    target: "es2022",
  },
});
