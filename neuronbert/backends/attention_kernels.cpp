// Attention in fp32 that also tells how much of it each token receives, without ever writing the probabilities down.
//
// The operator checks the shapes and types that it is given: a program file may be anybody's.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <tuple>
#include <vector>

namespace {

using at::Tensor;

constexpr int64_t kLanes = 16;   // Floats of a vector; a compiler for narrower registers takes several.
constexpr int64_t kPanel = 64;   // Keys that are multiplied at once.
constexpr int64_t kBlock = 12;   // Queries whose scores stay in the first cache.
constexpr int64_t kHalf = 6;     // Queries whose sums, with kPanel keys, fill the registers.

constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to a whole number.

typedef float Vector __attribute__((vector_size(64)));
typedef float Loose __attribute__((vector_size(64), aligned(4)));
typedef int32_t Integers __attribute__((vector_size(64)));

inline Vector load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Loose*>(to) = value; }
inline Vector all(float value) { return value - Vector{}; }

// The exponential of numbers of 0 or less, within 2e-7 of it; below what has a normal number, 0.
inline Vector exponential(Vector x) {
  constexpr float kLeast = -87.3f, kLog2 = 1.44269504088896341f, kHigh = 0.693359375f, kLow = -2.12194440e-4f;
  Integers none = x < kLeast;
  x = none ? all(kLeast) : x;
  Vector shifted = x * kLog2 + kShift;
  Vector whole = shifted - kShift;
  Vector rest = x - whole * kHigh - whole * kLow;
  Vector sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  Vector limit = all(kShift);
  Integers power, base;
  std::memcpy(&power, &shifted, sizeof power);
  std::memcpy(&base, &limit, sizeof base);
  power = (power - base + 127) << 23;
  Vector scale;
  std::memcpy(&scale, &power, sizeof scale);
  return none ? Vector{} : sum * scale;
}

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// kHalf rows of scores by kPanel keys: `queries` [kHalf, depth], `keys` [depth, kPanel], into rows that are `width` apart.
inline void multiply_keys(const float* queries, const float* keys, int64_t depth, int64_t width, float* scores) {
  constexpr int64_t kVectors = kPanel / kLanes;
  Vector sums[kHalf][kVectors] = {};
  for (int64_t d = 0; d < depth; ++d) {
    Vector key[kVectors];
#pragma GCC unroll 4
    for (int64_t v = 0; v < kVectors; ++v) key[v] = load(keys + d * kPanel + v * kLanes);
#pragma GCC unroll 6
    for (int64_t row = 0; row < kHalf; ++row) {
      Vector query = all(queries[row * depth + d]);
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVectors; ++v) sums[row][v] += query * key[v];
    }
  }
#pragma GCC unroll 6
  for (int64_t row = 0; row < kHalf; ++row)
#pragma GCC unroll 4
    for (int64_t v = 0; v < kVectors; ++v) store(scores + row * width + v * kLanes, sums[row][v]);
}

// kBlock rows of weights [kBlock, width] times two vectors of values, `deep` apart, each row times its share.
inline void multiply_values(const float* weights, const float* values, int64_t width, int64_t length, int64_t deep,
                            const float* shares, float* gathered) {
  Vector sums[kBlock][2] = {};
  for (int64_t key = 0; key < length; ++key) {
    Vector left = load(values + key * deep), right = load(values + key * deep + kLanes);
#pragma GCC unroll 12
    for (int64_t row = 0; row < kBlock; ++row) {
      Vector weight = all(weights[row * width + key]);
      sums[row][0] += weight * left;
      sums[row][1] += weight * right;
    }
  }
#pragma GCC unroll 12
  for (int64_t row = 0; row < kBlock; ++row) {
    store(gathered + row * deep, sums[row][0] * shares[row]);
    store(gathered + row * deep + kLanes, sums[row][1] * shares[row]);
  }
}

// Puts exp(score + mask - the largest of them) in the place of a row's scores; gives 1 over their sum.
inline float weigh(float* scores, const float* mask, int64_t width) {
  Vector most = all(-std::numeric_limits<float>::infinity()), sum = {};
  for (int64_t key = 0; key < width; key += kLanes) {
    Vector score = load(scores + key) + load(mask + key);
    store(scores + key, score);
    most = score > most ? score : most;
  }
  float largest = most[0], total = 0;
  for (int64_t lane = 1; lane < kLanes; ++lane) largest = std::max(largest, most[lane]);
  for (int64_t key = 0; key < width; key += kLanes) {
    Vector weight = exponential(load(scores + key) - largest);
    store(scores + key, weight);
    sum += weight;
  }
  for (int64_t lane = 0; lane < kLanes; ++lane) total += sum[lane];
  return 1.0f / total;
}

// The heads of a [B, N, c, D] tensor whose last dimension is dense.
struct Heads {
  const float* data;
  int64_t rows, heads, length, depth, by_row, by_head, by_token;
  explicit Heads(const Tensor& tensor)
      : data(tensor.data_ptr<float>()), rows(tensor.size(0)), heads(tensor.size(1)), length(tensor.size(2)),
        depth(tensor.size(3)), by_row(tensor.stride(0)), by_head(tensor.stride(1)), by_token(tensor.stride(2)) {}
  const float* at(int64_t index, int64_t token) const {
    return data + index / heads * by_row + index % heads * by_head + token * by_token;
  }
};

// What one head needs beside its inputs: keys by panel, values and masks to whole vectors, and a block of scores.
struct Scratch {
  int64_t width, deep;
  std::vector<float> keys, values, mask, queries, scores, gathered;
  Scratch(int64_t length, int64_t depth)
      : width(round_up(length, kPanel)), deep(round_up(depth, 2 * kLanes)), keys(width * depth),
        values(length * deep), mask(width, -std::numeric_limits<float>::infinity()), queries(kBlock * depth),
        scores(kBlock * width), gathered(kBlock * deep) {}
};

void pack(const Heads& keys, const Heads& values, int64_t index, Scratch& scratch) {
  for (int64_t token = 0; token < keys.length; ++token) {
    const float* key = keys.at(index, token);
    float* to = scratch.keys.data() + token / kPanel * kPanel * keys.depth + token % kPanel;
    for (int64_t d = 0; d < keys.depth; ++d) to[d * kPanel] = key[d];
    std::memcpy(scratch.values.data() + token * scratch.deep, values.at(index, token), values.depth * sizeof(float));
  }
}

void mask_of(const Tensor& mask, int64_t row, int64_t query, Scratch& scratch) {
  const float* from = mask.data_ptr<float>() + row * mask.stride(0) + query * mask.stride(2);
  for (int64_t key = 0; key < mask.size(3); ++key) scratch.mask[key] = from[key * mask.stride(3)];
}

// How probabilities are counted before they weigh values: times `inverse`, rounded, at most `most`; not if that is 0.
struct Counting {
  float inverse, most;
};

// Adds the weights of some rows, each times its share, to what tokens receive; counts them in place if they are counted.
void receive(float* weights, float* shares, int64_t rows, int64_t width, const Counting& counting, float* received) {
  for (int64_t at = 0; at < width; at += kLanes) {
    Vector sum = load(received + at);
    for (int64_t row = 0; row < rows; ++row) {
      Vector share = load(weights + row * width + at) * shares[row];
      sum += share;
      if (counting.most > 0) {
        Vector count = (share * counting.inverse + kShift) - kShift, most = all(counting.most);
        store(weights + row * width + at, count < most ? count : most);
      }
    }
    store(received + at, sum);
  }
  if (counting.most > 0) std::fill_n(shares, rows, 1.0f);
}

// One head: its context into `out`, whose tokens are `apart`, and what each of its tokens receives into `received`.
void attend_head(const Heads& query, const Heads& key, const Heads& value, const Tensor& mask, float scaling,
                 const Counting& counting, int64_t index, Scratch& scratch, float* out, int64_t apart, float* received) {
  const int64_t width = scratch.width, depth = query.depth;
  const bool one_mask = mask.size(2) == 1;
  pack(key, value, index, scratch);
  if (one_mask) mask_of(mask, index / query.heads, 0, scratch);
  for (int64_t first = 0; first < query.length; first += kBlock) {
    const int64_t count = std::min(kBlock, query.length - first);
    for (int64_t row = 0; row < kBlock; ++row) {  // what a last block lacks is computed of its last query
      const float* from = query.at(index, first + std::min(row, count - 1));
      for (int64_t d = 0; d < depth; ++d) scratch.queries[row * depth + d] = from[d] * scaling;
    }
    for (int64_t panel = 0; panel < width; panel += kPanel)
      for (int64_t half = 0; half < kBlock; half += kHalf)
        multiply_keys(scratch.queries.data() + half * depth, scratch.keys.data() + panel * depth, depth, width,
                      scratch.scores.data() + half * width + panel);
    float shares[kBlock] = {};
    for (int64_t row = 0; row < count; ++row) {
      if (!one_mask) mask_of(mask, index / query.heads, first + row, scratch);
      shares[row] = weigh(scratch.scores.data() + row * width, scratch.mask.data(), width);
    }
    receive(scratch.scores.data(), shares, count, width, counting, received);
    for (int64_t d = 0; d < scratch.deep; d += 2 * kLanes)
      multiply_values(scratch.scores.data(), scratch.values.data() + d, width, key.length, scratch.deep, shares,
                      scratch.gathered.data() + d);
    for (int64_t row = 0; row < count; ++row)
      std::memcpy(out + (first + row) * apart, scratch.gathered.data() + row * scratch.deep, depth * sizeof(float));
  }
}

void check(const char* name, const Tensor& tensor, at::IntArrayRef sizes) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.layout() == at::kStrided && tensor.scalar_type() == at::kFloat,
              "attention takes dense fp32 on the CPU, but its ", name, " is ", tensor.toString());
  TORCH_CHECK(tensor.sizes() == sizes, "attention takes a ", name, " of ", sizes, ", not of ", tensor.sizes());
}

Tensor dense(const Tensor& tensor) { return tensor.stride(3) == 1 ? tensor : tensor.contiguous(); }

std::tuple<Tensor, Tensor> attend(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
                                  double scaling, double inverse, double most) {
  TORCH_CHECK(query.dim() == 4 && mask.dim() == 4, "attention takes a query and a mask of four dimensions, not of ",
              query.dim(), " and ", mask.dim());
  TORCH_CHECK(query.numel() > 0, "attention takes rows, heads, tokens and values, not a query of ", query.sizes());
  const int64_t rows = query.size(0), heads = query.size(1), length = query.size(2), depth = query.size(3);
  check("query", query, query.sizes());
  check("key", key, query.sizes());
  check("value", value, query.sizes());
  check("mask", mask, {mask.size(0) == 1 ? 1 : rows, 1, mask.size(2) == 1 ? 1 : length, length});
  const Tensor left = dense(query), right = dense(key), held = dense(value), masks = mask.expand({rows, 1, mask.size(2), length});
  const Heads q(left), k(right), v(held);
  Tensor context = at::empty({rows, length, heads * depth}, query.options()), received = at::empty({rows, length}, query.options());
  const int64_t width = round_up(length, kPanel);
  std::vector<float> sums(rows * heads * width);
  float* out = context.data_ptr<float>();
  const Counting counting{static_cast<float>(inverse), static_cast<float>(most)};
  at::parallel_for(0, rows * heads, 1, [&](int64_t first, int64_t last) {
    Scratch scratch(length, depth);
    for (int64_t index = first; index < last; ++index) {
      float* to = out + index / heads * length * heads * depth + index % heads * depth;
      attend_head(q, k, v, masks, static_cast<float>(scaling), counting, index, scratch, to, heads * depth,
                  sums.data() + index * width);
    }
  });
  float* told = received.data_ptr<float>();  // head by head, so that no number of threads changes a sum
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t token = 0; token < length; ++token) {
      float sum = 0;
      for (int64_t head = 0; head < heads; ++head) sum += sums[(row * heads + head) * width + token];
      told[row * length + token] = sum;
    }
  return {context.view({rows, length, heads, depth}).transpose(1, 2), received};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(neuronbert, m) {
  m.def(
      "attend(Tensor query, Tensor key, Tensor value, Tensor mask, float scaling, float inverse, float most) -> (Tensor, Tensor)",
      &attend);
}
