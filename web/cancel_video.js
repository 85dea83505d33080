// A button on FastVideo Batch for each of its videos that is not done yet, which cancels that one alone.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { panelOf } from "./node_text.js";

const CANCEL = { en: "Cancel", zh: "取消" };

app.registerExtension({
  name: "FastVideo.CancelVideo",

  setup() {
    api.addEventListener("fastvideo.videos", ({ detail }) => show(detail.node, detail.videos));
  },
});

function show(id, videos) {
  const node = nodeOf(id);
  if (node?.comfyClass !== "FastVideoBatch") return; // its workflow is not the one on the canvas
  const panel = panelOf(node);
  panel.querySelector("[role=group]")?.remove();
  if (!videos.length) return;
  const buttons = document.createElement("div");
  buttons.setAttribute("role", "group");
  Object.assign(buttons.style, { display: "flex", flexWrap: "wrap", gap: "4px", paddingBottom: "4px" });
  buttons.append(...videos.map((video) => buttonOf(id, video)));
  panel.prepend(buttons);
}

function buttonOf(id, video) {
  const button = document.createElement("button");
  button.textContent = `${CANCEL[app.extensionManager.setting.get("Comfy.Locale")] ?? CANCEL.en} ${video}`;
  button.onclick = async () => {
    button.disabled = true; // it ends before its next step
    await api.fetchApi("/fastvideo/cancel", { method: "POST", body: JSON.stringify({ node: id, video }) });
  };
  return button;
}

// The id of a node that runs has those of the subgraphs around it before it: "12:5".
function nodeOf(id) {
  const [inner, ...around] = String(id).split(":").reverse();
  const graph = around.reduceRight((outer, subgraph) => outer?.getNodeById(subgraph)?.subgraph, app.rootGraph);
  return graph?.getNodeById(inner);
}
