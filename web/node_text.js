// Shows the text that these nodes leave on the node itself, also when a run is opened again from the history.
import { app } from "../../scripts/app.js";

const NODES = ["FastVideoRunReport", "FastVideoCompare", "FastVideoCalibrateMagCache", "FastVideoAutoTune", "FastVideoLoadDiffusersModel"];

app.registerExtension({
  name: "FastVideo.NodeText",

  nodeCreated(node) {
    if (NODES.includes(node.comfyClass)) addReport(node);
  },

  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs)) {
      const node = nodeAt(locator);
      if (NODES.includes(node?.comfyClass)) show(node, output);
    }
  },
});

function addReport(node) {
  const element = document.createElement("textarea");
  element.className = "comfy-multiline-input";
  element.style.whiteSpace = "pre-wrap";
  element.readOnly = true;
  element.placeholder = "The report appears here after a run.";
  const widget = node.addDOMWidget("report_text", "fastvideo_report", element, {
    getValue: () => element.value,
    setValue: (text) => (element.value = text),
    getMinHeight: () => 120,
    serialize: false, // not an input of the prompt
  });
  widget.serialize = false; // nor a value of the saved workflow
  const onExecuted = node.onExecuted;
  node.onExecuted = function (output) {
    onExecuted?.call(this, output);
    show(node, output);
  };
}

function show(node, output) {
  const widget = node.widgets?.find(({ name }) => name === "report_text");
  if (widget && output?.text) widget.value = output.text.join("\n");
}

// A locator is a node id, or "<subgraph id>:<node id>".
function nodeAt(locator) {
  const [id, subgraph] = String(locator).split(":").reverse();
  const graph = subgraph ? app.rootGraph.subgraphs.get(subgraph) : app.rootGraph;
  return graph?.getNodeById(id);
}
