// One image through a file that `offramp export PACKAGE --single-file net.onnx` made. Needs ONNX Runtime 1.20 or later.
//
//     g++ -std=c++17 -O2 single_file.cpp -I ORT/include -L ORT/lib -lonnxruntime -o single_file
//     ./single_file net.onnx image.ppm labels.pgm [THRESHOLD for each exit but the last]
//
// The image is a binary PPM (P6) of the size that the file takes; the label map becomes a PGM of class indices.

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

static std::vector<std::uint8_t> read_ppm(const char* path, std::int64_t width, std::int64_t height) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  std::int64_t got_width = 0, got_height = 0, most = 0;
  file >> magic >> got_width >> got_height >> most;
  file.get();
  if (magic != "P6" || got_width != width || got_height != height || most != 255) {
    throw std::runtime_error("the image must be a P6 PPM of " + std::to_string(width) + "x" + std::to_string(height));
  }
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(width * height * 3));
  if (!file.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size()))) {
    throw std::runtime_error("the image file ends too early");
  }
  return pixels;
}

static int run(int count, char** arguments) {
  // Errors only: that thresholds have defaults, which may be overridden, is no reason for a warning here.
  Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "offramp");
  Ort::SessionOptions options;
  Ort::Session session(environment, std::filesystem::path(arguments[1]).c_str(), options);

  // (1, H, W, 3): RGB bytes, row by row.
  const std::vector<std::int64_t> shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  std::vector<std::uint8_t> pixels = read_ppm(arguments[2], shape[2], shape[1]);
  std::vector<double> thresholds;
  for (int index = 4; index < count; ++index) thresholds.push_back(std::atof(arguments[index]));
  const std::vector<std::int64_t> thresholds_shape{static_cast<std::int64_t>(thresholds.size())};

  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<const char*> input_names{"image"};
  std::vector<Ort::Value> inputs;
  inputs.push_back(Ort::Value::CreateTensor<std::uint8_t>(memory, pixels.data(), pixels.size(), shape.data(), shape.size()));
  if (!thresholds.empty()) {  // left out, the file's own hold
    input_names.push_back("thresholds");
    inputs.push_back(Ort::Value::CreateTensor<double>(memory, thresholds.data(), thresholds.size(), thresholds_shape.data(), 1));
  }
  const std::vector<const char*> output_names{"labels", "score", "exit"};
  std::vector<Ort::Value> outputs = session.Run(Ort::RunOptions{nullptr}, input_names.data(), inputs.data(), inputs.size(),
                                                output_names.data(), output_names.size());

  Ort::AllocatorWithDefaultOptions allocator;
  const Ort::AllocatedStringPtr exits = session.GetModelMetadata().LookupCustomMetadataMapAllocated("offramp.exits", allocator);
  std::cout << "exit " << *outputs[2].GetTensorData<std::int64_t>() << " of " << exits.get() << ", score "
            << *outputs[1].GetTensorData<double>() << "\n";
  std::ofstream labels(arguments[3], std::ios::binary);
  labels << "P5\n" << shape[2] << " " << shape[1] << "\n255\n";
  labels.write(reinterpret_cast<const char*>(outputs[0].GetTensorData<std::uint8_t>()), shape[1] * shape[2]);
  return labels.good() ? 0 : 1;
}

int main(int count, char** arguments) {
  if (count < 4) {
    std::cerr << "usage: single_file NET.onnx IMAGE.ppm LABELS.pgm [THRESHOLD ...]\n";
    return 2;
  }
  try {
    return run(count, arguments);
  } catch (const std::exception& error) {  // Ort::Exception is one
    std::cerr << error.what() << "\n";
    return 1;
  }
}
