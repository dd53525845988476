// Formulas are set by the copy of MathJax beside the pages; nothing comes from another host.
const root = document.documentElement.dataset.content_root ?? "./";
window.MathJax = {
  loader: {load: ["a11y/assistive-mml"]},
  output: {fontPath: root + "_static/mathjax/font"},
  options: {
    ignoreHtmlClass: "mathjax_ignore|tex2jax_ignore|document",
    processHtmlClass: "mathjax_process|tex2jax_process|math|output_area",
    enableAssistiveMml: true,
    menuOptions: {settings: {enrich: false, speech: false, braille: false, assistiveMml: true}},
  },
  svg: {mtextInheritFont: true},
  tex: {tags: "none"},
};
