// Run a bundle's engine inside a C++ program, with ONNX Runtime's C API alone.
//
//     reconstruct BUNDLE FAMILY [OUTPUT]
//
// Reads the four-step fp32 graph of a family (cartesian1d, separable, pointwise, toeplitz, rays)
// and its weights from the bundle, runs it on the family's golden inputs, and compares the image
// with the golden one. OUTPUT gets the image: (1, 2, H, W) float32, little-endian. A program of
// your own fills the same inputs from its scan: docs/design.md lists them.
//
// The bundle's hashes and signature are not checked here: `ldmpir-edge inspect BUNDLE` does.

#include <onnxruntime_c_api.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Bytes = std::vector<char>;

constexpr double kMaxDifference = 1e-3;

const OrtApi *ort = nullptr;

void check(OrtStatus *status) {
  if (status == nullptr) return;
  const std::string message = ort->GetErrorMessage(status);
  ort->ReleaseStatus(status);
  throw std::runtime_error(message);
}

// A part of a file in memory that may not be read beyond its end.
class View {
 public:
  View(const char *data, size_t size) : data_(data), size_(size) {}
  const char *data() const { return data_; }
  size_t size() const { return size_; }

  View part(size_t start, size_t size) const {
    if (start > size_ || size > size_ - start) throw std::runtime_error("the bundle is cut off");
    return {data_ + start, size};
  }

  size_t number(size_t start, size_t n_bytes) const {
    const View bytes = part(start, n_bytes);
    size_t value = 0;
    for (size_t i = n_bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes.data_[i]);
    return value;
  }

  std::string text(size_t start, size_t size) const {
    const View bytes = part(start, size);
    return {bytes.data_, bytes.size_};
  }

 private:
  const char *data_;
  size_t size_;
};

// List the entries of a zip whose entries are stored: bundles and their golden pairs are such.
// Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
std::map<std::string, View> entries(const View &zip) {
  constexpr size_t kEnd = 22, kCentral = 46, kLocal = 30;
  if (zip.size() < kEnd || zip.text(zip.size() - kEnd, 4) != "PK\5\6") {
    throw std::runtime_error("the bundle is no zip without a comment");
  }
  const size_t n_entries = zip.number(zip.size() - kEnd + 10, 2);
  size_t place = zip.number(zip.size() - kEnd + 16, 4);
  std::map<std::string, View> found;
  for (size_t i = 0; i < n_entries; ++i) {
    if (zip.text(place, 4) != "PK\1\2" || zip.number(place + 10, 2) != 0) {
      throw std::runtime_error("an entry of the bundle is compressed or damaged");
    }
    const size_t size = zip.number(place + 24, 4), name_size = zip.number(place + 28, 2);
    const size_t local = zip.number(place + 42, 4);
    const size_t start = local + kLocal + zip.number(local + 26, 2) + zip.number(local + 28, 2);
    found.emplace(zip.text(place + kCentral, name_size), zip.part(start, size));
    place += kCentral + name_size + zip.number(place + 30, 2) + zip.number(place + 32, 2);
  }
  return found;
}

const View &get(const std::map<std::string, View> &zip, const std::string &name) {
  const auto found = zip.find(name);
  if (found == zip.end()) throw std::runtime_error("the bundle holds no " + name);
  return found->second;
}

struct Array {
  ONNXTensorElementDataType type;
  std::vector<int64_t> shape;
  View data;
};

// Read a NumPy array of float32, int32 or int64 in C order.
// Source: numpy.lib.format, version 1.0.
Array array(const View &npy) {
  if (npy.text(0, 8) != std::string("\x93NUMPY\1\0", 8)) throw std::runtime_error("no npy 1.0");
  const size_t header_size = npy.number(8, 2);
  const std::string header = npy.text(10, header_size);
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t n_bytes = 4;
  if (header.find("'<f4'") != std::string::npos) type = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  if (header.find("'<i4'") != std::string::npos) type = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  if (header.find("'<i8'") != std::string::npos) {
    type = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    n_bytes = 8;
  }
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED ||
      header.find("'fortran_order': False") == std::string::npos) {
    throw std::runtime_error("an array of an unexpected kind: " + header);
  }
  std::vector<int64_t> shape;
  const size_t open = header.find('(');
  for (size_t i = open; i < header.size() && header[i] != ')'; ++i) {
    if (header[i] < '0' || header[i] > '9') continue;
    int64_t side = 0;
    for (; header[i] >= '0' && header[i] <= '9'; ++i) side = 10 * side + (header[i] - '0');
    shape.push_back(side);
    n_bytes *= static_cast<size_t>(side);
    --i;
  }
  return {type, shape, npy.part(10 + header_size, n_bytes)};
}

Bytes read_file(const char *path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error(std::string("cannot read ") + path);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

// Load a graph and the weights that it names, all from memory.
OrtSession *load(OrtEnv *env, const View &graph, const std::string &weights_name, const View &weights) {
  OrtSessionOptions *options = nullptr;
  check(ort->CreateSessionOptions(&options));
  const char *names[] = {weights_name.c_str()};
  // ONNX Runtime reads it only, though its interface does not say so.
  char *contents[] = {const_cast<char *>(weights.data())};
  const size_t sizes[] = {weights.size()};
  check(ort->AddExternalInitializersFromFilesInMemory(options, names, contents, sizes, 1));
  OrtSession *session = nullptr;
  check(ort->CreateSessionFromArray(env, graph.data(), graph.size(), options, &session));
  ort->ReleaseSessionOptions(options);
  return session;
}

std::vector<float> run(OrtSession *session, const std::map<std::string, View> &golden) {
  OrtAllocator *allocator = nullptr;
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  OrtMemoryInfo *cpu = nullptr;
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &cpu));
  size_t n_inputs = 0;
  check(ort->SessionGetInputCount(session, &n_inputs));
  std::vector<char *> names(n_inputs);
  std::vector<OrtValue *> values(n_inputs);
  for (size_t i = 0; i < n_inputs; ++i) {
    check(ort->SessionGetInputName(session, i, allocator, &names[i]));
    const Array input = array(get(golden, std::string(names[i]) + ".npy"));
    check(ort->CreateTensorWithDataAsOrtValue(cpu, const_cast<char *>(input.data.data()),
                                              input.data.size(), input.shape.data(),
                                              input.shape.size(), input.type, &values[i]));
  }
  const char *outputs[] = {"image"};
  OrtValue *result = nullptr;
  check(ort->Run(session, nullptr, names.data(), values.data(), n_inputs, outputs, 1, &result));
  OrtTensorTypeAndShapeInfo *info = nullptr;
  size_t n_values = 0;
  check(ort->GetTensorTypeAndShape(result, &info));
  check(ort->GetTensorShapeElementCount(info, &n_values));
  void *data = nullptr;
  check(ort->GetTensorMutableData(result, &data));
  const float *first = static_cast<const float *>(data);
  std::vector<float> image(first, first + n_values);
  ort->ReleaseTensorTypeAndShapeInfo(info);
  ort->ReleaseValue(result);
  for (OrtValue *value : values) ort->ReleaseValue(value);
  for (char *name : names) check(ort->AllocatorFree(allocator, name));
  ort->ReleaseMemoryInfo(cpu);
  return image;
}

int reconstruct(const char *path, const std::string &family, const char *output) {
  const Bytes file = read_file(path);
  const auto bundle = entries({file.data(), file.size()});
  const auto golden = entries(get(bundle, "golden/" + family + ".npz"));
  OrtEnv *env = nullptr;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "ldmpir", &env));
  OrtSession *session = load(env, get(bundle, "graphs/" + family + "-4-fp32.onnx"),
                             "weights-fp32.bin", get(bundle, "graphs/weights-fp32.bin"));
  const std::vector<float> image = run(session, golden);
  ort->ReleaseSession(session);
  ort->ReleaseEnv(env);
  if (output != nullptr) {
    std::ofstream(output, std::ios::binary)
        .write(reinterpret_cast<const char *>(image.data()),
               static_cast<std::streamsize>(image.size() * sizeof(float)));
  }
  const View expected = array(get(golden, "image.npy")).data;
  if (expected.size() != image.size() * sizeof(float)) {
    throw std::runtime_error("the image has another size than the golden one");
  }
  double largest = 0;
  for (size_t i = 0; i < image.size(); ++i) {
    float value = 0;
    std::memcpy(&value, expected.data() + i * sizeof(float), sizeof(float));
    const double apart = std::fabs(image[i] - value);
    if (!(apart <= largest)) largest = apart;  // NaN too
  }
  std::printf("%s: largest difference from the golden image %.2g\n", family.c_str(), largest);
  return largest < kMaxDifference ? 0 : 1;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s BUNDLE FAMILY [OUTPUT]\n", argv[0]);
    return 2;
  }
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (ort == nullptr) {
    std::fprintf(stderr, "the library is older than the headers\n");
    return 2;
  }
  try {
    return reconstruct(argv[1], argv[2], argc > 3 ? argv[3] : nullptr);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
