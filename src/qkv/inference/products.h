// Products of a few rows with a packed weight matrix: y = f(x W^T + b), for 1 to 16 rows of x.
//
// There, reading W from memory takes the time. So weights are stored as float32, bfloat16, int8 or
// int4, and expanded in registers; activations stay float32, so that the result is that of the
// expanded weights. No intrinsics: the compiler makes vectors of it.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

using torch::stable::Tensor;
using Index = int64_t;

// ---- A vector of L numbers, as wide as the processor's registers ---------------------------------

#if defined(__AVX512F__)
constexpr Index L = 16;
#else
constexpr Index L = 8;
#endif

static float single(float x) { return x; }
static float single(int8_t x) { return x; }
static float single(uint16_t x) {  // bfloat16 is the upper half of a float32
  const uint32_t bits = uint32_t(x) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}

#if defined(__GNUC__) && !defined(QKV_PLAIN)
template <class T, Index N = L>
struct Vector {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T>
static auto load(const T* p) {
  typename Vector<T>::type x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
// There is one instruction for each doubling of the width, and GCC finds it only step by step.
#define WIDEN(x, T) __builtin_convertvector(x, Vector<T>::type)
using Floats = Vector<float>::type;
static Floats floats(const float* p) { return load(p); }
static Floats floats(const int8_t* p) { return WIDEN(WIDEN(WIDEN(load(p), int16_t), int32_t), float); }
static Floats floats(const uint16_t* p) {
  const auto bits = WIDEN(load(p), uint32_t) << 16;
  Floats x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
static void nibbles(const uint8_t* p, Floats& low, Floats& high) {
  const auto bits = WIDEN(WIDEN(load(p), uint16_t), int32_t);
  low = WIDEN(bits & 15, float), high = WIDEN(bits >> 4, float);
}
static void prefetch(const void* p) { __builtin_prefetch(p); }
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && __has_builtin(__builtin_shufflevector)
#define QKV_WORDS
#endif
#else  // any other compiler: loops
struct Floats {
  float at[L] = {};
  float operator[](Index i) const { return at[i]; }
};
template <class F>
static Floats each(F f) {
  Floats x;
  for (Index i = 0; i < L; ++i) x.at[i] = f(i);
  return x;
}
static Floats operator*(const Floats& a, const Floats& b) { return each([&](Index i) { return a[i] * b[i]; }); }
static Floats operator*(const Floats& a, float b) { return each([&](Index i) { return a[i] * b; }); }
static Floats operator+(const Floats& a, float b) { return each([&](Index i) { return a[i] + b; }); }
static void operator+=(Floats& a, const Floats& b) { a = each([&](Index i) { return a[i] + b[i]; }); }
template <class T>
static Floats floats(const T* p) { return each([&](Index i) { return single(p[i]); }); }
static void nibbles(const uint8_t* p, Floats& low, Floats& high) {
  low = each([&](Index i) { return float(p[i] & 15); }), high = each([&](Index i) { return float(p[i] >> 4); });
}
static void prefetch(const void*) {}
#endif

static float sum(const Floats& x) {
  float each[L], total = 0;
  std::memcpy(each, &x, sizeof each);
  for (Index i = 0; i < L; ++i) total += each[i];
  return total;
}

// max|x|, NaN if one is: as integers, the bits of positive floats have the same order.
static float largest(const float* x, Index n) {
  int32_t most = 0;
  for (Index i = 0; i < n; ++i) {
    int32_t bits;
    std::memcpy(&bits, x + i, 4);
    most = std::max(most, bits & 0x7fffffff);
  }
  float y;
  std::memcpy(&y, &most, 4);
  return y;
}

static float dot(const float* a, const float* b, Index n) {
  float total = 0;
  for (Index i = 0; i < n; ++i) total += a[i] * b[i];
  return total;
}

// ---- Weights: every kind expands GROUP columns of a row at a time -------------------------------

constexpr Index GROUP = 32, LANES = GROUP / L, MOST_GROUPS = 1024;

template <class T>
struct Plain {  // float32, bfloat16, int8 with a scale per row
  const T* weight;
  const float* scales;
  Index k;
  void prepare(Index, float*) const {}
  void expand(Index row, Index i, const float*, Floats* out) const {
    const T* p = weight + row * k + i;
    for (Index u = 0; u < LANES; ++u) prefetch(p + 4 * k + u * L), out[u] = floats(p + u * L);
  }
  float value(Index row, Index i) const { return single(weight[row * k + i]); }
  float factor(Index row) const { return scales ? scales[row] : 1; }
};

static void halves(const uint16_t* p, Index n, float* out) {  // float16 to float32, exactly
  for (Index i = 0; i < n; ++i) {
    uint32_t bits = uint32_t(p[i] & 0x7fff) << 13;
    std::memcpy(out + i, &bits, 4);
    out[i] *= 0x1p112f;
    std::memcpy(&bits, out + i, 4);
    bits |= uint32_t(p[i] & 0x8000) << 16;  // without a branch on the sign, which nobody can foresee
    std::memcpy(out + i, &bits, 4);
  }
}

struct Groups8 {  // Q8_0 of GGUF: a scale for each group
  const int8_t* weight;
  const uint16_t* scales;  // (n, k / GROUP)
  Index k;
  void prepare(Index row, float* groups) const { halves(scales + row * (k / GROUP), k / GROUP, groups); }
  void expand(Index row, Index i, const float* groups, Floats* out) const {
    const int8_t* p = weight + row * k + i;
    prefetch(p + 4 * k);
    for (Index u = 0; u < LANES; ++u) out[u] = floats(p + u * L) * groups[i / GROUP];
  }
  float value(Index, Index) const { return 0; }  // k is a multiple of GROUP
  float factor(Index) const { return 1; }
};

struct Groups4 {  // Q4_1 of GGUF: four bits times a scale, plus a minimum
  const uint8_t* weight;   // (n, k / 2): the first half of each group in the lower bits
  const uint16_t* scales;  // (n, 2, k / GROUP)
  Index k;
  void prepare(Index row, float* groups) const { halves(scales + row * 2 * (k / GROUP), 2 * (k / GROUP), groups); }
  void expand(Index row, Index i, const float* groups, Floats* out) const {
    const float scale = groups[i / GROUP], minimum = groups[(k + i) / GROUP];
    const uint8_t* p = weight + (row * k + i) / 2;
    prefetch(p + 2 * k);
    for (Index u = 0; u < LANES / 2; ++u) {
      Floats &low = out[u], &high = out[u + LANES / 2];
      nibbles(p + u * L, low, high);
      low = low * scale + minimum, high = high * scale + minimum;
    }
  }
  float value(Index, Index) const { return 0; }
  float factor(Index) const { return 1; }
};

// ---- y = f(x W^T + b) ---------------------------------------------------------------------------

enum Kind : Index { FLOAT32, BFLOAT16, INT8, GROUPS8, GROUPS4 };
enum Activation : Index { NONE, RELU, GELU, GELU_TANH, SILU };

// e^x without a branch, so that the compiler vectorizes loops of it: 2^n times a series in |r| <= log(2) / 2.
static float exponential(float x) {
  x = x < -87.f ? -87.f : x > 88.f ? 88.f : x;  // NaN stays
  const float n = std::nearbyint(x * 1.44269504f), r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const float series = 1 + r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f + r * (1 / 720.f))))));
  const uint32_t bits = uint32_t(int32_t(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return series * power;
}

// x * Phi(x) = x / 2 * erfc(-x / sqrt(2)); erfc by Press et al., Numerical Recipes in C, 2nd ed., section 6.2, to 1.2e-7 of it.
static float gelu(float x) {
  const float z = 0.70710678f * std::fabs(x), t = 1 / (1 + z / 2);
  const float series = -1.26551223f + t * (1.00002368f + t * (0.37409196f + t * (0.09678418f + t * (-0.18628806f
      + t * (0.27886807f + t * (-1.13520398f + t * (1.48851587f + t * (-0.82215223f + t * 0.17087277f))))))));
  const float half = t * exponential(series - z * z) / 2;
  return x * (x > 0 ? 1 - half : half);
}

static void activate(Activation kind, float* x, Index n) {
  const auto each = [=](auto f) {
    for (Index i = 0; i < n; ++i) x[i] = f(x[i]);
  };
  switch (kind) {
    case RELU: return each([](float x) { return x < 0 ? 0 : x; });  // NaN stays
    case GELU: return each(gelu);
    case GELU_TANH:
      return each([](float x) { return x / (1 + exponential(-1.5957691216057308f * (x + 0.044715f * x * x * x))); });
    case SILU: return each([](float x) { return x / (1 + exponential(-x)); });
    case NONE: return;
  }
}

// The dot products of R rows of x with T rows of W: W is read once.
template <class W>
struct InFloats {
  static constexpr Index MOST = 8;  // rows whose sums fit into the registers
  W w;
  const float* x;
  template <Index R, Index T>
  void dots(const Index* at, Index first, float sums[R][T]) const {
    float groups[T][2 * MOST_GROUPS];
    for (Index t = 0; t < T; ++t) w.prepare(at[t], groups[t]);
    const float* rows = x + first * w.k;
    constexpr Index SUMS = R * T <= 4 ? LANES : 1;  // per product, since each addition waits for the one before it
    Floats total[R][T][SUMS] = {};
    Index i = 0;
    for (; i + GROUP <= w.k; i += GROUP)
      for (Index t = 0; t < T; ++t) {
        Floats expanded[LANES];
        w.expand(at[t], i, groups[t], expanded);
        for (Index r = 0; r < R; ++r)
          for (Index u = 0; u < LANES; ++u) total[r][t][u % SUMS] += expanded[u] * floats(rows + r * w.k + i + u * L);
      }
    for (Index r = 0; r < R; ++r)
      for (Index t = 0; t < T; ++t) {
        float rest = 0;
        for (Index u = 0; u < SUMS; ++u) rest += sum(total[r][t][u]);
        for (Index j = i; j < w.k; ++j) rest += w.value(at[t], j) * rows[r * w.k + j];
        sums[r][t] = rest * w.factor(at[t]);
      }
  }
};

// Whether no number of a row is so large that the bits of others would be lost beside it.
constexpr float LARGEST = 64;  // times the mean of the others
static bool balanced(const float* x, Index k, float most) {
  float total = 0;
  for (Index i = 0; i < k; ++i) total += std::fabs(x[i]);
  return most == 0 || (most * float(k - 1) <= LARGEST * (total - most) && most > 1e-30f);  // false for NaN
}

// int8 by integers, four times as fast: x = step * (high + low / 8192), two numbers of 13 bits. That
// is as exact as float32, unless a number is so large beside the others that their bits are lost.
struct InIntegers {
  static constexpr Index MOST = 4;
  static constexpr Index CHUNK = 4096;  // 127 * 4096 * CHUNK < 2^31
  const int8_t* weight;
  const float* scales;  // (n,)
  Index k;
  bool exact = true;
  std::vector<int16_t> high, low;
  std::vector<float> steps;

  InIntegers(const int8_t* weight, const float* scales, Index k, const float* x, Index rows)
      : weight(weight), scales(scales), k(k), high(rows * k), low(rows * k), steps(rows) {
    for (Index r = 0; r < rows && exact; ++r, x += k) {
      const float most = largest(x, k);
      exact = balanced(x, k, most);
      steps[r] = most / 4095;
      const float inverse = most > 0 ? 4095 / most : 0;
      for (Index i = 0; i < k && exact; ++i) {
        const float scaled = x[i] * inverse, whole = std::nearbyint(scaled);
        high[r * k + i] = int16_t(int32_t(whole));
        low[r * k + i] = int16_t(int32_t(std::nearbyint((scaled - whole) * 8192)));
      }
    }
  }
  template <Index R, Index T>
  void dots(const Index* at, Index first, float sums[R][T]) const {
    const int16_t *rows = high.data() + first * k, *rests = low.data() + first * k;
    const int8_t* w[T];
    double total[R][T] = {};
    for (Index t = 0; t < T; ++t) {
      w[t] = weight + at[t] * k;
      for (Index i = 0; i < k; i += 64) prefetch(w[t] + T * k + i);
    }
    for (Index from = 0; from < k; from += CHUNK) {
      const Index to = std::min(k, from + CHUNK);
      int32_t a[R][T] = {}, b[R][T] = {};
      for (Index i = from; i < to; ++i)
        for (Index r = 0; r < R; ++r)
          for (Index t = 0; t < T; ++t) {
            a[r][t] += int32_t(rows[r * k + i]) * int32_t(int16_t(w[t][i]));
            b[r][t] += int32_t(rests[r * k + i]) * int32_t(int16_t(w[t][i]));
          }
      for (Index r = 0; r < R; ++r)
        for (Index t = 0; t < T; ++t) total[r][t] += a[r][t] + b[r][t] / 8192.;
    }
    for (Index r = 0; r < R; ++r)
      for (Index t = 0; t < T; ++t) sums[r][t] = float(total[r][t] * steps[first + r] * scales[at[t]]);
  }
};

#ifdef QKV_WORDS
#include "words.h"
#endif

constexpr Index TILE = 16;  // rows of W that stay in the cache for all rows of x

// R rows of x, all of W's rows in [from, to), at most TILE. Gated: row j and row n + j give
// f(gate) * up. For one or two rows of x, the rows of W come one after another, as memory gives them fastest.
template <Index R, class W>
static void outputs(const W& w, const float* bias, Activation f, bool gated, Index n, Index first, float* y,
                    Index from, Index to) {
  constexpr Index T = R <= 2 ? 1 : 2;
  float values[2][R][TILE];
  for (Index half = 0; half <= gated; ++half)
    for (Index j = 0; from + j < to; j += T) {
      const Index at[2] = {half * n + from + j, half * n + std::min(from + j + 1, to - 1)};
      float sums[R][T];
      w.template dots<R, T>(at, first, sums);
      for (Index t = 0; t < T && from + j + t < to; ++t)
        for (Index r = 0; r < R; ++r) values[half][r][j + t] = sums[r][t] + (bias ? bias[at[t]] : 0.f);
    }
  for (Index r = 0; r < R; ++r) {
    activate(f, values[0][r], to - from);
    for (Index j = 0; from + j < to; ++j) y[(first + r) * n + from + j] = values[0][r][j] * (gated ? values[1][r][j] : 1.f);
  }
}

struct Linear {
  const void *weight, *scales;
  const float* bias;
  Kind kind;
  Index n, k;  // the output is half as wide if it is gated

  template <class W>
  void run(const W& w, Index rows, float* y, Activation f, bool gated) const {
    const Index width = gated ? n / 2 : n, grain = std::max<Index>(4, (1 << 15) / std::max<Index>(1, k * rows));
    torch::stable::parallel_for(0, width, grain, [&](Index from, Index to) {
      for (Index j = from; j < to; j += TILE)
        for (Index r = 0; r < rows;) {
          const Index end = std::min(j + TILE, to), left = rows - r;
          const auto some = [&](auto outputs, Index count) {
            outputs(w, bias, f, gated, width, r, y, j, end);
            r += count;
          };
          if (W::MOST == 8 && left >= 8) some(outputs<W::MOST, W>, 8);
          else if (W::MOST >= 4 && left >= 4) some(outputs<std::min<Index>(4, W::MOST), W>, 4);
          else if (left >= 2) some(outputs<2, W>, 2);
          else some(outputs<1, W>, 1);
        }
    });
  }
  void operator()(const float* x, Index rows, float* y, Activation f = NONE, bool gated = false) const {
    switch (kind) {
      case FLOAT32: return run(InFloats<Plain<float>>{{(const float*)weight, nullptr, k}, x}, rows, y, f, gated);
      case BFLOAT16: return run(InFloats<Plain<uint16_t>>{{(const uint16_t*)weight, nullptr, k}, x}, rows, y, f, gated);
      case INT8: {
        const auto *integers = (const int8_t*)weight;
        const auto *factors = (const float*)scales;
        if (const InIntegers w(integers, factors, k, x, rows); w.exact) return run(w, rows, y, f, gated);
        return run(InFloats<Plain<int8_t>>{{integers, factors, k}, x}, rows, y, f, gated);
      }
      case GROUPS8: return run(InFloats<Groups8>{{(const int8_t*)weight, (const uint16_t*)scales, k}, x}, rows, y, f, gated);
      case GROUPS4: {
        const auto *words = (const uint8_t*)weight;
        const auto *factors = (const uint16_t*)scales;
#ifdef QKV_WORDS
        if (rows <= InWords::MOST)
          if (const InWords w({words, factors, k}, n, x, rows); w.exact) return run(w, rows, y, f, gated);
#endif
        return run(InFloats<Groups4>{{words, factors, k}, x}, rows, y, f, gated);
      }
    }
  }
};
