// Products of one or two rows with int4 weights, by whole words. Included by products.h.

#pragma once

using Words = Vector<uint32_t>::type;
static Floats halves(Words bits) {  // float16 to float32, exactly
  Words y = (bits & 0x7fff) << 13;
  Floats x;
  std::memcpy(&x, &y, sizeof x);
  x *= 0x1p112f;
  std::memcpy(&y, &x, sizeof x);
  y |= (bits & 0x8000) << 16;
  std::memcpy(&x, &y, sizeof x);
  return x;
}
static Floats halves(const uint16_t* p) { return halves(WIDEN(load(p), uint32_t)); }
static Floats four_times(const uint16_t* p) {  // each of L / 4 numbers; two are in a word
#if defined(__AVX512F__)
  uint64_t four;
  std::memcpy(&four, p, sizeof four);
  const Words each = (Words)(four - Vector<uint64_t, 8>::type{});
  const Words two = __builtin_shufflevector(each, each, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  return halves(two >> Words{0, 0, 0, 0, 16, 16, 16, 16, 0, 0, 0, 0, 16, 16, 16, 16});
#else
  uint32_t two;
  std::memcpy(&two, p, sizeof two);
  return halves((two - Words{}) >> Words{0, 0, 0, 0, 16, 16, 16, 16});
#endif
}

// int4 for one or two rows, eight numbers of a word at a time. A number is s q + m, so that of each
// group only the sums of q x and of x are needed. A vector of words has L / 4 groups. The nibbles at
// one place of all words meet those numbers of x, laid out so; they stay at their place, and are 16
// or 256 times as large there, for which x is divided.
struct InWords {
  static constexpr Index MOST = 2, STEP = 8 * L;  // columns of a vector of words
  Groups4 w;
  Index groups, steps, tail;
  bool exact = true;
  std::vector<float> ordered, sums;  // (rows, steps, 8, L); of each group (rows, groups, rounded up to L)
  std::vector<uint8_t> last_words;  // whole vectors are read, so that W's rows from `tail` on need room behind them
  std::vector<uint16_t> last_scales;

  InWords(const Groups4& w, Index n, const float* x, Index rows)
      : w(w), groups(w.k / GROUP), steps((w.k + STEP - 1) / STEP), tail(std::max<Index>(0, n - 2 - 16 * L / std::max<Index>(1, w.k))),
        ordered(rows * steps * STEP), sums(rows * padded()), last_words((n - tail) * w.k / 2 + STEP),
        last_scales((n - tail) * 2 * groups + L) {
    std::vector<float> row(steps * STEP);  // of x, then zeros
    for (Index r = 0; r < rows && exact; ++r, x += w.k) {
      exact = balanced(x, w.k, largest(x, w.k));
      std::copy(x, x + w.k, row.begin());
      for (Index g = 0; g < groups; ++g)
        for (Index i = 0; i < GROUP; ++i) sums[r * padded() + g] += row[g * GROUP + i];
      float* out = &ordered[r * steps * STEP];
      for (Index v = 0; v < steps; ++v)
        for (Index place = 0; place < 8; ++place, out += L) {
          const float unit[4] = {1, 1 / 16.f, 1 / 256.f, 1 / 4096.f};
          const float* from = &row[v * STEP + place % 2 * (GROUP / 2) + place / 2];
          for (Index lane = 0; lane < L; ++lane) out[lane] = from[lane / 4 * GROUP + lane % 4 * 4] * unit[place % 4];
        }
    }
    std::memcpy(last_words.data(), w.weight + tail * w.k / 2, (n - tail) * w.k / 2);
    std::memcpy(last_scales.data(), w.scales + tail * 2 * groups, (n - tail) * 4 * groups);
  }
  Index padded() const { return (groups + L - 1) / L * L; }

  template <Index R, Index T>
  void dots(const Index* at, Index first, float result[R][T]) const {
    const uint8_t* words[T];
    const uint16_t* scales[T];
    Floats total[R][T] = {};
    for (Index t = 0; t < T; ++t) {
      const bool last = at[t] >= tail;
      words[t] = (last ? last_words.data() - tail * w.k / 2 : w.weight) + at[t] * w.k / 2;
      scales[t] = (last ? last_scales.data() - tail * 2 * groups : w.scales) + at[t] * 2 * groups;
      for (Index g = 0; g < groups; g += L) {
        const Floats minimum = halves(scales[t] + groups + g);
        for (Index r = 0; r < R; ++r) total[r][t] += minimum * floats(&sums[(first + r) * padded() + g]);
      }
    }
    const float* x = &ordered[first * steps * STEP];
    for (Index v = 0; v < steps; ++v, x += STEP)
      for (Index t = 0; t < T; ++t) {
        prefetch(words[t] + v * STEP / 2 + T * w.k / 2);
        const Words word = load((const uint32_t*)(words[t] + v * STEP / 2)), half[2] = {word, word >> 16};
        Floats part[R] = {};
        for (Index place = 0; place < 8; ++place) {
          const auto q = WIDEN((Vector<int32_t>::type)(half[place / 4] & (15u << place % 4 * 4)), float);
          for (Index r = 0; r < R; ++r) part[r] += q * floats(x + (r * steps * 8 + place) * L);
        }
        const Floats scale = four_times(scales[t] + v * L / 4);
        for (Index r = 0; r < R; ++r) total[r][t] += part[r] * scale;
      }
    for (Index r = 0; r < R; ++r)
      for (Index t = 0; t < T; ++t) result[r][t] = sum(total[r][t]);
  }
};
