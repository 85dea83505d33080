// Shows the text and the picture that these nodes leave on the node itself, also when a run is opened again from the history.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

// What a fresh node has room for, in pixels beside its inputs; a saved one has its own size.
const TEXT = 240;
const TEXT_AND_PICTURE = 600;
const NODES = {
  FastVideoRunReport: TEXT_AND_PICTURE,
  FastVideoCompare: TEXT,
  FastVideoCalibrateMagCache: TEXT,
  FastVideoAutoTune: TEXT,
  FastVideoLoadDiffusersModel: TEXT,
  FastVideoBatch: TEXT,
};
const WIDTH = 440; // as wide as the lines of a comparison
const LEAST = 120;
const PANEL = "fastvideo-panel";
const EMPTY = { en: "The report appears here after a run.", zh: "运行后报告显示在这里。" };

app.registerExtension({
  name: "FastVideo.NodeText",

  nodeCreated(node) {
    if (node.comfyClass in NODES) addPanel(node);
  },

  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs)) {
      const node = nodeAt(locator);
      if (node?.comfyClass in NODES) show(node, output);
    }
  },
});

// What the node shows its text in. With Vue nodes a workflow that is loaded again, as by an undo, shows those of the nodes before.
export function panelOf(node) {
  const panel = node.widgets?.find(({ name }) => name === "report_text")?.element;
  if (panel && !panel.isConnected) document.querySelector(`[data-node-id="${node.id}"] .${PANEL}`)?.replaceWith(panel);
  return panel;
}

function addPanel(node) {
  const panel = document.createElement("div");
  panel.className = PANEL;
  Object.assign(panel.style, { display: "flex", flexDirection: "column", overflowY: "auto", minHeight: `${LEAST - 20}px` });
  const text = document.createElement("textarea");
  text.className = "comfy-multiline-input";
  Object.assign(text.style, { whiteSpace: "pre-wrap", width: "100%", flex: `1 0 ${LEAST - 20}px` });
  text.readOnly = true;
  text.placeholder = EMPTY[app.extensionManager.setting.get("Comfy.Locale")] ?? EMPTY.en;
  panel.append(text);
  const widget = node.addDOMWidget("report_text", "fastvideo_report", panel, {
    getValue: () => text.value,
    setValue: (value) => (text.value = value),
    getMinHeight: () => LEAST,
    serialize: false, // not an input of the prompt
  });
  widget.serialize = false; // nor a value of the saved workflow
  const wide = Math.max(node.size[0], WIDTH);
  node.setSize([wide, node.computeSize()[1] + NODES[node.comfyClass] - LEAST]);
  const onExecuted = node.onExecuted;
  node.onExecuted = function (output) {
    onExecuted?.call(this, output);
    show(node, output);
  };
}

function show(node, output) {
  const panel = panelOf(node);
  if (!panel || !output?.text) return;
  panel.querySelector("textarea").value = output.text.join("\n");
  for (const shown of panel.querySelectorAll("img")) shown.remove();
  panel.append(...(output.picture ?? []).map((saved) => pictureOf(node, saved)));
}

function pictureOf(node, { filename, subfolder, type }) {
  const picture = document.createElement("img");
  picture.onload = () => {
    const high = node.computeSize()[1] + (node.size[0] * picture.naturalHeight) / picture.naturalWidth;
    if (node.size[1] < high) node.setSize([node.size[0], high]);
  };
  picture.onerror = () => picture.remove(); // of a run before ComfyUI was started again
  picture.src = api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
  Object.assign(picture.style, { width: "100%", flex: "none" });
  return picture;
}

// A locator is a node id, or "<subgraph id>:<node id>".
function nodeAt(locator) {
  const [id, subgraph] = String(locator).split(":").reverse();
  const graph = subgraph ? app.rootGraph.subgraphs.get(subgraph) : app.rootGraph;
  return graph?.getNodeById(id);
}
