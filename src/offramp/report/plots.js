// What all parts of the page's script share: the data, elements, marks of exits, and numbers as text.

const report = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; a text child is text, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** An element of a drawing; `title` is what it says when the pointer rests on it. */
function draw(tag, attributes, { title = "", text = "" } = {}) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  if (title) {
    const said = document.createElementNS(SVG, "title");
    said.textContent = title;
    element.append(said);
  }
  return element;
}

function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)} %`;
}

/** The name of an exit by its index, as in the page's charts. */
function exitName(index) {
  return report.names[report.exits[index]];
}

/** The class that gives an exit its colour. */
function exitColour(index) {
  return report.marks[report.exits[index]].css;
}

/** The place in a deployment's exits where each image leaves: the first whose score reaches its threshold. */
function leavesAt(chosen, scores, images) {
  const byExit = scores[chosen.policy] ?? {};
  return Array.from({ length: images }, (_, image) => {
    const early = chosen.thresholds.findIndex((least, place) => byExit[chosen.exits[place]][image] >= least);
    return early < 0 ? chosen.exits.length - 1 : early;
  });
}

/** Listeners are told of each new choice; null where nothing meets the limits. */
const listeners = [];
