// One image through a file that `offramp export PACKAGE --single-file net.onnx --feed-thresholds` made.
//
//     npm install onnxruntime-node
//     node single_file.js net.onnx image.ppm labels.pgm [THRESHOLD for each exit but the last]
//
// The image is a binary PPM (P6) of the size that the file takes; the label map becomes a PGM of class indices.
// onnxruntime-web takes the same calls.
"use strict";

const fs = require("node:fs");
const ort = require("onnxruntime-node");

function readPpm(path, width, height) {
  const bytes = fs.readFileSync(path);
  const header = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(bytes.toString("latin1", 0, 64));
  if (!header || Number(header[1]) !== width || Number(header[2]) !== height) {
    throw new Error(`the image must be a P6 PPM of ${width}x${height}`);
  }
  return new Uint8Array(bytes.subarray(header[0].length));
}

async function main([net, image, labels, ...thresholds]) {
  const session = await ort.InferenceSession.create(net, { logSeverityLevel: 3 });
  const shape = session.inputMetadata.find((input) => input.name === "image").shape; // [1, H, W, 3]
  const feeds = { image: new ort.Tensor("uint8", readPpm(image, shape[2], shape[1]), shape) };
  // A file without --feed-thresholds has no such input for JavaScript: what is fed here would be passed over in silence.
  if (session.inputNames.includes("thresholds")) {
    feeds.thresholds = new ort.Tensor("float64", Float64Array.from(thresholds, Number), [thresholds.length]);
  } else if (thresholds.length) {
    throw new Error(`${net} holds its thresholds; export it with --feed-thresholds to set them here`);
  }
  const answer = await session.run(feeds);
  console.log(`exit ${answer.exit.data[0]}, score ${answer.score.data[0]}`); // exit is a BigInt
  fs.writeFileSync(labels, Buffer.concat([Buffer.from(`P5\n${shape[2]} ${shape[1]}\n255\n`), Buffer.from(answer.labels.data)]));
}

if (process.argv.length < 5) {
  console.error("usage: node single_file.js NET.onnx IMAGE.ppm LABELS.pgm [THRESHOLD ...]");
  process.exit(2);
}
main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
