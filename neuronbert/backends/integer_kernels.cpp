// The steps of an integer encoder (integers/steps.py) as fused loops: the same integers, in fewer passes over memory.
//
// Every operator checks the shapes and types that it is given: a program file may be anybody's.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_int_mm.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

namespace {

using at::Tensor;

constexpr int64_t kRows = 128;       // Rows of a product at a time, so that its sums stay in the cache.
constexpr int64_t kLanes = 16;       // int32 in a register.
constexpr int64_t kGroup = 4;        // Bytes that one instruction adds into a sum.
constexpr int64_t kLongest = 1 << 16;  // Sums of so many products of an unsigned and a signed byte have 31 bits.

void check(const Tensor& tensor, at::ScalarType type, at::IntArrayRef sizes) {
  TORCH_CHECK(tensor.scalar_type() == type && tensor.sizes() == sizes, "an integer step was given another tensor than it takes");
}

void check_by(const Tensor& by, int64_t columns) {
  check(by, at::kLong, {3, columns});
  TORCH_CHECK(by.is_contiguous(), "a dyadic ratio must be contiguous");
}

struct Dyadic {
  const int64_t *multiplier, *half, *shift;
  explicit Dyadic(const Tensor& by)
      : multiplier(by.data_ptr<int64_t>()), half(multiplier + by.size(1)), shift(half + by.size(1)) {}
};

// The sum as 32 bits have it, as torch's has: of a program's own weights it never has more.
inline int64_t plus(int32_t sum, int32_t added) {
  return static_cast<int32_t>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(added));
}

// The loops below are written for the compiler to vectorize: no calls, no branches, pointers that don't overlap.
#define ALONE __restrict__

void narrow_row(const int32_t* ALONE sums, const int32_t* ALONE added, int64_t columns, const Dyadic& by, int8_t* ALONE out) {
  const int64_t *ALONE multiplier = by.multiplier, *ALONE half = by.half, *ALONE shift = by.shift;
  for (int64_t c = 0; c < columns; ++c) {
    int64_t value = (plus(sums[c], added[c]) * multiplier[c] + half[c]) >> (shift[c] & 63);
    value = value < -128 ? -128 : value;
    out[c] = static_cast<int8_t>(value > 127 ? 127 : value);
  }
}

void narrow_by(const int32_t* ALONE sums, int64_t columns, int64_t multiplier, int64_t half, int64_t shift, int8_t* ALONE out) {
  for (int64_t c = 0; c < columns; ++c) {
    int64_t value = (sums[c] * multiplier + half) >> shift;
    value = value < -128 ? -128 : value;
    out[c] = static_cast<int8_t>(value > 127 ? 127 : value);
  }
}

void gelu_row(const int32_t* ALONE sums, const int32_t* ALONE added, int64_t columns, const int64_t* ALONE constants,
              const Dyadic& by, int8_t* ALONE out) {
  const int64_t *ALONE multiplier = by.multiplier, *ALONE half = by.half, *ALONE shift = by.shift;
  const int64_t *ALONE b = constants, *ALONE c_ = constants + columns, *ALONE one = constants + 2 * columns;
  for (int64_t c = 0; c < columns; ++c) {
    int64_t value = plus(sums[c], added[c]);
    int64_t size = value < 0 ? -value : value;
    int64_t beyond = (size < b[c] ? size : b[c]) - b[c];
    int64_t erf = beyond * beyond + c_[c];
    erf = value < 0 ? -erf : erf;
    erf = value == 0 ? 0 : erf;
    int64_t curved = value * ((erf >> 14) + one[c]);
    int64_t narrow = (curved * multiplier[c] + half[c]) >> (shift[c] & 63);
    narrow = narrow < -128 ? -128 : narrow;
    out[c] = static_cast<int8_t>(narrow > 127 ? 127 : narrow);
  }
}

// Runs `finish(row of the sums, row)` on every row of hidden times weight, a block of rows at a time.
template <typename F>
void products(const Tensor& hidden, const Tensor& weight, const Tensor& bias, const F& finish) {
  int64_t width = hidden.size(-1), columns = weight.size(0);
  TORCH_CHECK(hidden.dim() == 3, "hidden states have three dimensions");
  check(hidden, at::kChar, hidden.sizes());
  check(weight, at::kChar, {columns, width});
  check(bias, at::kInt, {columns});
  Tensor flat = hidden.reshape({-1, width}), across = weight.t();
  for (int64_t start = 0; start < flat.size(0); start += kRows) {
    int64_t rows = std::min(kRows, flat.size(0) - start);
    Tensor sums = at::_int_mm(flat.narrow(0, start, rows), across).contiguous();
    const int32_t* held = sums.data_ptr<int32_t>();
    at::parallel_for(0, rows, 8, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) finish(held + row * columns, start + row);
    });
  }
}

Tensor like(const Tensor& hidden, int64_t columns, at::ScalarType type = at::kChar) {
  return at::empty({hidden.size(0), hidden.size(1), columns}, hidden.options().dtype(type));
}

Tensor linear(const Tensor& hidden, const Tensor& weight, const Tensor& bias, const Tensor& by) {
  int64_t columns = weight.size(0);
  check_by(by, columns);
  TORCH_CHECK(bias.is_contiguous() && hidden.dim() == 3);
  Tensor result = like(hidden, columns);
  int8_t* out = result.data_ptr<int8_t>();
  Dyadic ratio(by);
  products(hidden, weight, bias, [&, added = bias.data_ptr<int32_t>()](const int32_t* sums, int64_t row) {
    narrow_row(sums, added, columns, ratio, out + row * columns);
  });
  return result;
}

Tensor gelu(const Tensor& hidden, const Tensor& weight, const Tensor& bias, const Tensor& constants, const Tensor& by) {
  int64_t columns = weight.size(0);
  check_by(by, columns);
  check_by(constants, columns);
  TORCH_CHECK(bias.is_contiguous() && hidden.dim() == 3);
  Tensor result = like(hidden, columns);
  int8_t* out = result.data_ptr<int8_t>();
  Dyadic ratio(by);
  const int64_t* numbers = constants.data_ptr<int64_t>();
  products(hidden, weight, bias, [&, added = bias.data_ptr<int32_t>()](const int32_t* sums, int64_t row) {
    gelu_row(sums, added, columns, numbers, ratio, out + row * columns);
  });
  return result;
}

// The square root, rounded down; at least 1.
int64_t root(int64_t number) {
  if (number <= 1) return 1;
  int64_t guess = static_cast<int64_t>(__builtin_sqrt(static_cast<double>(number)));
  while (guess > number / guess) --guess;
  while (guess + 1 <= number / (guess + 1)) ++guess;
  return guess;
}

int64_t floor_div(int64_t value, int64_t by) { return value / by - (value % by < 0); }

void norm_row(const int32_t* ALONE values, int64_t width, const int64_t* ALONE bias, int64_t deep, const Dyadic& by,
              int8_t* ALONE out) {
  int64_t total = 0, squares = 0;
  for (int64_t c = 0; c < width; ++c) total += values[c];
  const int64_t mean = floor_div(total * 2 + width, 2 * width);
  for (int64_t c = 0; c < width; ++c) {
    int64_t shifted = (values[c] - mean) >> deep;
    squares += shifted * shifted;
  }
  const int64_t deviation = root(squares) << deep, factor = (int64_t{1} << 31) / (deviation > 0 ? deviation : 1);
  const int64_t *ALONE multiplier = by.multiplier, *ALONE half = by.half, *ALONE shift = by.shift;
  for (int64_t c = 0; c < width; ++c) {
    int64_t normal = (((values[c] - mean) * factor) >> 1) + bias[c];
    normal = (normal * multiplier[c] + half[c]) >> (shift[c] & 63);
    normal = normal < -128 ? -128 : normal;
    out[c] = static_cast<int8_t>(normal > 127 ? 127 : normal);
  }
}

void add_row(const int32_t* ALONE sums, const int32_t* ALONE added, const int8_t* ALONE residual, int64_t columns,
             const Dyadic& by, const Dyadic& by_residual, int32_t* ALONE out) {
  const int64_t *ALONE multiplier = by.multiplier, *ALONE half = by.half, *ALONE shift = by.shift;
  const int64_t times = by_residual.multiplier[0], middle = by_residual.half[0], down = by_residual.shift[0] & 63;
  const int64_t most = int64_t{1} << 40, top = (1 << 21) - 1;
  for (int64_t c = 0; c < columns; ++c) {
    int64_t value = (plus(sums[c], added[c]) * multiplier[c] + half[c]) >> (shift[c] & 63);
    value = value < -most ? -most : value;
    value = value > most ? most : value;
    int64_t beside = (residual[c] * times + middle) >> down;
    beside = beside < -most ? -most : beside;
    value += beside > most ? most : beside;
    value = value < -top - 1 ? -top - 1 : value;
    out[c] = static_cast<int32_t>(value > top ? top : value);
  }
}

void check_norm(const Tensor& bias, int64_t shift, const Tensor& by, int64_t columns) {
  check(bias, at::kLong, {columns});
  check_by(by, columns);
  TORCH_CHECK(bias.is_contiguous() && shift >= 0 && shift < 32 && columns > 0, "a LayerNorm's numbers are out of range");
}

Tensor norm(const Tensor& values, const Tensor& bias, int64_t shift, const Tensor& by) {
  TORCH_CHECK(values.dim() == 3, "hidden states have three dimensions");
  int64_t columns = values.size(2);
  check(values, at::kInt, values.sizes());
  check_norm(bias, shift, by, columns);
  Tensor given = values.contiguous(), result = like(given, columns);
  const int32_t* from = given.data_ptr<int32_t>();
  int8_t* out = result.data_ptr<int8_t>();
  Dyadic ratio(by);
  at::parallel_for(0, values.size(0) * values.size(1), 8, [&, added = bias.data_ptr<int64_t>()](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      norm_row(from + row * columns, columns, added, shift, ratio, out + row * columns);
  });
  return result;
}

Tensor add_norm(const Tensor& hidden, const Tensor& weight, const Tensor& bias, const Tensor& by_hidden, const Tensor& residual,
                const Tensor& by_residual, const Tensor& norm_bias, int64_t shift, const Tensor& by) {
  int64_t columns = weight.size(0);
  TORCH_CHECK(bias.is_contiguous() && hidden.dim() == 3);
  check(residual, at::kChar, {hidden.size(0), hidden.size(1), columns});
  check_by(by_hidden, columns);
  check_by(by_residual, 1);
  check_norm(norm_bias, shift, by, columns);
  Tensor held = residual.contiguous(), result = like(hidden, columns);
  const int8_t* before = held.data_ptr<int8_t>();
  int8_t* out = result.data_ptr<int8_t>();
  Dyadic of_hidden(by_hidden), of_residual(by_residual), ratio(by);
  const int64_t* norm_added = norm_bias.data_ptr<int64_t>();
  products(hidden, weight, bias, [&, added = bias.data_ptr<int32_t>()](const int32_t* sums, int64_t row) {
    static thread_local std::vector<int32_t> total;
    total.resize(columns);
    add_row(sums, added, before + row * columns, columns, of_hidden, of_residual, total.data());
    norm_row(total.data(), columns, norm_added, shift, ratio, out + row * columns);
  });
  return result;
}

// Sums of products of `groups * 4` unsigned bytes with as many signed ones for each of 16 lanes, for N blocks of lanes.
template <int64_t N>
void dot(const uint8_t* left, const int8_t* packed, int64_t groups, int32_t* sums) {
#ifdef __AVX512VNNI__
  __m512i held[N] = {};
  for (int64_t g = 0; g < groups; ++g) {
    int32_t four;
    std::memcpy(&four, left + g * kGroup, kGroup);
    const __m512i all = _mm512_set1_epi32(four);
    for (int64_t n = 0; n < N; ++n) held[n] = _mm512_dpbusd_epi32(held[n], all, _mm512_loadu_si512(packed + (n * groups + g) * 64));
  }
  for (int64_t n = 0; n < N; ++n) _mm512_storeu_si512(sums + n * kLanes, held[n]);
#else
  int32_t held[N * kLanes] = {};
  for (int64_t n = 0; n < N; ++n)
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t lane = 0; lane < kLanes; ++lane)
        for (int64_t i = 0; i < kGroup; ++i)
          held[n * kLanes + lane] += left[g * kGroup + i] * packed[((n * groups + g) * kLanes + lane) * kGroup + i];
  std::memcpy(sums, held, sizeof(held));
#endif
}

// The same for any number of blocks; several at a time keep the multipliers busy.
void dots(const uint8_t* left, const int8_t* packed, int64_t groups, int64_t lanes, int32_t* sums) {
  const int64_t block = groups * kLanes * kGroup;
  int64_t n = 0;
  for (; n + 8 * kLanes <= lanes; n += 8 * kLanes) dot<8>(left, packed + n / kLanes * block, groups, sums + n);
  for (; n + 4 * kLanes <= lanes; n += 4 * kLanes) dot<4>(left, packed + n / kLanes * block, groups, sums + n);
  for (; n < lanes; n += kLanes) dot<1>(left, packed + n / kLanes * block, groups, sums + n);
}

int64_t up(int64_t number, int64_t to) { return (number + to - 1) / to * to; }

// Softmax of a row of scores; what isn't attended to is the lowest already. The scores are overwritten.
void softmax_row(int32_t* ALONE scores, int64_t width, const int64_t* k, uint8_t* ALONE out) {
  const int64_t coarser = k[0], ln2 = k[1], reciprocal = k[2], b = k[3], c = k[4], multiplier = k[5], shift = k[6], most = k[7];
  int32_t top = scores[0];
  for (int64_t i = 0; i < width; ++i) top = scores[i] > top ? scores[i] : top;
  const int64_t half = (int64_t{1} << coarser) >> 1, deepest = 30 * ln2, first = int64_t{top} + half;
  // A narrower pass first: what is left has 20 bits, whatever the scores.
  if (coarser == 0) {
    for (int64_t i = 0; i < width; ++i) {
      int64_t below = first - scores[i];
      scores[i] = static_cast<int32_t>(below < deepest ? below : deepest);
    }
  } else {
    for (int64_t i = 0; i < width; ++i) {
      int64_t below = (first - scores[i]) >> coarser;
      scores[i] = static_cast<int32_t>(below < deepest ? below : deepest);
    }
  }
  for (int64_t i = 0; i < width; ++i) {
    int64_t below = scores[i];
    int64_t halvings = (below * reciprocal) >> 34;
    int64_t rest = halvings * ln2 - below;
    int64_t by = halvings + shift;
    by = by < 62 ? by : 62;
    int64_t value = ((((rest + b) * rest + c) * multiplier >> (by - 1)) + 1) >> 1;  // half a step up, in two
    scores[i] = static_cast<int32_t>(value < most ? value : most);
  }
  int64_t total = 0;
  for (int64_t i = 0; i < width; ++i) total += scores[i];
  const int64_t factor = (int64_t{1} << 32) / (total > 0 ? total : 1);
  for (int64_t i = 0; i < width; ++i) {
    int64_t share = (scores[i] * factor) >> 24;
    out[i] = static_cast<uint8_t>(share < 255 ? share : 255);
  }
}

void mask_row(int32_t* ALONE scores, const int32_t* ALONE offset, const int32_t* ALONE told, int64_t width) {
  for (int64_t i = 0; i < width; ++i) scores[i] = told[i] ? scores[i] - offset[i] : -2147483647;
}

bool within(int64_t value, int64_t least, int64_t most) { return least <= value && value <= most; }

// With these no product has more than 62 bits, and no shift is negative: what is left of a multiple of ln 2 is below it,
// which takes the reciprocal to be ln 2's.
void check_softmax(at::IntArrayRef k) {
  TORCH_CHECK(k.size() == 8, "a softmax has eight constants");
  TORCH_CHECK(within(k[0], 0, 61) && within(k[1], 1, 1 << 14) && k[2] == (int64_t{1} << 34) / k[1] + 1 &&
                  within(k[3], 0, 1 << 16) && within(k[4], 0, 1 << 30) && within(k[5], 0, int64_t{1} << 31) &&
                  within(k[6], 1, 61) && within(k[7], 0, 32767),
              "its constants are out of range");
}

struct Heads {  // [B, N, S, D], bytes
  Tensor held;
  int64_t rows, heads, length, size;
  explicit Heads(const Tensor& given) : held(given) {
    TORCH_CHECK(given.dim() == 4 && given.scalar_type() == at::kChar && given.stride(3) == 1, "heads have four dimensions");
    rows = given.size(0), heads = given.size(1), length = given.size(2), size = given.size(3);
  }
  const int8_t* at(int64_t index, int64_t token) const {
    return held.data_ptr<int8_t>() + index / heads * held.stride(0) + index % heads * held.stride(1) + token * held.stride(2);
  }
};

Tensor attend(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& attended, at::IntArrayRef constants,
              const Tensor& by) {
  Heads q(query), k(key), v(value);
  TORCH_CHECK(key.sizes() == value.sizes() && q.rows == k.rows && q.heads == k.heads && q.size == k.size, "heads differ");
  TORCH_CHECK(within(k.length, 1, kLongest) && within(k.size, 1, kLongest), "attention is of 1 to 65536 keys, and as many columns");
  check_softmax(constants);
  check_by(by, 1);
  TORCH_CHECK(attended.scalar_type() == at::kBool, "a mask of an integer encoder says yes or no");
  Tensor mask = attended.expand({q.rows, q.heads, q.length, k.length});
  bool one_row = mask.stride(2) == 0;
  const int64_t keys = up(k.length, kLanes), deep = up(q.size, kGroup), sums = up(k.length, kGroup), wide = up(v.size, kLanes);
  Tensor result = at::empty({q.rows, q.length, q.heads * v.size}, query.options());
  int8_t* out = result.data_ptr<int8_t>();
  Dyadic ratio(by);
  at::parallel_for(0, q.rows * q.heads, 1, [&](int64_t first, int64_t last) {
    std::vector<int8_t> packed_keys(keys * deep), packed_values(sums * wide);
    std::vector<int32_t> offset(keys), scores(keys), told(keys), gathered(wide);
    std::vector<uint8_t> left(deep), shares(sums);
    for (int64_t index = first; index < last; ++index) {
      std::fill(packed_keys.begin(), packed_keys.end(), 0);
      std::fill(packed_values.begin(), packed_values.end(), 0);
      for (int64_t token = 0; token < k.length; ++token) {
        const int8_t *of_key = k.at(index, token), *of_value = v.at(index, token);
        int32_t sum = 0;
        int8_t* to = packed_keys.data() + token / kLanes * kLanes * deep + token % kLanes * kGroup;
        for (int64_t d = 0; d < k.size; ++d) {
          to[d / kGroup * kLanes * kGroup + d % kGroup] = of_key[d];
          sum += of_key[d];
        }
        offset[token] = 128 * sum;  // Queries are made unsigned by 128 more.
        to = packed_values.data() + token / kGroup * kLanes * kGroup + token % kGroup;
        for (int64_t d = 0; d < v.size; ++d) to[d / kLanes * kLanes * sums + d % kLanes * kGroup] = of_value[d];
      }
      const bool* row_mask = mask.data_ptr<bool>() + index / q.heads * mask.stride(0) + index % q.heads * mask.stride(1);
      for (int64_t token = 0; token < q.length; ++token) {
        if (token == 0 || !one_row)
          for (int64_t i = 0; i < k.length; ++i) told[i] = row_mask[token * mask.stride(2) + i * mask.stride(3)];
        const int8_t* of_query = q.at(index, token);
        for (int64_t d = 0; d < q.size; ++d) left[d] = static_cast<uint8_t>(of_query[d] + 128);
        dots(left.data(), packed_keys.data(), deep / kGroup, keys, scores.data());
        mask_row(scores.data(), offset.data(), told.data(), k.length);
        softmax_row(scores.data(), k.length, constants.data(), shares.data());
        dots(shares.data(), packed_values.data(), sums / kGroup, wide, gathered.data());
        int8_t* to = out + ((index / q.heads * q.length + token) * q.heads + index % q.heads) * v.size;
        narrow_by(gathered.data(), v.size, ratio.multiplier[0], ratio.half[0], ratio.shift[0] & 63, to);
      }
    }
  });
  return result;
}

}  // namespace

TORCH_LIBRARY(neuronbert, m) {
  m.def("ibert_linear(Tensor hidden, Tensor weight, Tensor bias, Tensor by) -> Tensor", &linear);
  m.def("ibert_gelu(Tensor hidden, Tensor weight, Tensor bias, Tensor constants, Tensor by) -> Tensor", &gelu);
  m.def("ibert_norm(Tensor values, Tensor bias, int shift, Tensor by) -> Tensor", &norm);
  m.def(
      "ibert_add_norm(Tensor hidden, Tensor weight, Tensor bias, Tensor by_hidden, Tensor residual, Tensor by_residual, "
      "Tensor norm_bias, int shift, Tensor by) -> Tensor",
      &add_norm);
  m.def("ibert_attend(Tensor query, Tensor key, Tensor value, Tensor attended, int[] constants, Tensor by) -> Tensor", &attend);
}
