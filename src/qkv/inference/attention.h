// Attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, eq. 1), head by head. Included by kernel.cpp.

#pragma once

#include "products.h"

constexpr float INFINITE = std::numeric_limits<float>::infinity();

struct Memory {  // keys and values (batch, groups, length, width), and the mask (batch, length)
  const float *keys, *values;
  const bool* mask;
  Index batch_stride, group_stride, stride, length;
  Index sharing;  // rows of queries that attend to each memory
};

// The largest number. It compares the bits as integers, in the order of the floats, because the compiler vectorizes only
// integer maxima.
static float maximum(const float* x, Index n) {
  const auto ordered = [](int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); };
  int32_t most = std::numeric_limits<int32_t>::min();
  for (Index i = 0; i < n; ++i) {
    int32_t bits;
    std::memcpy(&bits, x + i, 4);
    most = std::max(most, ordered(bits));
  }
  most = ordered(most);
  float y;
  std::memcpy(&y, &most, 4);
  return y;
}

// Replace n scores by their softmax; -infinity marks a masked key. Returns false if all keys are masked.
static bool softmax(float* scores, Index n) {
  const float most = maximum(scores, n);
  float total = 0;
  if (most == -INFINITE) return false;
  for (Index t = 0; t < n; ++t) total += scores[t] = scores[t] == -INFINITE ? 0 : exponential(scores[t] - most);
  for (Index t = 0; t < n; ++t) scores[t] /= total;
  return true;
}

// U vectors of the weighted sums of n values, for R rows of weights.
template <Index R, Index U>
static void add_some(const float* weights, Index width, const float* values, Index stride, Index n, float* y, Index step) {
  Floats sums[R][U] = {};
  for (Index t = 0; t < n; ++t)
    for (Index u = 0; u < U; ++u) {
      const Floats value = floats(values + t * stride + u * L);
      for (Index r = 0; r < R; ++r) sums[r][u] += value * weights[r * width + t];
    }
  for (Index r = 0; r < R; ++r) std::memcpy(y + r * step, sums[r], sizeof sums[r]);
}
// Weights (R, width), values (n, stride), y (R, step), of which d columns count.
template <Index R>
static void add_values(const float* weights, Index width, const float* values, Index stride, Index n, Index d, float* y, Index step) {
  constexpr Index U = R == 1 ? 4 : 2;
  Index i = 0;
  for (; i + U * L <= d; i += U * L) add_some<R, U>(weights, width, values + i, stride, n, y + i, step);
  for (; i + L <= d; i += L) add_some<R, 1>(weights, width, values + i, stride, n, y + i, step);
  for (; i < d; ++i)
    for (Index r = 0; r < R; ++r) {
      float total = 0;
      for (Index t = 0; t < n; ++t) total += weights[r * width + t] * values[t * stride + i];
      y[r * step + i] = total;
    }
}

// One query of one head. A query whose keys are all masked gets zeros.
static void attend(const float* q, const float* keys, const float* values, const bool* mask, Index stride, Index n,
                   Index d, float* scores, float* y) {
  const float scale = 1 / std::sqrt(float(d));
  for (Index t = 0; t < n; ++t) {
    for (Index i = 0; i < d; i += 64 / Index(sizeof(float))) prefetch(values + t * stride + i);  // used next
    scores[t] = !mask || mask[t] ? scale * dot(q, keys + t * stride, d) : -INFINITE;
  }
  const bool any = softmax(scores, n);
  add_values<1>(scores, 0, values, stride, any ? n : 0, d, y, 0);
}

// The same for several queries of one head that see the same keys. The keys are transposed once, so that a vector holds one
// feature of L keys and the dot products need no sums within a vector. MOST queries share what is read.
struct Transposed {
  static constexpr Index MOST = 4;
  Index n, padded, d;
  std::vector<float> keys, allowed, scores;  // (d, padded), (padded,): 0 or -infinity, (MOST, padded)

  Transposed(Index n, Index d)
      : n(n), padded((n + L - 1) / L * L), d(d), keys(d * padded), allowed(padded, -INFINITE), scores(MOST * padded) {}

  void load_keys(const float* from, Index stride, const bool* mask) {
    const float scale = 1 / std::sqrt(float(d));
    for (Index t = 0; t < n; ++t) {
      const bool seen = !mask || mask[t];
      allowed[t] = seen ? 0 : -INFINITE;
      for (Index i = 0; i < d; ++i) keys[i * padded + t] = seen ? scale * from[t * stride + i] : 0;
    }
  }
  void attend(const float* q, Index width, const float* values, Index stride, float* y, Index step) {
    constexpr Index R = MOST;
    for (Index t = 0; t < padded; t += L) {
      Floats sums[R];
      for (Index r = 0; r < R; ++r) sums[r] = floats(&allowed[t]);
      for (Index i = 0; i < d; ++i) {
        const Floats key = floats(&keys[i * padded + t]);
        for (Index r = 0; r < R; ++r) sums[r] += key * q[r * width + i];
      }
      for (Index r = 0; r < R; ++r) std::memcpy(&scores[r * padded + t], &sums[r], sizeof sums[r]);
    }
    bool any = true;  // the same for all
    for (Index r = 0; r < R; ++r) any = softmax(&scores[r * padded], padded);
    add_values<R>(scores.data(), padded, values, stride, any ? n : 0, d, y, step);
  }
};

// Every head of every query; y (batch * n, n_heads, d). Query i of a text sees the keys up to past + i.
struct Attention {
  Index n_heads, n_groups, d, batch, n, past;
  bool causal;

  void operator()(const float* queries, Index width, const Memory& memory, float* y) const {
    const Index per_group = n_heads / n_groups, work = std::max<Index>(1, memory.length * d), length = memory.length;
    const auto place = [&](Index b, Index h) { return b * memory.batch_stride + h / per_group * memory.group_stride; };
    const auto mask = [&](Index b) { return memory.mask ? memory.mask + b * length : nullptr; };
    if (n >= Transposed::MOST && !causal && memory.sharing == 1)
      return torch::stable::parallel_for(0, batch * n_heads, std::max<Index>(1, (1 << 14) / (work * n)), [&](Index from, Index to) {
        Transposed transposed(length, d);
        for (Index i = from; i < to; ++i) {
          const Index b = i / n_heads, h = i % n_heads, at = place(b, h);
          transposed.load_keys(memory.keys + at, memory.stride, mask(b));
          for (Index i = 0; i < n; i += Transposed::MOST) {
            const Index r = b * n + std::min(i, n - Transposed::MOST);  // the last ones are computed with those before them
            transposed.attend(queries + r * width + h * d, width, memory.values + at, memory.stride, y + (r * n_heads + h) * d, n_heads * d);
          }
        }
      });
    torch::stable::parallel_for(0, batch * n * n_heads, std::max<Index>(1, (1 << 14) / work), [&](Index from, Index to) {
      thread_local std::vector<float> scores;
      scores.resize(length);
      for (Index i = from; i < to; ++i) {
        const Index r = i / n_heads, h = i % n_heads, b = r / n / memory.sharing, at = place(b, h);
        attend(queries + r * width + h * d, memory.keys + at, memory.values + at, mask(b), memory.stride,
               causal ? past + r % n + 1 : length, d, scores.data(), y + i * d);
      }
    });
  }
};
