// The gallery: which exit each image takes, and what it answers there.

const LAYERS = {
  labels: "labels",
  truth: "true labels",
  wrong: "wrong pixels",
  confidence: "confidence",
  "off-edges": "edges left out",
  objects: "other than objects",
  image: "image alone",
};

function layerOf(image, exit, layer) {
  if (layer === "image") return "";
  return layer === "truth" ? image.truth : image.exits[exit][layer];
}

/** An image with a layer over it. */
function view(image, exit, layer, label) {
  const stack = make("span", { class: `stack ${layer}`, style: `aspect-ratio: ${image.width} / ${image.height}` });
  stack.append(make("img", { src: image.image, alt: label, loading: "lazy" }));
  const over = layerOf(image, exit, layer);
  if (over) stack.append(make("img", { src: over, alt: "", class: "over", loading: "lazy" }));
  return stack;
}

function right(image, exit) {
  const share = image.exits[exit].right;
  return share === null ? "no labelled pixel" : `${percent(share)} right`;
}

/** All exits' answers to one image. */
function openDetails(image, taken) {
  const dialog = document.getElementById("details");
  const rows = report.exits.map((_, exit) => {
    const cells = ["labels", "wrong", "confidence", "off-edges"].map((layer) =>
      make("figure", {}, view(image, exit, layer, `${LAYERS[layer]} at ${exitName(exit)}`), make("figcaption", {}, LAYERS[layer])),
    );
    const kept = percent(image.exits[exit].share["off-edges"], 0);
    const says = `${right(image, exit)}; ${kept} of its cells are off the edges${exit === taken ? "; taken" : ""}`;
    return make("section", { class: exit === taken ? "taken" : "" }, make("h3", {}, exitName(exit)), make("p", { class: "quiet" }, says), make("div", { class: "four" }, ...cells));
  });
  const whole = ["image", "truth"].map((layer) => make("figure", {}, view(image, 0, layer, LAYERS[layer]), make("figcaption", {}, LAYERS[layer])));
  dialog.querySelector("h2").textContent = image.name;
  dialog.querySelector(".answers").replaceChildren(make("div", { class: "four" }, ...whole), ...rows);
  dialog.showModal();
  dialog.scrollTop = 0;
}

function card(image, exit, layer, says) {
  const label = `${image.name}: ${LAYERS[layer]} at ${exitName(exit)}`;
  const button = make("button", { type: "button", "aria-label": `${label}. Show all exits` }, view(image, exit, layer, label));
  button.addEventListener("click", () => openDetails(image, exit));
  return make("figure", { class: "card" }, button, make("figcaption", {}, make("b", {}, image.name), ` ${says}`));
}

/** Images by the exit that they take: side by side on a desk, below each other on a phone. */
function showGallery(chosen, layer) {
  const { images, scores } = report.gallery;
  const exits = chosen ? chosen.exits : [report.exits.length - 1];
  const left = chosen ? leavesAt(chosen, scores, images.length) : images.map(() => 0);
  const columns = exits.map((exit, place) => {
    const here = images.map((_, index) => index).filter((index) => left[index] === place);
    const cards = here.map((index) => {
      const asked = chosen ? chosen.thresholds.slice(0, place + 1).map((_, at) => scores[chosen.policy][exits[at]][index].toFixed(3)) : [];
      const says = [right(images[index], exit)];
      if (exit !== report.exits.length - 1) says.push(`final exit ${right(images[index], report.exits.length - 1)}`);
      if (asked.length) says.push(`score ${asked.join(", ")}`);
      return card(images[index], exit, layer, says.join("; "));
    });
    const head = make("h3", {}, make("span", { class: `dot ${exitColour(exit)}`, "aria-hidden": "true" }), `${exitName(exit)}: ${here.length} of ${images.length}`);
    return make("div", { class: "column", "data-exit": report.exits[exit], "data-images": here.length }, head, make("div", { class: "cards" }, ...cards));
  });
  const box = document.getElementById("columns");
  // As wide as there are images, so that columns end together.
  const wide = columns.map((column) => `minmax(140px, ${Math.max(1, Number(column.dataset.images))}fr)`);
  box.style.setProperty("--columns", wide.join(" "));
  box.replaceChildren(...columns);
}

function beginGallery() {
  const form = document.getElementById("layers");
  let current = report.deployment;
  const choices = Object.entries(LAYERS).map(([layer, text]) => make("label", {}, make("input", { type: "radio", name: "layer", value: layer }), ` ${text}`));
  form.querySelector("fieldset").append(...choices);
  form.elements.layer.value = "labels";
  const update = () => showGallery(current, form.elements.layer.value);
  form.addEventListener("input", update);
  listeners.push((chosen) => {
    current = chosen;
    update();
  });
  if (!report.choices) update();
}
